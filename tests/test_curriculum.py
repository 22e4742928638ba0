"""Curricula: levels move by the rules, and a killed run continues at the same level."""

import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import KILLED, TOYS, assert_same
from test_train import config as toy_config

from tinyzero import cli
from tinyzero.config import Config, resolve, to_toml
from tinyzero.curriculum import Curriculum, LevelState, after_step, count_right, levels_of
from tinyzero.errors import UserError
from tinyzero.rollouts import Cursor, Player, Source
from tinyzero.run import glossary, records
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.base import Task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.train import train
from tinyzero.types import Completion, Problem, Reward, Rollout, SamplingParams, Split

THRESHOLD = Curriculum("threshold", up=0.5, down=0.25, window=2)


def test_threshold_worked_out_by_hand() -> None:
    """Two steps decide: 3 of 8 stays, 4 of 8 rises, 2 of 8 falls, and counts begin again."""
    state = after_step(THRESHOLD, LevelState(1.0), 3, right=0, answers=4)
    assert state == LevelState(1.0, right=0, answers=4, steps=1)
    assert after_step(THRESHOLD, state, 3, right=3, answers=4) == LevelState(1.0)
    assert after_step(THRESHOLD, state, 3, right=4, answers=4) == LevelState(2.0)
    assert after_step(THRESHOLD, state, 3, right=2, answers=4) == LevelState(0.0)
    assert after_step(THRESHOLD, state, 3, right=0, answers=0) == state


def test_linear_worked_out_by_hand() -> None:
    """The middle of 0.2 and 0.6 is 0.4: 0.6 moves by 1/4, 0.5 by 1/8, and 0.1 by -1/4."""
    rule = Curriculum("linear", up=0.6, down=0.2, window=4)
    positions = [
        after_step(rule, LevelState(1.0), 2, right, 10).position for right in (10, 6, 5, 4, 1)
    ]
    assert positions == [1.25, 1.25, 1.125, 1.0, 0.75]
    assert after_step(rule, LevelState(1.9), 2, 10, 10).position == 2.0


@settings(deadline=None)
@given(
    st.sampled_from(["threshold", "linear"]),
    st.integers(1, 5),
    st.lists(st.integers(0, 10), max_size=40),
)
def test_a_position_never_leaves_the_levels_and_fills_every_batch(
    rule: Any, highest: int, rights: list[int]
) -> None:
    state, levels = LevelState(), list(range(10, 11 + highest))
    for right in rights:
        state = after_step(Curriculum(rule, window=2), state, highest, right, 10)
        assert 0 <= state.position <= highest
        drawn = levels_of(levels, state.position, 7)
        assert len(drawn) == 7
        assert max(drawn) - min(drawn) <= 1


def test_an_answer_that_was_cut_off_counts_as_wrong() -> None:
    completion = Completion((1,), (True,), (0.0,), "7", "stop")
    problem = Problem("p", {}, "train", "p")
    right = Rollout(problem, (1,), completion, Reward(1.0), 0)
    cut = replace(right, completion=replace(completion, finish_reason="length"))
    graded = replace(right, reward=Reward(0.5))
    assert count_right([[right, cut], [graded]]) == (1, 3)


class Ladder(Task):
    """A problem of level n is "n"; the answer is right if the level is at most `able`."""

    levels = (2, 4, 6)
    able = 4

    def __init__(self, level: int = 0) -> None:
        super().__init__()
        self.level = level

    def at(self, level: int) -> "Ladder":
        return Ladder(level)

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"{self.level}:{index}", {"level": self.level}, split, str(index))

    def prompt(self, problem: Problem, template: str) -> str:
        return str(problem.fields["level"])

    def reward(self, problem: Problem, text: str) -> float:
        return float(problem.fields["level"] <= self.able)

    def solution(self, problem: Problem) -> str:
        return ""


class Graded(Ladder):
    def reward(self, problem: Problem, text: str) -> float:
        return 0.5


def source(curriculum: Curriculum, keep: Any = list, task: Task | None = None) -> Source:
    scripted = ScriptedSampler(lambda prompt, sample: "x", lambda text: [0] * len(text), _decode)
    guarded = GuardedTask(task or Ladder(), "ladder", {})
    player = Player(guarded, scripted, lambda prompt: [0] * len(prompt), "")
    return Source(
        player, keep, prompts=4, params=SamplingParams(max_tokens=4, n=2), curriculum=curriculum
    )


def _decode(ids: Sequence[int]) -> str:
    return "x" * len(ids)


def levels_drawn(filled: Source, steps: int) -> list[list[int]]:
    batches = [filled.take(step) for step in range(steps)]
    return [[group[0].problem.fields["level"] for group in batch] for batch in batches]


def test_the_level_rises_until_it_is_too_hard_and_falls_again() -> None:
    filled = source(Curriculum("threshold", window=1))
    assert levels_drawn(filled, 5) == [[2] * 4, [4] * 4, [6] * 4, [4] * 4, [6] * 4]
    assert filled.collected.by_task == {"curriculum/level": 6.0, "curriculum/accuracy": 0.0}


