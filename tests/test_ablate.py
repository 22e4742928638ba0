"""Grids: runs in processes of their own, which can be stopped and resumed, and their comparison."""

import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from tinyzero import cli, models
from tinyzero import config as configs
from tinyzero.errors import UserError
from tinyzero.evaluate import interval as interval_over_problems
from tinyzero.run import records
from tinyzero.run.check import check
from tinyzero.tools import ablate
from tinyzero.tools.ablate import runs
from tinyzero.tools.ablate.comparison import (
    band,
    difference_table,
    differences,
    explanation,
    finished,
)
from tinyzero.tools.ablate.intervals import Scores, difference, mean_score, over_seeds, read_scores
from tinyzero.tools.ablate.runs import time_left
from tinyzero.tools.pretrain import base

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

GRIDS = Path(__file__).parent.parent / "ablations"
GRID = """
seeds = [3, 4]

[common]
"model.name" = "BASE"
"model.threads" = 1
steps = 2
task = "TOYS:Early"
"rollout.prompts" = 2
"rollout.samples" = 4
"rollout.max_tokens" = 5
"eval.every" = 1
"eval.problems" = 4
"eval.test_problems" = 5
"eval.max_tokens" = 5

[axes.algorithm]
grpo = { "algorithm.name" = "grpo" }
ppo = { "algorithm.name" = "ppo", "algorithm.lam" = 0.9 }

[axes.rate]
slow = { "optimizer.learning_rate" = 1e-4 }
fast = { "optimizer.learning_rate" = 1e-2 }
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    models.save_model(tiny.model(layers=1), tiny.tokenizer(), tmp_path / "base")
    path = tmp_path / "rates.toml"
    toys = Path(__file__).with_name("toy_task.py")
    text = GRID.replace("BASE", str(tmp_path / "base")).replace("TOYS", str(toys))
    path.write_text(text.replace("task =", '"task.name" ='))
    return path


def test_cells_are_every_choice_on_every_seed(grid: Path) -> None:
    _, cells = ablate.read_grid(grid)
    assert [cell.name for cell in cells] == [
        f"{algorithm}-{rate}-{seed}"
        for algorithm in ("grpo", "ppo")
        for rate in ("slow", "fast")
        for seed in (3, 4)
    ]
    last = cells[-1].config
    assert (last.optimizer.learning_rate, last.algorithm.options, last.steps) == (
        1e-2,
        {"lam": 0.9},
        2,
    )
    assert (last.seed, last.model.threads, last.rollout.prompts) == (4, 1, 2)


def test_dotted_keys_are_the_same_with_and_without_quotes(grid: Path) -> None:
    quoted = [cell.config for cell in ablate.read_grid(grid)[1]]
    text = (
        grid.read_text()
        .replace('"eval.every"', "eval.every")
        .replace('"algorithm.lam"', "algorithm.lam")
    )
    grid.write_text(text)
    assert "\neval.every = 1" in grid.read_text()
    assert [cell.config for cell in ablate.read_grid(grid)[1]] == quoted


def test_an_interval_over_seeds_is_students() -> None:
    low, high = over_seeds([0.7, 0.8, 0.9])[1:]
    half = 4.303 * 0.1 / 3**0.5  # t with 2 degrees of freedom, standard deviation 0.1
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-4)
    assert over_seeds([0.7]) == (0.7, 0.7, 0.7), "one seed says nothing about other seeds"


def scores(*rates: float, clusters: list[int] | None = None, problems: str = "a") -> Scores:
    """The scores of a run, as its evaluation would record them."""
    numbers = list(range(len(rates))) if clusters is None else clusters
    interval = interval_over_problems(rates, [str(number) for number in numbers])
    return Scores(float(np.mean(rates)), *interval, problems, rates, tuple(numbers))


def without_problems(runs: list[Scores]) -> list[Scores]:
    """The scores as records of version 0.1 have them."""
    return [Scores(run.mean, run.low, run.high) for run in runs]


def test_seeds_that_happen_to_agree_leave_the_interval_of_the_problems() -> None:
    run = scores(*[1.0] * 2, *[0.0] * 30)
    assert mean_score([run, run]) == pytest.approx((0.0625, run.low, run.high))
    assert mean_score(without_problems([run, run])) == pytest.approx((0.0625, run.low, run.high))
    assert run.high - run.low > 0.15


def test_the_widths_over_seeds_and_problems_add_as_squares() -> None:
    runs = [Scores(0.5, 0.4, 0.6), Scores(0.6, 0.5, 0.7)]
    half = math.hypot(12.706 * 0.1 / 2**0.5 / 2**0.5, 0.1)
    low, high = max(0.0, 0.55 - half), min(1.0, 0.55 + half)
    assert mean_score(runs) == pytest.approx((0.55, low, high), abs=1e-4)
    assert (low, high) == (0.0, 1.0), "cut to what is possible"


def test_a_difference_is_paired_by_problem_by_hand() -> None:
    runs, others = [scores(1, 1, 0, 1)], [scores(1, 0, 0, 1)]
    # The differences are 0, 1, 0, 0, and their deviations from the mean 3/4 once and -1/4 three
    # times. With one problem won and one lost, the squares sum to 2.75, over six problems.
    half = 2.5706 * (2.75 * 6 / 5) ** 0.5 / 6
    assert difference(runs, others) == pytest.approx((0.25, 0.25 - half, 1.0), abs=1e-4)
    assert 0.25 + half > 1


def test_equal_results_on_few_problems_leave_a_difference_possible() -> None:
    few, many = [scores(*[1, 0] * 16)], [scores(*[1, 0] * 512)]
    assert difference(few, few).high == pytest.approx(2.0345 * (2 * 34 / 33) ** 0.5 / 34, abs=1e-4)
    assert difference(few, few).high > 0.08
    assert difference(many, many).high < 0.003
    assert difference(many, many).mean == 0


def test_a_difference_of_other_problems_is_not_paired() -> None:
    runs, others = [Scores(0.5, 0.4, 0.6)], [Scores(0.3, 0.2, 0.4)]
    expected = (0.2, 0.2 - 0.1 * 2**0.5, 0.2 + 0.1 * 2**0.5)
    assert difference(runs, others) == pytest.approx(expected)
    first, second = scores(1, 1, 0, 1), scores(1, 0, 0, 1, problems="b")
    unpaired = difference(without_problems([first]), without_problems([second]))
    assert difference([first], [second]) == unpaired


def test_problems_of_one_cluster_count_as_one() -> None:
    doubled = scores(1, 1, 0, 0, 1, 1, 0, 0, clusters=[0, 0, 1, 1, 2, 2, 3, 3])
    half = scores(0, 0, 0, 0, 1, 1, 0, 0, clusters=[0, 0, 1, 1, 2, 2, 3, 3])
    clustered = difference([doubled], [half])
    assert clustered == pytest.approx(difference([scores(1, 0, 1, 0)], [scores(0, 0, 1, 0)]))


def test_several_comparisons_widen_the_intervals() -> None:
    runs, others = [Scores(0.5, 0.4, 0.6)], [Scores(0.3, 0.2, 0.4)]
    wide = difference(runs, others, comparisons=5)
    assert wide.high - wide.mean == pytest.approx(0.1 * 2**0.5 * 2.5758 / 1.96, abs=1e-4)
    three = [[Scores(value, value, value) for value in (0.5, 0.6, 0.7)] for _ in range(2)]
    three[1] = [Scores(value, value, value) for value in (0.4, 0.4, 0.4)]
    alone, corrected = (difference(*three, comparisons=count) for count in (1, 2))
    # The pooled variance of the seeds is (0.1² + 0²) / 2, and four degrees of freedom are left.
    error = 0.1 / 2**0.5 * (2 / 3) ** 0.5
    assert alone.high - 0.2 == pytest.approx(2.7764 * error, abs=1e-4)
    assert corrected.high - 0.2 == pytest.approx(3.4954 * error, abs=1e-4)


def simulated(generator: np.random.Generator, seeds: int, problems: int, spread: float) -> Any:
    """Runs of two choices with equal expected accuracy, 0.8, on problems in clusters of two.

    `spread` is the standard deviation of a run's accuracy over seeds. Each cluster has
    its own difficulty.
    """
    clusters = np.arange(problems) // 2
    difficulty = np.repeat(generator.choice([-0.15, 0.15], problems // 2), 2)

    def runs() -> list[Scores]:
        made = []
        for effect in generator.normal(0, spread, seeds):
            chance = np.clip(0.8 + effect + difficulty, 0, 1)
            right = (generator.random(problems) < chance).astype(float)
            interval = interval_over_problems(right, clusters.astype(str).tolist())
            found = tuple(right.tolist()), tuple(clusters.tolist())
            made.append(Scores(right.mean(), *interval, "a", *found))
        return made

    return runs(), runs()


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_intervals_hold_as_often_as_they_say(seeds: int, spread: float) -> None:
    """At least 95 % of 300 intervals contain the truth, with and without records per problem."""
    generator = np.random.default_rng(seeds)
    draws, names = 300, ("mean", "mean, old", "difference", "difference, old")
    held = dict.fromkeys(names, 0)
    for _ in range(draws):
        first, second = simulated(generator, seeds, 200, spread)
        truths = {
            "mean": (0.8, mean_score(first)),
            "mean, old": (0.8, mean_score(without_problems(first))),
            "difference": (0.0, difference(second, first)),
            "difference, old": (0.0, difference(*map(without_problems, (second, first)))),
        }
        for name, (truth, interval) in truths.items():
            held[name] += interval.low <= truth <= interval.high
    assert all(count / draws >= 0.95 for count in held.values()), held


def test_scores_are_read_from_an_evaluation() -> None:
    entry = {"k": 4, "pass@1": 0.5, "pass@1/low": 0.2, "pass@1/high": 0.8}
    assert read_scores(entry) == Scores(0.5, 0.2, 0.8)
    lists = {"problems": "0123456789abcdef", "right": [4, 0, 2], "clusters": [0, 1, 1]}
    read = read_scores(entry | lists)
    assert read.rates == (1.0, 0.0, 0.5)
    assert read[3:] == ("0123456789abcdef", (1.0, 0.0, 0.5), (0, 1, 1))


def test_bands_stay_within_what_is_possible() -> None:
    entries = [{"k": 1, "pass@1": v, "pass@1/low": 0, "pass@1/high": 1} for v in (0.1, 0.9)]
    assert band("pass@1", entries) == (0.5, 0.0, 1.0)
    lengths = band("response_length", [{"response_length": 10.0}, {"response_length": 100.0}])
    assert (lengths.mean, lengths.low) == (55.0, 0.0)
    assert lengths.high > 500


def test_differences_are_told_in_words() -> None:
    accuracies = {"a": 0.5, "b": 0.7, "c": 0.51}
    found = differences({name: [Scores(v, v - 0.01, v + 0.01)] for name, v in accuracies.items()})
    assert found["from"] == "a"
    lines = difference_table(found).splitlines()
    assert lines[0] == "| minus a | pass@1 | told apart? |"
    assert re.fullmatch(r"\| b \| \+0.200 \[\+0.18\d, \+0.21\d\] \| yes, b is better \|", lines[2])
    assert lines[3].endswith("| no |")
    assert "told apart, on this seed?" in difference_table(found, one_seed=True)
    assert "all 2 hold at once" in explanation([0], 2)
    assert "One seed says nothing about other seeds" in explanation([0], 0)
    assert "assumed to scatter equally" in explanation([0, 1], 1)
    assert "scatter" not in explanation([0], 1) + explanation([0, 1], 0)
    assert differences({}) == {"from": "", "choices": {}}


def test_time_left_counts_what_is_running() -> None:
    assert time_left([600], [300], waiting=2, jobs=1) == "3 runs left, about 25 min"
    assert time_left([600], [300, 0], waiting=2, jobs=2) == "4 runs left, about 18 min"
    assert time_left([600, 300], [500], waiting=0, jobs=2) == "1 run left, about a minute"
    assert time_left([600], [], waiting=0, jobs=1) == "no runs left"


def test_plugins_are_found_next_to_the_grid(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = Path(__file__).with_name("toy_task.py")
    shutil.copy(toys, tmp_path / "mine.py")
    shutil.copy(toys, tmp_path / "ours.py")
    text = grid.read_text().replace(f"{toys}:Early", "mine.py:Early")
    grid.write_text(text.replace("slow = {", 'slow = { "task.name" = "./ours.py:Early",'))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cells = {cell.choice: cell.config for cell in ablate.read_grid(Path("../rates.toml"))[1]}
    assert cells["grpo-fast"].task.name == f"{tmp_path / 'mine.py'}:Early"
    assert cells["grpo-slow"].task.name == f"{tmp_path / 'ours.py'}:Early"
    assert cells["grpo-fast"].algorithm.name == "grpo", "bundled names stay as they are"
    for settings in cells.values():
        check(settings)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("seeds = [3, 4]", "seeds = []", "seeds"),
        ('"eval.every" = 1', '"eval.every" = 0', "nothing to compare"),
        ("steps = 2", "stepps = 2", "unknown key stepps"),
        ("steps = 2", "seed = 2", "use seeds"),
        ("[axes.rate]", "[axis.rate]", "axis"),
        ("seeds = [3, 4]", "seeds = [3, 3]", "names a run 'grpo-slow-3' twice"),
        ("slow = {", '"slow/er" = {', "names a choice 'slow/er'.*without a slash"),
        ("slow = {", '"slow|er" = {', "names a choice 'slow|er'.*or a bar"),
        ("slow = {", '"" = {', "names a choice ''"),
        ("[axes.rate]", "[axes.nothing]\n[axes.rate]", "has no choice on the axis 'nothing'"),
        ('"algorithm.lam" = 0.9', '"algorithm.lamm" = 0.9', "did you mean lam"),
        ('"ppo", "alg', '"pppo", "alg', "unknown algorithm 'pppo'"),
        ("toy_task.py:Early", "toy_task.py:Late", "Late"),
        ('"algorithm.name" = "grpo"', '"algorithm.name" = "raft.py:RAFT"', "folder of the grid"),
        ("slow = {", "slow = (", "not valid TOML"),
        ('"rollout.samples" = 4', '"rollout.samples" = 1', "grpo needs at least 2"),
        (
            '"algorithm.name" = "grpo"',
            '"algorithm.name" = "dapo", "algorithm.overlong" = 6',
            "overlong is 6, more",
        ),
        (
            '"rollout.max_tokens" = 5',
            '"rollout.max_tokens" = 128',
            "rollout.max_tokens 128 leaves no room .* context of 128",
        ),
        ('"eval.max_tokens" = 5', '"eval.max_tokens" = 999', "eval.max_tokens 999 leaves no room"),
        ('/base"', '/removed"', "no model folder at '.*/removed'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    grid: Path, tmp_path: Path, before: str, after: str, says: str
) -> None:
    grid.write_text(grid.read_text().replace(before, after))
    with pytest.raises(UserError, match=says):
        ablate.run_grid(grid, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_a_stopped_grid_is_resumed_and_writes_the_comparison(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    grid.write_text(grid.read_text().partition("[axes.rate]")[0])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [
        sys.executable,
        "-m",
        "tinyzero.cli",
        "ablate",
        str(grid),
        "--out",
        str(out),
        "--jobs",
        "2",
    ]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        while not any(out.glob("*/checkpoints/*")):
            time.sleep(0.1)
            assert process.poll() is None
        process.send_signal(random.choice([signal.SIGINT, signal.SIGTERM]))
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said.decode()
    kept = {
        path: path.stat().st_mtime_ns
        for path in out.glob("*/checkpoints/step_000002/manifest.json")
    }
    assert len(kept) < 4
    begun = [path.parent.name for path in out.glob("*/config.toml")]
    assert begun
    assert cli.main(["ablate", str(grid), "--out", str(out), "--jobs", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished runs are left alone"
    for name in begun:  # resumed, not started again
        assert [e["step"] for e in records.read(out / name / "metrics.jsonl")] == [0, 1]
        assert "exists" not in (out / f"{name}.log").read_text()
    about = json.loads((out / "ablation.json").read_text())
    assert about["command"] == f"tinyzero ablate {grid} --jobs 2"
    assert cli.main(["ablate", str(grid), "--out", str(out)]) == 0
    again = json.loads((out / "ablation.json").read_text())
    assert again == about, "nothing was run, so the first command made the results"
    if (GRIDS.parent / ".git").exists():
        assert re.fullmatch(r"[\w.-]*[0-9a-f]{7,}(-dirty)?", about["commit"])
        assert f" at commit {about['commit']} on" in (out / "ablation.md").read_text()
    assert about["not finished"] == []
    assert "Not finished" not in (out / "ablation.md").read_text()
    found = about["results"]
    assert set(found) == {"grpo", "ppo"}
    for name, cell in found.items():
        members = list(cell["seeds"].values())
        afters = [run["after"] for run in members]
        assert cell["mean"]["after"] == pytest.approx(sum(afters) / 2)
        of_seeds = [
            Scores(*(run[f"after{end}"] for end in ("", "/low", "/high"))) for run in members
        ]
        interval = (cell["mean"]["after/low"], cell["mean"]["after/high"])
        assert interval == pytest.approx(mean_score(of_seeds)[1:])
        assert cell["mean"]["CPU minutes"] > 0
        assert cell["mean"]["samples"] == 16
        for seed, found_there in cell["seeds"].items():
            written = list(records.read(out / f"{name}-{seed}" / "eval.jsonl"))
            assert [(e["step"], e["samples"]) for e in found_there["curve"]] == [
                (0, 0),
                (1, 8),
                (2, 16),
            ]
            assert [e["pass@1"] for e in found_there["curve"]] == [
                e["pass@1"] for e in written if e["split"] == "dev"
            ]
            assert all("response_length" in e for e in found_there["curve"])
            assert found_there["test"].items() <= written[-1].items()
            assert found_there["test/before"].items() <= written[0].items()
            assert found_there["test/before"].keys() == found_there["test"].keys() != set()
            assert {key.partition("/")[0] for key in found_there["test"]} >= {"response_length"}
        assert f"| {name} |" in (out / "ablation.md").read_text()
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert_an_unscored_run_is_not_finished(grid, out)
    assert_only_its_records_make_a_run_finished(grid, out)
    assert_gaps_in_the_records_are_said(grid, out)
    assert_a_base_is_needed_by_unfinished_membersonly(grid, out, tmp_path / "base")
    grid.write_text(grid.read_text().replace("steps = 2", "steps = 3"))
    with pytest.raises(UserError, match=r"grpo-3 was run with steps 2, and the grid has 3"):
        ablate.run_grid(grid, out, 1)


def assert_an_unscored_run_is_not_finished(grid: Path, out: Path) -> None:
    """A run that died between its last checkpoint and its last evaluation is not finished."""
    cell = ablate.read_grid(grid)[1][0]
    assert finished(cell, out / cell.name)
    path = out / cell.name / "eval.jsonl"
    whole = path.read_text()
    path.write_text("".join(line + "\n" for line in whole.splitlines() if '"step": 2' not in line))
    assert len(path.read_text()) < len(whole)
    assert not finished(cell, out / cell.name)
    path.write_text(whole)


def assert_only_its_records_make_a_run_finished(grid: Path, out: Path) -> None:
    """Deleted checkpoints do not make a run start again, but a step without a record was lost."""
    cell = ablate.read_grid(grid)[1][0]
    shutil.rmtree(out / cell.name / "checkpoints")
    assert finished(cell, out / cell.name)
    path = out / cell.name / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole.splitlines()[0] + "\n")
    assert not finished(cell, out / cell.name)
    path.write_text(whole)
    scores = (out / cell.name / "eval.jsonl").read_text()
    for lost in scores.splitlines():
        (out / cell.name / "eval.jsonl").write_text(
            "".join(s + "\n" for s in scores.splitlines() if s != lost)
        )
        assert not finished(cell, out / cell.name), "each score is needed"
    (out / cell.name / "eval.jsonl").write_text(scores)


def assert_gaps_in_the_records_are_said(grid: Path, out: Path) -> None:
    path = out / "ppo-4" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole.partition("\n")[2])
    said: list[str] = []
    with pytest.raises(UserError, match="1 run failed"):
        ablate.run_grid(grid, out, 1, said.append)
    assert any(line.startswith("ppo-4: failed") for line in said)
    assert f"{path} has changed since the newest" in (out / "ppo-4.log").read_text()
    path.write_text(whole)


def assert_a_base_is_needed_by_unfinished_membersonly(grid: Path, out: Path, base: Path) -> None:
    shutil.rmtree(base)
    (out / "ablation.json").unlink()
    ablate.run_grid(grid, out, 1)
    assert json.loads((out / "ablation.json").read_text())["not finished"] == []
    (out / "ppo-4" / "eval.jsonl").unlink()
    with pytest.raises(UserError, match="no model folder at"):
        ablate.run_grid(grid, out, 1)


def write_run(folder: Path, asked: configs.Config, meant: configs.Config) -> Path:
    """A run's folder as far as a grid compares it."""
    folder.mkdir(exist_ok=True)
    (folder / "asked.toml").write_text(configs.asked_toml(configs.asked(asked), ["tinyzero train"]))
    (folder / "config.toml").write_text(configs.to_toml(meant))
    return folder


