"""Early words come at bad starts, never in recorded runs that learned, and agree with alarms."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinyzero.algorithms import load_algorithm
from tinyzero.config import Config, resolve
from tinyzero.cost import devices
from tinyzero.run import check, signs
from tinyzero.run.early import READ, Start
from tinyzero.run.signs import easier
from tinyzero.tools.report import alarms

EXAMPLE = Path(__file__).parents[1] / "docs" / "example-report.html"
STARTS = Path(__file__).parent / "data" / "starts.json"


def step(number: int, accuracy: float, flat: float, cut: float = 0.0, **more: Any) -> Any:
    figures = {"accuracy": accuracy, "flat_groups": flat, "truncated": cut, "entropy": 1.0}
    return {"step": number, **figures, **more}


def evaluation(pass_1: float, cut: float = 0.0, **more: Any) -> Any:
    return {"n": 64, "k": 1, "pass@1": pass_1, "accuracy": pass_1, "truncated": cut, **more}


def new(levels: tuple[str, ...] = ("max_number",)) -> Start:
    return Start(levels)


def recorded_runs() -> dict[str, Any]:
    """Runs that learned: the recipe laptop, multiplication, and a real model's sums.

    The real model is SmolLM2-135M-Instruct; one of its runs began with 4.7 % right and 87 % cut.
    """
    page = EXAMPLE.read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S)
    assert found
    curves = json.loads(found[1])["runs"][0]["curves"]
    tests = {key: curves["test"][key][0] for key in ("n", "k", "pass@1", "truncated")}
    laptop = {"before": [tests], "steps": curves["steps"]}
    return {"laptop": laptop, **json.loads(STARTS.read_text())}


@pytest.mark.parametrize("name", recorded_runs())
def test_a_recorded_run_that_learned_gives_no_early_word_and_no_alarm(name: str) -> None:
    run = recorded_runs()[name]
    columns = {key: run["steps"][key] for key in READ if key in run["steps"]}
    assert run["before"][0]["pass@1"] < 0.2, "a weak start, but one that learns"

    start, said = new(), []
    said += start.after_evaluation(run["before"])
    for number in range(len(columns["accuracy"])):
        said += start.after_step({"step": number} | {k: v[number] for k, v in columns.items()})
        shown = alarms.find_alarms(start.columns)
        titles = {alarm.title for alarm in shown} - {"Almost nothing left to learn from"}
        assert not titles
    assert said == []


@pytest.mark.parametrize(
    ("accuracy", "flat", "cut"),
    [
        (0.109, 0.45, 0.81),  # most answers are cut, but enough are right
        (0.047, 0.688, 0.867),  # this run learned
        (0.30, 0.12, 0.02),
        (0.06, 0.7, 0.0),
        (0.9, 0.95, 0.0),  # easy, not hopeless
    ],
)
def test_a_start_that_can_learn_gives_no_early_word(
    accuracy: float, flat: float, cut: float
) -> None:
    start = new()
    assert start.after_evaluation([evaluation(accuracy, cut)]) == []
    assert start.after_step(step(0, accuracy, flat, cut)) == []
    assert start.after_step(step(1, accuracy, flat, cut)) == []


def test_a_hopeless_start_is_said_once_with_the_tasks_own_options() -> None:
    start = new()
    assert start.after_step(step(0, 0.008, 15 / 16)) == [], "one step has few groups"
    (text,) = start.after_step(step(1, 0.0, 1.0))
    assert text.startswith(
        "Almost nothing to learn from. In the last steps all answers had the same reward in 97 % "
        "of the groups, with 0.4 % of the answers right. The problems are too hard"
    )
    assert "easier problems (--task.max_number)" in text
    assert "tinyzero probe" in text
    assert start.after_step(step(2, 0.0, 1.0)) == []

    assert len(new().after_step(step(0, 0.0, 1.0))) == 1, "a step that taught nothing is enough"


def test_a_start_is_judged_by_its_first_two_steps() -> None:
    start = new()
    start.after_step(step(0, 0.3, 0.5))
    start.after_step(step(1, 0.3, 0.5))
    for number in range(2, 9):
        assert start.after_step(step(number, 0.3, 1.0, 0.9)) == []
    assert [alarm.title for alarm in alarms.find_alarms(start.columns)] == [
        "Almost nothing to learn from"
    ], "the report says it all the same, and cut answers are right ones here"


def test_a_hopeless_start_says_too_that_answers_are_cut_off() -> None:
    hard, cut = new().after_step(step(0, 0.0, 1.0, 0.83))
    assert hard.startswith("Almost nothing to learn from.")
    assert cut.startswith("Many answers are cut off. In the last steps 83 % of the answers reached")
    assert "Raise rollout.max_tokens" in cut


def test_the_console_and_the_report_say_the_same() -> None:
    start = new(())
    said = start.after_step(step(0, 0.0, 1.0, 0.83))
    shown = alarms.find_alarms(start.columns)
    assert said == [f"{alarm.title}. {alarm.seen} {alarm.advice}" for alarm in shown]

    start, said = new(), []
    for number, accuracy in enumerate([0.5, 0.5, 0.5, 0.0, 0.0]):
        said += start.after_step(step(number, accuracy, 0.5, entropy=1.0 if accuracy else 0.01))
    shown = alarms.find_alarms(start.columns)
    assert said == [f"{alarm.title}. {alarm.seen} {alarm.advice}" for alarm in shown]
    assert len(said) == 2


def test_nothing_right_before_training_names_easier_problems() -> None:
    (none,) = new().after_evaluation([evaluation(0.0), evaluation(0.0, 0.8)])
    assert none.startswith("none of 128 answers is right before training and 80 % are cut off:")
    assert "(--task.max_number)" in none
    assert "raise rollout.max_tokens" in none
    assert new().after_evaluation([]) == []
    assert new().after_evaluation([evaluation(0.0, graded=1.0)]) == []
    assert new().after_evaluation([evaluation(0.0, n=59)]) == [], "too few answers to tell"


def test_the_run_that_a_high_rate_destroyed_is_noticed_at_its_sixth_step() -> None:
    accuracies = [0.047, 0.039, 0.062, 0.164, 0.000, 0.023, 0.000, 0.008]
    start = new()
    said = [start.after_step(step(i, a, 0.7)) for i, a in enumerate(accuracies)]
    assert [bool(texts) for texts in said] == [False] * 5 + [True] + [False] * 2
    (text,) = said[5]
    assert text.startswith(
        "It has collapsed. In the last two steps 1 % of the answers were right, and before that up "
        "to 11 %. A lower learning rate"
    )
    assert [alarm.title for alarm in alarms.find_alarms(start.columns)] == ["It has collapsed"]


def test_a_crash_of_the_entropy_is_a_collapse_unless_the_task_is_solved() -> None:
    for accuracy, is_said in ((0.2, True), (0.8, True), (0.95, False)):
        start = new()
        start.after_step(step(0, accuracy, 0.1, entropy=1.2))
        texts = start.after_step(step(1, accuracy, 0.1, entropy=0.05))
        assert bool(texts) == is_said
    start = new()
    start.after_step(step(0, 0.2, 0.1, entropy=1.2))
    assert start.after_step(step(1, 0.2, 1.0, entropy=0.0)) == [], "a flat step has no entropy"


def test_graded_rewards_are_neither_right_nor_wrong() -> None:
    (text,) = new().after_step(step(0, 0.0, 1.0, 0.1, graded=1.0))
    assert "100 % of the groups. Try the reward with `tinyzero check-task`" in text
    start = new()
    fallen = [start.after_step(step(i, 0.5 * (i < 3), 0.5, graded=1.0)) for i in range(6)]
    assert fallen == [[]] * 6


def test_a_fall_counts_only_from_a_height() -> None:
    assert signs.collapse({}) is None
    assert signs.collapse({"accuracy": [0.09, 0.09, 0.0, 0.0]}) is None
    assert signs.collapse({"accuracy": [0.1, 0.1, 0.0, 0.0]}) is not None
    assert signs.collapse({"accuracy": [0.5, 0.0, 0.5, 0.0]}) is None
    assert easier([]) == "easier problems"


def test_a_cut_answer_that_can_be_right_is_not_a_fault() -> None:
    wrong = {"truncated": [0.4] * 6, "accuracy": [0.5] * 6}
    assert signs.truncation(wrong) is not None
    assert signs.truncation(wrong | {"accuracy": [0.5] * 5 + [0.7]}) is None
    assert signs.truncation({"truncated": [0.9] * 4, "accuracy": [0.05] * 4}) is None, "too early"


def asked(tmp_path: Path, **model: Any) -> Config:
    shape = {"hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49_152}
    shape |= {"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
    shape |= {"model_type": "llama", "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    return resolve({"model": {"name": str(tmp_path), "device": "cpu", **model}}, {})


def test_bfloat16_on_a_cpu_without_its_units_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t\t: fpu avx2 fma\n")
    assert devices.lacks_bfloat16(info)
    info.write_text("flags\t\t: fpu avx2 avx512_bf16\n")
    assert not devices.lacks_bfloat16(info)
    assert not devices.lacks_bfloat16(tmp_path / "nothing")

    monkeypatch.setattr(check, "lacks_bfloat16", lambda: True)
    said = check.slow_type(asked(tmp_path, dtype="bfloat16"))
    assert said is not None
    assert devices.LACKS in said
    assert said.endswith("use --model.dtype float32")
    assert check.slow_type(asked(tmp_path, dtype="float32")) is None
    monkeypatch.setattr(check, "lacks_bfloat16", lambda: False)
    assert check.slow_type(asked(tmp_path, dtype="bfloat16")) is None


def test_a_run_that_does_not_fit_is_said_with_the_sentence_of_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grpo = load_algorithm("grpo")
    for gigabytes, is_said in ((64, False), (4, True)):
        cpu = replace(devices.CPU, name="this machine", memory=gigabytes * 1e9)
        monkeypatch.setattr(check, "this_cpu", lambda cpu=cpu: cpu)
        said = check.too_little_memory(asked(tmp_path), grpo)
        assert (said is not None) == is_said
    assert said is not None
    assert said.startswith("this run will not fit: it needs ")
    assert "more than the usable 3.7 GB of 4.0 GB; this plan fits with --model.checkpoint" in said

    few = asked(tmp_path)
    rows = few.model_copy(update={"rollout": few.rollout.model_copy(update={"rows": 65_536})})
    cpu = replace(devices.CPU, name="this machine", memory=64e9)
    monkeypatch.setattr(check, "this_cpu", lambda: cpu)
    assert check.too_little_memory(rows, grpo) is None, "the sampler's cache always fits"