def test_a_position_between_two_levels_draws_both() -> None:
    filled = source(Curriculum("linear", up=0.6, down=0.4, window=2))
    assert levels_drawn(filled, 4) == [[2] * 4, [2, 2, 4, 4], [4] * 4, [4, 4, 6, 6]]
    assert filled.collected.by_task == {"curriculum/level": 5.0, "curriculum/accuracy": 0.5}


def test_groups_that_the_algorithm_drops_count_as_well() -> None:
    """An algorithm that keeps only groups with a wrong answer must not hold the level down."""
    filled = source(Curriculum("threshold", window=1), keep=lambda groups: groups[:1])
    assert levels_drawn(filled, 2) == [[2], [4]]


def test_a_cursor_of_a_curriculum_survives_its_checkpoint() -> None:
    filled = source(Curriculum("linear", window=3))
    levels_drawn(filled, 4)
    again = Cursor.from_state(filled.cursor.state_dict())
    assert again == filled.cursor
    assert again.level_states[""].position > 0
    before = {"next": 3, "surplus": []}  # of a run without a curriculum
    assert Cursor.from_state(before) == Cursor(3)


def test_without_a_rule_the_task_itself_draws() -> None:
    filled = source(Curriculum())
    assert levels_drawn(filled, 2) == [[0] * 4] * 2
    assert filled.cursor == Cursor(next=8)


def test_graded_rewards_cannot_move_a_level() -> None:
    with pytest.raises(UserError, match="needs answers that are right or wrong"):
        source(Curriculum("linear"), task=Graded()).take(0)


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (("max_count",), "give different whole numbers, from easy to hard"),
        ((1, 1), "levels of the task"),
        (True, "levels of the task"),
    ],
)
def test_levels_are_different_whole_numbers(levels: Any, said: str) -> None:
    task = Ladder()
    task.levels = levels
    with pytest.raises(UserError, match=said):
        GuardedTask(task, "ladder", {})


def test_a_number_of_levels_counts_from_0() -> None:
    task: Any = Ladder()
    task.levels = 3
    guarded = GuardedTask(task, "ladder", {})
    assert guarded.levels == (0, 1, 2)
    assert guarded.at(2).problem("train", 5).id == "2:5"
    with pytest.raises(UserError, match="has no level 3: its levels are 0, 1, 2"):
        guarded.at(3)


def test_countdowns_levels_are_the_counts_that_its_options_allow() -> None:
    task = load_task("countdown", {"min_count": 2, "max_count": 6, "max_number": 25})
    assert task.levels == (2, 3, 4, 5, 6)
    for level in task.levels:
        drawn = [task.at(level).problem("train", index) for index in range(3)]
        assert {len(problem.fields["numbers"]) for problem in drawn} == {level}
        assert all(task.reward(p, task.solution(p)).value == 1 for p in drawn[:2])
    assert task.at(4).given["max_count"] == 4
    assert task.at(4).given["max_number"] == 25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task.max_count", "3", "--curriculum.rule", "linear"], "needs at least two levels"),
        (["--task", "multiplication", "--curriculum.rule", "linear"], "(levels: none)"),
        (
            ["--curriculum.window", "3"],
            "curriculum.window has no effect: curriculum.rule is 'none'",
        ),
        (["--curriculum.up", "0.1"], "curriculum.down 0.2 is not below curriculum.up 0.1"),
        (["--curriculum.rule", "lineer"], "curriculum.rule"),
    ],
)
def test_a_wrong_curriculum_is_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "train", "laptop", "--dry-run", *options)


def climbing(base: Path) -> Config:
    rule = {"rule": "linear", "up": 0.3, "down": 0.05, "window": 2}
    tables = toy_config(base, task=f"{TOYS}:Levelled").model_dump()
    fewer = {"eval.test_problems": 0, "eval.samples": 1, "eval.greedy": False, "model.threads": 1}
    return resolve(tables | {"curriculum": rule}, fewer)


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(climbing(base), folder)
    return folder


def test_levels_rise_in_a_run_and_evaluations_do_not_follow(whole: Path) -> None:
    steps = list(records.read(whole / "metrics.jsonl"))
    levels = [step["curriculum/level"] for step in steps]
    assert levels[0] == 1
    assert len(set(levels)) > 1
    assert {"curriculum/level", "curriculum/accuracy"} <= {
        key for key in steps[0] if glossary.define(key)
    }
    evaluations = list(records.read(whole / "eval.jsonl"))
    assert len({e["problems"] for e in evaluations if e["split"] == "dev"}) == 1


def test_kill_9_inside_a_curriculum_and_resume(base: Path, whole: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(to_toml(climbing(base)))
    at = random.randrange(40, 85)  # prompts posed before, in the steps after the first evaluation
    command = [sys.executable, "-c", KILLED, str(TOYS.parent), str(at), str(recipe), str(run)]
    done = subprocess.run(
        [*command, f"{TOYS}:Levelled"], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert cli.main(["train", "--resume", str(run)]) == 0, f"killed at prompt {at}"
    assert_same(run, whole)