def laptop(**overrides: Any) -> configs.Config:
    return configs.resolve(
        configs.read_recipe("laptop"), {k.replace("__", "."): v for k, v in overrides.items()}
    )


@pytest.mark.parametrize(
    "overrides", [{"sampler__name": "vllm"}, {}, {"algorithm__correction": "truncate"}]
)
def test_what_was_asked_is_compared_and_not_what_it_meant(
    overrides: dict[str, Any], tmp_path: Path
) -> None:
    asked = laptop(**overrides)
    meant = check(asked).config.model_copy(update={"seed": 9})
    cell = ablate.Cell(("only",), 0, asked)
    assert not finished(cell, write_run(tmp_path, asked, meant)), "it is resumed"
    said = laptop(**overrides, eval__greedy=asked.eval.greedy, optimizer__beta1=0.9)
    assert not finished(cell, write_run(tmp_path, said, meant)), "defaults may be written out"
    for key, value in (("seed", 1), ("algorithm__correction", "mask"), ("task__max_count", 4)):
        other = laptop(**overrides | {key: value})
        write_run(tmp_path, other, asked)
        name = key.replace("__", ".").replace(".", r"\.")
        with pytest.raises(UserError, match=rf"was run with {name} {value}, and the grid has"):
            finished(cell, tmp_path)


