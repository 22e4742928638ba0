"""The last lines of a run describe the whole run, not only the part of the last process."""

from pathlib import Path
from typing import Any

import pytest

from tinyzero.run import records
from tinyzero.run.progress import stop_message
from tinyzero.run.summary import closing_lines


def evaluation(step: int, split: str, value: float, seconds: float) -> dict[str, Any]:
    interval = {"pass@1/low": value - 0.05, "pass@1/high": value + 0.05}
    return {
        "step": step,
        "split": split,
        "n": 64,
        "pass@1": value,
        **interval,
        "time/evaluate": seconds,
    }


def rollout(step: int, problem: str, reward: float, text: str) -> dict[str, Any]:
    return {"step": step, "split": "test", "problem": problem, "reward": reward, "text": text}


def write(folder: Path, name: str, *entries: dict[str, Any]) -> None:
    for entry in entries:
        records.append(folder / name, entry)


def test_a_finished_run_ends_with_scores_an_example_its_cost_and_what_to_do_next(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        "metrics.jsonl",
        {"step": 0, "time/elapsed": 40.0, "flops": 1e12, "time/utilisation": 0.2},
        {"step": 1, "time/elapsed": 100.0, "flops": 3e12, "time/utilisation": 0.4},
    )
    write(
        tmp_path,
        "eval.jsonl",
        evaluation(0, "test", 0.125, 9.0),
        evaluation(2, "dev", 0.75, 4.0),
        evaluation(2, "test", 0.5, 20.0),
    )
    write(
        tmp_path,
        "rollouts.jsonl",
        rollout(0, "a", 1.0, "right before"),
        rollout(0, "b", 0.1, "wrong before"),
        rollout(2, "a", 1.0, "right after"),
        rollout(2, "b", 1.0, "right now"),
    )
    assert closing_lines(tmp_path, seconds=31.0) == [
        "",
        "--- before: b, reward 0.1",
        "wrong before",
        "",
        "--- after: b, reward 1",
        "right now",
        "",
        " before: test pass@1 0.125 [0.075, 0.175], 64 problems",
        "  after: test pass@1 0.500 [0.450, 0.550], 64 problems",
        "3.00e+12 FLOP, 30% of the GPU's rate",
        f"124 s in total; the run is in {tmp_path}",  # 100 s to the last step, then 4 s and 20 s
        "",
        "next:",
        f"  tinyzero report {tmp_path}",
        f"  tinyzero play --web {tmp_path}",
        f"  tinyzero eval {tmp_path}",
    ]


def test_a_run_that_was_not_evaluated_still_says_where_it_is(tmp_path: Path) -> None:
    assert closing_lines(tmp_path, seconds=7.4)[0] == f"7 s in total; the run is in {tmp_path}"


def test_a_path_below_the_current_folder_is_named_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("")

    assert closing_lines(run, seconds=1.0)[0] == "1 s in total; the run is in runs/mine"
    assert "`tinyzero train --resume runs/mine`" in stop_message(run, step=2, learning=False)
    monkeypatch.chdir(run)
    assert closing_lines(tmp_path, seconds=1.0)[0] == f"1 s in total; the run is in {tmp_path}"
