"""A survey: rows per task, dataset and level, figures worked out by hand, and its advice."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import refused

from tinyzero import cli
from tinyzero.errors import UserError
from tinyzero.rollouts import Player
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tools import survey
from tinyzero.tools.survey import Figures, Row
from tinyzero.types import Problem, SamplingParams, Split


class Coins(Task):
    """A coin lies "a" three times of four. Two data sets, of which "dark" has no solutions."""

    stop = ()
    levels = (1, 2)

    def __init__(self, level: int = 1) -> None:
        super().__init__()
        self.level = level

    def at(self, level: int) -> "Coins":
        return Coins(level)

    def problem(self, split: Split, index: int) -> Problem:
        dataset = "dark" if index % 3 == 0 else "light"
        fields = {"side": "b" if index % 4 == 0 else "a", "dataset": dataset, "level": self.level}
        return Problem(f"{self.level}:{index}", fields, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return str(problem.fields["level"])

    def reward(self, problem: Problem, text: str) -> bool:
        return text == problem.fields["side"]

    def solution(self, problem: Problem) -> str:
        if problem.fields["dataset"] == "dark":
            raise NoSolution("it is dark")
        return str(problem.fields["side"])

    def describe(self, problem: Problem) -> dict[str, object]:
        return {"dataset": problem.fields["dataset"], "level": problem.fields["level"]}


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


def survey_of(task: Any, levels: Sequence[int] = (), count: int = 8) -> tuple[Player, list[Row]]:
    """At level 1 half of the answers are a, at level 2 all of them."""
    guarded = GuardedTask(task, "coins", {})
    scripted = ScriptedSampler(
        lambda prompt, sample: "a" if prompt == "2" or sample % 2 else "c", encode, decode
    )
    return Player(guarded, scripted, encode, "base"), survey.rows_of(guarded, levels, count)


PARAMS = SamplingParams(max_tokens=4, n=survey.SAMPLES)


def test_there_is_a_row_for_each_dataset_and_level_with_its_own_problems() -> None:
    _, rows = survey_of(Coins())
    keys = [(row.task, row.dataset, row.level) for row in rows]
    assert keys == [("coins", d, level) for level in "12" for d in ("dark", "light")]
    assert all(len({problem.id for problem in row.problems}) == 8 for row in rows)
    _, rows = survey_of(Coins(), levels=[2])
    assert {row.level for row in rows} == {"2"}
    with pytest.raises(UserError, match=r"--levels 3: the levels of coins are 1, 2"):
        survey_of(Coins(), levels=[2, 3])


def test_figures_worked_out_by_hand() -> None:
    player, rows = survey_of(Coins())
    lines = []
    survey.sample_in_time(player, rows, PARAMS, 60, lambda *line: lines.append(line))
    assert lines[-1][:2] == (32, 32)

    figures = {(r.dataset, r.level): survey.figures_of(player, r, 2) for r in rows}
    light = rows[1]
    heads = [problem.fields["side"] == "a" for problem in light.problems]
    share = sum(heads) / 8

    half = figures["light", "1"]
    assert half is not None
    assert (half.problems, half.tokens, half.truncated) == (8, 1, 0)
    assert half.pass_1 == share / 2
    assert half.pass_16 == share
    assert half.majority == share, "always a"
    assert half.majority_answer == "a"
    low, high = half.pass_16_interval
    assert low < share < high

    sure = figures["light", "2"]
    assert sure is not None
    assert (sure.pass_1, sure.signal) == (share, 0), "always right or never"
    dark = figures["dark", "1"]
    assert dark is not None
    assert dark.majority is None, "no solution is known"


def figures(**changes: Any) -> Figures:
    usual = Figures(32, 0.5, (0.4, 0.6), 0.9, (0.8, 1.0), 0.8, 0.1, "a", 10, 0, 1)
    return usual._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "train"),
        ({"majority": 0.7}, "one answer wins"),
        ({"majority": None}, "train"),
        ({"signal": 0.2}, "slow start"),
        ({"signal": 0.05, "pass_1": 0.01}, "too hard"),
        ({"signal": 0.05, "pass_1": 0.99}, "too easy"),
        ({"problems": 3}, "too few to tell"),
    ],
)
def test_advice(changes: dict[str, Any], said: str) -> None:
    assert survey.advice(figures(**changes)) == said
    assert survey.advice(None) == "not reached"


def test_rows_with_most_signal_come_first_and_options_say_what_to_train_on() -> None:
    task = load_task("countdown", {"min_count": 2, "max_count": 4})
    rows = survey.rows_of(task, [], 2)
    assert rows[0].options == {"max_count": 2}
    hard, slow = figures(signal=0.0, pass_1=0.0), figures(signal=0.4)
    chosen = survey.recommended(rows, [slow, figures(), hard])
    assert [row.level for row in chosen] == ["3", "2"]
    assert survey.options_for(task, chosen) == {"curriculum.rule": "threshold"}
    only = survey.options_for(task, chosen[:1])
    assert only == {"task.min_count": 3, "task.max_count": 3}

    mixed = load_task("mixture", {"of": [{"name": "countdown"}, {"name": "sums"}]})
    rows = survey.rows_of(mixed, [3], 2)
    assert [(row.task, row.level) for row in rows] == [("countdown", "3"), ("sums", "")]
    (part,) = survey.options_for(mixed, rows[1:])["task.of"]
    assert part["name"] == "sums"


def test_time_that_is_used_up_is_one_line() -> None:
    player, rows = survey_of(Coins())
    slow: Any = player.sampler
    slow.script = lambda prompt, sample: str(time.sleep(0.01))
    with pytest.raises(UserError, match="no problem was answered"):
        survey.sample_in_time(player, rows, PARAMS, 1e-6)


def test_a_survey_prints_a_table_and_a_command_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "survey.json"
    words = ["survey", "tiny", "--levels", "3", "--problems", "2", "--max-tokens", "24"]
    assert cli.main([*words, "--model.threads", "1", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 problems in" in said
    assert "pass@16" in said
    (row,) = json.loads(out.read_text())["rows"]
    assert row["level"] == "3"
    assert row["problems"] == 2
    assert row["advice"] == "too few to tell"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--levels", "9"], "--levels 9: the levels of countdown are 3"),
        (["--levels", "easy"], "'easy' is not a list of levels: write 2,3"),
        (["--json", "no/such/x.json"], "no/such"),
    ],
)
def test_a_wrong_survey_is_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "survey", "tiny", *options)