def test_a_run_that_does_not_say_what_was_asked_is_named(tmp_path: Path) -> None:
    """Version 0.1 wrote only config.toml."""
    (tmp_path / "config.toml").write_text(configs.to_toml(laptop()))
    with pytest.raises(UserError, match=r"has no asked\.toml.*: move the folder away"):
        finished(ablate.Cell(("only",), 0, laptop()), tmp_path)


def test_a_choice_without_effect_is_named_before_anything_runs(grid: Path, tmp_path: Path) -> None:
    text = grid.read_text()
    grid.write_text(text.replace('"optimizer.learning_rate" = 1e-2', '"critic.beta1" = 0.5'))
    with pytest.raises(UserError, match=r"critic\.beta1 has no effect: grpo has no critic"):
        ablate.run_grid(grid, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["matplotlib", "scipy"])
def test_a_missing_extra_is_named_first(
    package: str, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(UserError, match=rf"needs {package}: pip install .tinyzero\[report\]"):
        ablate.run_grid(grid, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_is_named(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = grid.read_text().replace("seeds = [3, 4]", "seeds = [3]").replace("1e-2 }", "1e30 }")
    grid.write_text("\n".join(line for line in text.splitlines() if not line.startswith("ppo")))
    assert cli.main(["ablate", str(grid), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 2
    said = capsys.readouterr().err
    assert "1 run failed" in said
    assert "grpo-fast-3.log" in said
    out = tmp_path / "out"
    about = json.loads((out / "ablation.json").read_text())
    assert set(about["results"]) == {"grpo-slow"}, "finished runs are compared"
    assert about["not finished"] == ["grpo-fast-3"]
    said = (out / "ablation.md").read_text()
    assert "\nNot finished: grpo-fast-3.\n" in said
    assert "pass@1 on test of one seed, 3, with 95 % intervals over the problems." in said
    assert "One seed says nothing about other seeds" in said


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_grids_here_can_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the options of the commands that make the bases are checked."""
    text = path.read_text()
    made: list[str] = []

    def pretrain(options: base.PretrainOptions, folder: Path, report: Any) -> Path:
        made.append(f"{folder}/model")
        models.save_model(
            tiny.model(layers=1, context=options.model.context), tiny.tokenizer(), folder / "model"
        )
        return folder

    monkeypatch.setattr(base, "pretrain", pretrain)
    monkeypatch.chdir(tmp_path)
    if "tinyzero convert smollm2-135m" in text:  # made elsewhere: any folder will do here
        models.save_model(tiny.model(layers=1), tiny.tokenizer(), Path("models/smollm2-135m"))
    for line in re.findall(r"# +tinyzero (pretrain .*)", re.sub(r" \\\n# +", " ", text)):
        assert cli.main(shlex.split(line)) == 0
    assert set(re.findall(r'"(runs/bases/[^"]*)"', text)) == set(made)
    rows = [
        {"target": sum(nums), "nums": nums}
        for nums in ([a, b, 7] for a in range(1, 9) for b in range(1, 9))
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    copied = tmp_path / path.name
    copied.write_text(text.replace("Jiayi-Pan/Countdown-Tasks-3to4", str(data)))
    grid, cells = ablate.read_grid(copied)
    for cell in cells:
        check(cell.config, cell.given, here=cell.config.model.device != "cuda")
    assert len(cells) == len(grid.seeds) * math.prod(map(len, grid.axes.values()))
