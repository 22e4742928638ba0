"""Tasks whose answers end in other ways than in bundled tasks. Their classes are in toy_ends.py."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny

import tinyzero
from tinyzero import cli, models
from tinyzero.config import resolve
from tinyzero.errors import UserError
from tinyzero.evaluate import distinct_problems, evaluate, shortfall
from tinyzero.grading import extract_answer, find_answer
from tinyzero.rollouts import Player, Source
from tinyzero.run import records
from tinyzero.tasks import load_task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.train import train
from tinyzero.types import Problem, SamplingParams, Split

TASKS = Path(__file__).with_name("toy_ends.py")
STOPS = {"Line": "\n", "Boxed": "}", "Fence": "```", "Hashes": "\n"}


def options(base: Path, task: str, **more: Any) -> Mapping[str, Any]:
    table: dict[str, Any] = {
        "steps": 1,
        "task": {"name": f"{TASKS}:{task}"},
        "algorithm": {"name": "grpo"},
        "model": {"name": str(base)},
        "rollout": {"prompts": 4, "samples": 4, "max_tokens": 40},
        "eval": {"every": 1, "problems": 8, "test_problems": 4},
        "run": {"rollouts_every": 1, "rollouts": 16},
    }
    return {**table, **more}


@pytest.mark.parametrize("name", list(STOPS))
def test_a_task_says_where_its_answers_end(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, run, out = STOPS[name], tmp_path / "run", tmp_path / "out"
    train(resolve(options(base, name), {}), run)
    (step,) = records.read(run / "metrics.jsonl")
    assert not [key for key in step if key.startswith("behaviour/")], "it measures nothing"
    texts = [(r["text"], r["finish_reason"]) for r in records.read(run / "rollouts.jsonl")]
    assert all(stop not in text.removesuffix(stop) for text, _ in texts)
    assert all(why == "stop" for text, why in texts if text.endswith(stop))
    assert any(text.endswith(stop) for text, _ in texts) or len(stop) > 1

    assert cli.main(["eval", str(run), "--n", "8", "--json", str(tmp_path / "eval.json")]) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["n"] == 8
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "sampled.jsonl")]) == 0
    sampled = [r["text"] for r in records.read(tmp_path / "sampled.jsonl")]
    assert all(stop not in text.removesuffix(stop) for text in sampled)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert cli.main(["play", str(run)]) == 0

    assert cli.main(["export", str(run), str(out)]) == 0
    generation = json.loads((out / "generation_config.json").read_text())
    ids = models.load_tokenizer(str(out))(stop)["input_ids"]
    if len(ids) == 1:
        assert generation["eos_token_id"] == sorted([0, *ids])
    else:
        assert generation["stop_strings"] == [stop]
    card = (out / "README.md").read_text()
    assert f"stop={json.dumps([stop])}" in card
    assert "</answer>" not in card


def test_answers_may_be_as_long_as_code_is() -> None:
    code = "x = 1\n" * 5000
    text = f"so</think>\n```python\n{code}```"
    assert find_answer(text, "```python\n", "```", after="</think>") == code.strip()
    assert find_answer(text, "```python\n", "```", longest=1000) is None
    assert extract_answer(f"</think><answer>{'1' * 1000}</answer>") == "1" * 1000
    assert extract_answer(f"</think><answer>{'1' * 1001}</answer>") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 7\n#### 8\n", "8"),
        ("#### 7\n#### 8", "7"),  # cut short
        ("7\n", None),
        ("", None),
        ("####\n", ""),
    ],
)
def test_the_last_complete_answer_is_found(text: str, found: str | None) -> None:
    assert find_answer(text, "####", "\n") == found


def player(context: int | None = None, **more: Any) -> Player:
    sampler = tiny.sampler(tiny.model(layers=1))
    task = load_task(f"{TASKS}:Few")
    return Player(
        task,
        sampler,
        lambda p: models.encode_prompt(tiny.tokenizer(), p),
        "base",
        context=context,
        **more,
    )


def test_a_finite_split_is_evaluated_whole_and_the_shortfall_is_reported(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(distinct_problems(load_task(f"{TASKS}:Few"), "dev", 256)) == 20
    found = options(base, "Few", eval={"every": 1, "problems": 256}, steps=3)
    train(resolve(found, {"rollout.prompts": 8, "rollout.max_tokens": 8}), tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("eval.problems is 256: split 'dev' has 20 distinct problems") == 1
    assert {e["n"] for e in records.read(tmp_path / "run" / "eval.jsonl")} == {20}
    assert [m["step"] for m in records.read(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2]


def test_prompts_that_do_not_fit_are_skipped_by_index_and_counted() -> None:
    params = SamplingParams(max_tokens=8, n=2)
    source = Source(player(context=60), list, prompts=4, params=params)
    asked = [[g[0].problem.fields["a"] for g in source.take(step)] for step in range(3)]
    assert asked == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 0, 2]]
    assert source.collected.skipped_prompts == 4
    assert source.cursor.next == 23
    again = Source(player(context=60), list, prompts=4, params=params)
    again.cursor = type(again.cursor).from_state({"next": 15, "surplus": []})
    assert [g[0].problem.fields["a"] for g in again.take(2)] == [16, 18, 0, 2]


def test_an_evaluation_says_how_many_it_left_out() -> None:
    params = SamplingParams(max_tokens=8)
    found = evaluate(player(context=60), split="dev", problems=256, params=params).metrics
    assert (found["n"], found["skipped_prompts"]) == (10, 10)
    said = shortfall(256, found)
    assert said == (
        "split 'dev' has only 20 distinct problems; "
        "10 prompts do not fit into the model's context and were left out"
    )
    whole = evaluate(player(context=500), split="dev", problems=20, params=params).metrics
    assert shortfall(20, whole) == ""


def test_prompts_that_do_not_fit_are_an_error_if_the_recipe_says_so() -> None:
    params = SamplingParams(max_tokens=8, n=2)
    source = Source(player(context=60, too_long="error"), list, prompts=4, params=params)
    with pytest.raises(UserError, match=r"'train:1' has a prompt of 63 tokens.*context of 60"):
        source.take(0)


def test_a_task_without_a_prompt_that_fits_is_answered_in_one_line() -> None:
    params = SamplingParams(max_tokens=8, n=2)
    with pytest.raises(UserError, match="1000 prompts in a row do not fit"):
        Source(player(context=8), list, prompts=4, params=params).take(0)


def test_the_package_works_without_countdown(tmp_path: Path, base: Path) -> None:
    package = tmp_path / "tinyzero"
    shutil.copytree(Path(tinyzero.__file__).parent, package)
    shutil.rmtree(package / "tasks" / "countdown")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    everything = (
        "import pkgutil, importlib, tinyzero;"
        f"assert tinyzero.__file__.startswith({str(tmp_path)!r});"
        "skip = ('vllm', 'cluster', '__main__');"
        "modules = pkgutil.walk_packages(tinyzero.__path__, 'tinyzero.');"
        "[importlib.import_module(m.name) for m in modules if not m.name.endswith(skip)]"
    )
    command("-c", everything)
    command("-m", "tinyzero.cli", "check-task", "multiplication")
    small = (
        "--steps 1 --rollout.prompts 2 --rollout.samples 2 --rollout.max_tokens 16 --eval.every 0"
    )
    command(
        *("-m", "tinyzero.cli", "train", "multiplication", *small.split()),
        *("--eval.test_problems", "2", "--run.dir", str(tmp_path / "run")),
    )
    (step,) = records.read(tmp_path / "run" / "metrics.jsonl")
    assert step["samples"] == 4
    command("-m", "tinyzero.cli", "report", str(tmp_path / "run"))


class Odd:
    """A task whose methods return wrong values."""

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(str(index), {}, split, str(index))

    def prompt(self, problem: Problem, template: str) -> Any:
        return "hello"

    def reward(self, problem: Problem, text: str) -> bool:
        return False

    def solution(self, problem: Problem) -> str:
        return "x"


@pytest.mark.parametrize(
    ("method", "returns", "call", "says"),
    [
        (
            "prompt",
            "",
            lambda t, p: t.prompt(p, "base"),
            "prompt of problem '0' of the task odd gives ''",
        ),
        ("prompt", None, lambda t, p: t.prompt(p, "base"), "return text or chat messages"),
        ("size", "7", lambda t, p: t.size("dev"), "size of the task odd gives '7'"),
        ("size", -1, lambda t, p: t.size("dev"), "a whole number from 0"),
        ("describe", None, lambda t, p: t.describe(p), "return labels by name"),
        ("measure", None, lambda t, p: t.measure(p, ""), "return numbers by name"),
        ("measure", {"b": "x"}, lambda t, p: t.measure(p, ""), "measure of problem '0'"),
    ],
)
def test_a_wrong_return_value_is_answered_in_one_line(
    method: str, returns: Any, call: Any, says: str
) -> None:
    kind = type("Odd", (Odd,), {method: lambda self, *arguments: returns})
    task = GuardedTask(kind(), "odd", {})
    with pytest.raises(UserError) as caught:
        call(task, task.problem("dev", 0))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_stop_string_is_accepted_and_nonsense_is_rejected() -> None:
    assert GuardedTask(type("Odd", (Odd,), {"stop": "</answer>"})(), "odd", {}).stop == (
        "</answer>",
    )
    for stop in (None, ("",), (3,), 7):
        with pytest.raises(UserError, match="stop of the task odd is"):
            GuardedTask(type("Odd", (Odd,), {"stop": stop})(), "odd", {})
