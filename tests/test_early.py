"""Early words come at bad starts, and never in the recorded run of the recipe laptop."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinyzero.algorithms import load_algorithm
from tinyzero.config import Config, resolve
from tinyzero.cost import devices
from tinyzero.run import check
from tinyzero.run.early import Start, easier, fell_to_zero

EXAMPLE = Path(__file__).parents[1] / "docs" / "example-report.html"


def step(number: int, accuracy: float, flat: float, cut: float = 0.0, **more: Any) -> Any:
    figures = {"accuracy": accuracy, "flat_groups": flat, "truncated": cut, "entropy": 1.0}
    return {"step": number, **figures, **more}


def evaluation(pass_1: float, cut: float = 0.0, **more: Any) -> Any:
    return {"n": 64, "k": 1, "pass@1": pass_1, "accuracy": pass_1, "truncated": cut, **more}


def new(levels: tuple[str, ...] = ("max_number",)) -> Start:
    return Start(levels, max_tokens=12, learning_rate=5e-5)


def test_the_recorded_run_of_laptop_gives_no_early_word() -> None:
    page = EXAMPLE.read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S)
    assert found
    (run, *_) = json.loads(found[1])["runs"]
    columns = {
        key: run["curves"]["steps"][key]
        for key in ("accuracy", "flat_groups", "truncated", "entropy")
    }
    tests = {key: run["curves"]["test"][key] for key in ("n", "k", "pass@1", "truncated")}
    before: Any = {key: values[0] for key, values in tests.items()}
    assert 0.1 < before["pass@1"] < 0.2, "a weak start, but one that learns"

    start, said = new(), []
    said += start.after_evaluation([before | {"accuracy": before["pass@1"]}])
    for number in range(len(columns["accuracy"])):
        said += start.after_step({"step": number} | {k: v[number] for k, v in columns.items()})
    assert said == []


@pytest.mark.parametrize(
    ("accuracy", "flat", "cut"),
    [
        (0.109, 0.45, 0.81),  # most answers are cut, but enough are right
        (0.30, 0.12, 0.02),
        (0.06, 0.7, 0.0),
        (0.9, 0.85, 0.0),  # easy, not hopeless
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
    (text,) = start.after_step(step(0, 0.008, 15 / 16))
    assert text.startswith("hopeless start: 0.8 % of the answers are right, and in 94 % of")
    assert "easier problems (--task.max_number)" in text
    assert "tinyzero probe" in text
    assert start.after_step(step(1, 0.0, 1.0)) == []
    assert start.after_step(step(2, 0.0, 1.0)) == []


def test_a_start_is_judged_by_its_first_two_steps() -> None:
    start = new()
    start.after_step(step(0, 0.5, 0.0))
    start.after_step(step(1, 0.5, 0.0))
    assert start.after_step(step(2, 0.04, 1.0, 0.9)) == []


def test_a_start_that_is_cut_off_names_a_longer_limit() -> None:
    (text,) = new().after_step(step(0, 0.0, 0.5, 0.83))
    assert text.startswith("cut off: 83 % of the answers reach the limit of 12 tokens and 0 % are")
    assert "--rollout.max_tokens 24" in text


def test_nothing_right_before_training_names_easier_problems() -> None:
    none, cut = new().after_evaluation([evaluation(0.0), evaluation(0.0, 0.8)])
    assert none.startswith("none of 128 answers is right before training")
    assert "(--task.max_number)" in none
    assert cut.startswith("cut off: 80 %")
    assert new().after_evaluation([]) == []
    assert new().after_evaluation([evaluation(0.0, graded=1.0)]) == []


def test_the_run_that_a_high_rate_destroyed_is_noticed_at_its_fifth_step() -> None:
    accuracies = [0.047, 0.039, 0.062, 0.164, 0.000, 0.023, 0.000, 0.008]
    start = new()
    said = [start.after_step(step(i, a, 0.7)) for i, a in enumerate(accuracies)]
    assert [bool(texts) for texts in said] == [False] * 4 + [True] + [False] * 3
    assert said[4] == [
        "collapsing: no answer of this step is right, after 16 % before; the learning rate is "
        "probably too high: try --optimizer.learning_rate 1e-05"
    ]


def test_a_crash_of_the_entropy_is_a_collapse_unless_the_task_is_solved() -> None:
    for accuracy, is_said in ((0.2, True), (0.8, False)):
        start = new()
        start.after_step(step(0, accuracy, 0.1, entropy=1.2))
        texts = start.after_step(step(1, accuracy, 0.1, entropy=0.05))
        assert bool(texts) == is_said
    start = new()
    start.after_step(step(0, 0.2, 0.1, entropy=1.2))
    assert start.after_step(step(1, 0.2, 1.0, entropy=0.0)) == [], "a flat step has no entropy"


def test_graded_rewards_are_neither_right_nor_wrong() -> None:
    assert new().after_step(step(0, 0.0, 1.0, 0.9, graded=1.0)) == []


def test_a_fall_counts_only_from_a_height() -> None:
    assert not fell_to_zero([])
    assert not fell_to_zero([0.09, 0.0])
    assert fell_to_zero([0.1, 0.0])
    assert easier([]) == "easier problems"


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
