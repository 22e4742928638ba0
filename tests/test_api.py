"""The Python API: what a script or a notebook sees."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from helpers import refused

import tinyzero
from tinyzero import models
from tinyzero.errors import UserError
from tinyzero.types import Problem, Reward, Split

SMALL = {
    "steps": 2,
    "rollout": {"prompts": 2, "samples": 2, "max_tokens": 16},
    "eval": {"test_problems": 2, "max_tokens": 16},
    "model": {"threads": 1},
}


class Letters:
    """Say the letter. The task is defined in the script that uses it."""

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"{split}:{index}", {"letter": "abc"[index % 3]}, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return problem.fields["letter"] + "\n"

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(float(text.startswith(problem.fields["letter"])))

    def solution(self, problem: Problem) -> str:
        return str(problem.fields["letter"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tinyzero.Run:
    return tinyzero.train("laptop", folder=tmp_path_factory.mktemp("runs") / "small", **SMALL)


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import tinyzero, sys; tinyzero.recipes(); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_functions_are_not_hidden_by_modules_of_their_names() -> None:
    code = """
    import tinyzero
    import tinyzero.train, tinyzero.evaluate
    from tinyzero.train import train as loop
    assert tinyzero.train is not loop and callable(tinyzero.train) and callable(tinyzero.evaluate)
    assert set(tinyzero.__all__) <= set(dir(tinyzero))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_run_is_plain_lists(run: tinyzero.Run) -> None:
    metrics = run.metrics
    assert metrics["step"] == [0, 1]
    assert all(isinstance(values, list) and len(values) == 2 for values in metrics.values())
    assert {e["step"] for e in run.evaluations} == {0, 2}
    assert run.rollouts[0]["text"]
    assert run.config["steps"] == 2
    assert repr(run) == f"Run({str(run.folder)!r})"


def test_a_run_is_plotted(run: tinyzero.Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = run.plot("accuracy", "response_length")
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy", "response_length"]
    assert list(figure.axes[0].lines[0].get_ydata()) == run.metrics["accuracy"]
    figure.savefig(tmp_path / "curve.png")
    with pytest.raises(UserError, match="recorded no 'acuracy'"):
        run.plot("acuracy")


def test_a_run_is_scored_and_asked(run: tinyzero.Run) -> None:
    scores = tinyzero.evaluate(run, problems=3, samples=2, max_tokens=16)
    assert (scores["n"], scores["k"], scores["split"]) == (3, 2, "test")
    assert 0 <= scores["pass@1/low"] <= scores["pass@1"] <= scores["pass@2"] <= 1
    again = tinyzero.evaluate(str(run.folder), problems=3, samples=2, max_tokens=16)
    assert again["pass@1"] == scores["pass@1"]
    answers = tinyzero.sample(run, problems=2, samples=2, max_tokens=8)
    assert len(answers) == 4
    assert {"prompt", "text", "reward", "parts", "problem"} <= answers[0].keys()


def test_a_resumed_run_equals_the_whole_one(run: tinyzero.Run, tmp_path: Path) -> None:
    first = tinyzero.train("laptop", folder=tmp_path / "run", **{**SMALL, "steps": 1})
    assert first.metrics["step"] == [0]
    again = tinyzero.train(folder=tmp_path / "run", resume=True, steps=2)
    assert again.metrics["accuracy"] == run.metrics["accuracy"]
    assert again.metrics["loss"] == run.metrics["loss"]


def test_a_class_is_a_task(tmp_path: Path) -> None:
    task = tinyzero.load_task(Letters)
    assert task.problem("train", 1).fields == {"letter": "b"}
    run = tinyzero.train(task=Letters, folder=tmp_path / "own", **SMALL)
    assert len(run.metrics["reward"]) == 2
    assert not [name for name in run.metrics if name.startswith("behaviour/")]


def test_a_class_of_a_script_is_a_task(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    body = "\n".join(
        [
            "import tinyzero",
            "from tinyzero.types import Problem, Reward",
            "class Mine:",
            "    def problem(self, split, index):",
            "        return Problem(str(index), {'i': index}, split, str(index))",
            "    def prompt(self, problem, template): return 'a'",
            "    def reward(self, problem, text): return len(text) % 2 == 0",
            "    def solution(self, problem): return 'aa'",
            f"run = tinyzero.train(task=Mine, folder={str(tmp_path / 'run')!r}, **{SMALL!r})",
            "print(len(run.metrics['reward']), sum(run.metrics['grading/raised']))",
        ]
    )
    script.write_text(body)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "2 0"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tinyzero.train("lapptop"), "unknown recipe 'lapptop': did you mean laptop?"),
        (lambda: tinyzero.train("laptop", stepz=3), "unknown key stepz"),
        (lambda: tinyzero.train("laptop", rollout={"prompts": 0}), "rollout.prompts is 0"),
        (lambda: tinyzero.train("laptop", resume=True), "give folder="),
        (lambda: tinyzero.Run("nowhere"), "nowhere is not a run"),
        (
            lambda: tinyzero.load_task("countdwn"),
            "unknown task 'countdwn': did you mean countdown?",
        ),
        (lambda: tinyzero.load_task("countdown", max_number=0), "task"),
        (lambda: tinyzero.evaluate("tiny", max_tokens=-3), "max_tokens is -3: give a whole number"),
        (lambda: tinyzero.evaluate("tiny", temperature=float("nan")), "temperature is nan"),
        (lambda: tinyzero.evaluate("tiny", samples=0), "samples is 0"),
        (lambda: tinyzero.evaluate("tiny", problems=2.5), "problems is 2.5"),  # type: ignore[arg-type]
        (lambda: tinyzero.evaluate("tiny", split="nosuch"), "use one of train, dev, test"),  # type: ignore[arg-type]
        (lambda: tinyzero.sample("tiny", seed=-1), "seed is -1"),
        (lambda: tinyzero.load_task("session:Gone"), "was defined in a notebook"),
    ],
)
def test_a_mistake_is_one_line(call: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_example_in_the_package_is_true(run: tinyzero.Run) -> None:
    documented = tinyzero.__doc__ or ""
    for name in tinyzero.__all__:
        assert f"`{name}`" in documented
        assert getattr(tinyzero, name).__doc__


def test_too_few_problems_are_found_before_the_model_is_loaded(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(models, "load_model", load)
    few: dict[str, Any] = {"task.max_number": 9, "task.min_count": 2, "task.max_count": 2}
    with pytest.raises(UserError, match="distinct"):
        tinyzero.evaluate(base, problems=500, task="countdown", **few)
    words = [f"--{key}={value}" for key, value in few.items()]
    assert "distinct" in refused(capsys, "eval", base, "--task", "countdown", "--n", 500, *words)
