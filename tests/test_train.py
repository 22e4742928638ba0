"""The whole loop on a random model: a run that was interrupted ends like one that was not."""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import refused
from toy_task import Early

import tinyzero
from tinyzero import algorithms, cli, learner, models, tasks
from tinyzero.algorithms import losses
from tinyzero.config import Config, resolve, to_toml
from tinyzero.config import recipe as recipes
from tinyzero.errors import NonFiniteError, UserError
from tinyzero.registry import load_object
from tinyzero.run import check, checkpoint, glossary, preflight, progress, records, trackers
from tinyzero.run.parts import locked, remove_start
from tinyzero.tasks import load_task
from tinyzero.tools.report import alarms
from tinyzero.train import train
from tinyzero.types import Problem, Prompt

STEPS = 5
TOYS = Path(__file__).with_name("toy_task.py")
TOY_SAMPLERS = Path(__file__).with_name("toy_sampler.py")
PLEASED = Path(__file__).with_name("toy_algorithm.py")
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"name": "ppo", "kl_in_reward": 0.001, "lam": 0.9},
    "picky": {"name": f"{PLEASED}:Picky", "kl": 0.01, "refresh": 2},
    "prime": {"name": "prime", "filter": "none", "kl": 0.01, "update": "before"},
}


def config(base: Path, algorithm: str = "picky", task: str = f"{TOYS}:Early") -> Config:
    optimizer = {"learning_rate": 0.005, "schedule": "linear", "warmup": 2}
    return resolve(
        {
            "steps": STEPS,
            "task": {"name": task},
            "algorithm": ALGORITHMS[algorithm],
            "model": {"name": str(base)},
            "rollout": {"prompts": 4, "samples": 4, "max_tokens": 5},
            "optimizer": optimizer,
            "critic": optimizer,
            "prm": optimizer,
            "update": {"minibatches": 2, "micro_tokens": 64},
            "eval": {"every": 2, "problems": 4, "test_problems": 5, "samples": 2, "greedy": True},
            "checkpoint": {"every": 2, "keep": 9},
            "run": {"rollouts_every": 2, "rollouts": 3},
        },
        {},
    )


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each algorithm that nothing interrupted."""
    runs = {name: tmp_path_factory.mktemp("whole") / name for name in ALGORITHMS}
    for name, folder in runs.items():
        train(config(base, name), folder)
    return runs


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(config(base)))
    return path


def recorded(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every record of a run, without the metrics of time and memory."""
    return {
        name: [
            {k: v for k, v in record.items() if not k.startswith(("time/", "memory/"))}
            for record in records.read(folder / f"{name}.jsonl")
        ]
        for name in ("metrics", "eval", "rollouts")
    }


def state(folder: Path) -> dict[str, Any]:
    found = checkpoint.load_latest(folder, lambda text: pytest.fail(text))
    assert found is not None
    return {
        key: value for key, value in found[1].items() if key not in ("seconds", "cpu", "records")
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same(folder: Path, expected: Path) -> None:
    """Every metric and every weight equals that of the uninterrupted run."""
    assert recorded(folder) == recorded(expected)
    assert same(state(folder), state(expected))
    newest = f"checkpoints/step_{STEPS:06d}/model/model.safetensors"
    assert (folder / newest).read_bytes() == (expected / newest).read_bytes()


def test_evaluations_sample_at_the_temperature_of_training_or_at_their_own() -> None:
    given: dict[str, Any] = {"rollout": {"temperature": 0.8}}
    assert resolve(given, {}).eval_temperature == 0.8
    assert resolve(given, {"eval.temperature": 0.3}).eval_temperature == 0.3
    with pytest.raises(UserError, match=r"eval\.temperature is 0\.001: use 0 for rollout"):
        resolve(given, {"eval.temperature": 0.001})


@pytest.mark.parametrize(("own", "recorded"), [(0.0, 0.7), (0.4, 0.4)])
def test_the_temperature_of_evaluations_is_recorded(
    base: Path, tmp_path: Path, own: float, recorded: float
) -> None:
    changes = {"rollout.temperature": 0.7, "eval.temperature": own, "steps": 1}
    settings = resolve(config(base).model_dump(), changes)
    train(settings, tmp_path / "run")
    lines = (tmp_path / "run" / "eval.jsonl").read_text().splitlines()
    assert {json.loads(line)["temperature"] for line in lines} == {recorded}


def test_a_sampler_of_ones_own_is_one_file(recipe: Path, tmp_path: Path) -> None:
    """The command line names it, `for_model` builds it, and it gets the weights after each step."""
    toy = load_object(f"{TOY_SAMPLERS}:Uniform")
    toy.built.clear()
    toy.pushed.clear()
    run, name = tmp_path / "run", f"{TOY_SAMPLERS}:Uniform"
    given = ["--run.dir", str(run), "--steps", "1", "--rollout.rows", "7"]
    assert cli.main(["train", str(recipe), "--sampler", name, *given]) == 0
    (spec,) = toy.built
    assert (spec.rows, spec.max_tokens) == (7, 5)
    assert Path(spec.model_name).is_dir()
    ((version, weights),) = toy.pushed
    assert version == 1
    assert "model.embed_tokens.weight" in weights
    (entry,) = records.read(run / "metrics.jsonl")
    assert entry["grad_norm"] > 0
    assert entry["mismatch"] > 0.1, "the logprobs are the sampler's own"
    assert 0 < entry["correction"] < 1, "a sampler that differs from the learner is corrected for"
    assert f'name = "{name}"' in (run / "config.toml").read_text()
    assert cli.main(["train", "--resume", str(run), "--steps", "2"]) == 0
    assert [version for version, _ in toy.pushed] == [1, 1, 2]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unfinished", "Unfinished lacks for_model, generate, stream, load_weights: it needs"),
        ("Unbuildable", "Unbuildable cannot be built: KeyError: 'no licence'"),
        ("Silent", "Silent never called done(0, completions): call it once for each request"),
        ("Failing", "Failing raised OSError: the server is gone (toy_sampler.py, line"),
        ("random", "sampler {}:random is module, not a class: name a class"),
        ("Unifrm", "has no 'Unifrm': did you mean Uniform?"),
    ],
)
def test_what_is_not_a_sampler_is_one_line(
    name: str, said: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--sampler", f"{TOY_SAMPLERS}:{name}", "--run.dir", tmp_path / "run", "--steps", 1]
    assert said.format(TOY_SAMPLERS) in refused(capsys, "train", recipe, *given)


def test_a_run_writes_what_it_should(whole: dict[str, Path]) -> None:
    for folder in whole.values():
        written = recorded(folder)
        assert [r["step"] for r in written["metrics"]] == list(range(STEPS))
        assert [(r["step"], r["split"]) for r in written["eval"]] == [
            (0, "test"),
            (0, "dev"),
            (2, "dev"),
            (4, "dev"),
            (STEPS, "dev"),
            (STEPS, "test"),
        ]
        assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == [
            "step_000002",
            "step_000004",
            "step_000005",
        ]
        assert {(r["step"], r["split"]) for r in written["rollouts"]} >= {
            (0, "train"),
            (2, "train"),
            (5, "test"),
        }
        assert [r["version"] for r in written["metrics"]] == list(range(STEPS))
        assert written["metrics"][-1]["samples"] == STEPS * 16
        loaded = models.load_model(str(folder / "checkpoints" / "step_000005" / "model"))
        weights = state(folder)["learners"]["policy"]["model"]
        assert same(dict(loaded.named_parameters()), dict(weights))
        assert all(r["grad_norm"] > 0.01 for r in written["metrics"]), (
            "nothing was learned, so nothing was tried"
        )
    picky = recorded(whole["picky"])["metrics"]
    assert sum(r["refill_rounds"] for r in picky) > 0
    assert sum(r["dropped_groups"] for r in picky) > 0


def weights(folder: Path, step: int, role: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(
        folder / "checkpoints" / f"step_{step:06d}" / "trainer.pt", weights_only=True
    )["learners"][role]["model"]
    return found


def test_the_policy_becomes_the_reference_now_and_then(whole: dict[str, Path]) -> None:
    assert same(weights(whole["picky"], 4, "reference"), weights(whole["picky"], 4, "policy"))
    assert same(weights(whole["picky"], 5, "reference"), weights(whole["picky"], 4, "policy"))
    assert not same(weights(whole["picky"], 5, "policy"), weights(whole["picky"], 4, "policy"))


def test_the_policy_stays_while_the_critic_warms_up(base: Path, tmp_path: Path) -> None:
    settings = resolve(config(base, "ppo").model_dump(), {"algorithm.value_warmup": 2})
    train(settings, tmp_path / "run")
    assert same(
        weights(tmp_path / "run", 2, "policy"),
        dict(models.load_model(str(base)).named_parameters()),
    )
    assert not same(weights(tmp_path / "run", 4, "policy"), weights(tmp_path / "run", 2, "policy"))
    assert not same(weights(tmp_path / "run", 4, "critic"), weights(tmp_path / "run", 2, "critic"))
    rates = [r.get("learning_rate") for r in recorded(tmp_path / "run")["metrics"]]
    ordinary = [r["learning_rate"] for r in records_of_ordinary(base, tmp_path)]
    assert rates == [None, None, ordinary[0], *ordinary[3:]], (
        "the run's schedule, but its warm-up begins late"
    )


def records_of_ordinary(base: Path, tmp_path: Path) -> list[dict[str, Any]]:
    train(config(base, "ppo"), tmp_path / "ordinary")
    return recorded(tmp_path / "ordinary")["metrics"]


def test_a_batch_that_is_refused_teaches_nothing(base: Path, tmp_path: Path) -> None:
    settings = resolve(
        config(base).model_dump(), {"algorithm.name": f"{PLEASED}:Never", "steps": 2}
    )
    train(settings, tmp_path / "run")
    assert same(
        weights(tmp_path / "run", 2, "policy"),
        dict(models.load_model(str(base)).named_parameters()),
    )
    for record in recorded(tmp_path / "run")["metrics"]:
        assert (record["refused"], record["samples"], record["tokens/trained"]) == (1, 0, 0)
        assert (record["refill_rounds"], record["dropped_groups"]) == (4, 20)
        assert record["samples/generated"] == 80 * (record["step"] + 1)
        assert "loss" not in record


def test_every_key_written_is_in_the_glossary(whole: dict[str, Path]) -> None:
    own = load_task("countdown").glossary
    for folder in whole.values():
        for name in ("metrics", "eval", "rollouts"):
            keys = {key for record in records.read(folder / f"{name}.jsonl") for key in record}
            assert {key for key in keys if glossary.define(key, own) is None} == set()
        assert keys >= {"prompt", "text", "finish_reason", "parts", "version"}
    first = next(records.read(whole["ppo"] / "metrics.jsonl"))
    assert {
        "step",
        "reward",
        "accuracy",
        "response_length",
        "time/step",
        "loss",
        "entropy",
        "grad_norm",
    } <= first.keys()
    assert {
        "value/loss",
        "value/grad_norm",
        "value/error",
        "memory/peak",
        "time/elapsed",
    } <= first.keys()


def test_the_seed_decides_everything(base: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    train(config(base), tmp_path / "again")
    assert_same(tmp_path / "again", whole["picky"])
    train(config(base).model_copy(update={"seed": 1}), tmp_path / "other")
    assert recorded(tmp_path / "other")["metrics"][0] != recorded(whole["picky"])["metrics"][0]


def test_a_run_can_be_repeated_from_its_config(
    base: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    path = whole["picky"] / "config.toml"
    assert cli.main(["train", str(path), "--run.dir", str(tmp_path / "again"), "--steps", "1"]) == 0
    again, first = (
        recorded(tmp_path / "again")["metrics"][0],
        recorded(whole["picky"])["metrics"][0],
    )
    assert again | {"learning_rate": 0} == first | {"learning_rate": 0}


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tinyzero import cli, registry
Early = registry.load_object(sys.argv[5])
pose, calls = Early.prompt, 0
def prompt(self, problem, template):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return pose(self, problem, template)
Early.prompt = prompt
cli.main(["train", sys.argv[3], "--run.dir", sys.argv[4]])
"""
# at least 17 before the folder exists, two evaluations on test, four on dev, and the steps
PROMPTS = 17 + 2 * 10 + 4 * 8 + STEPS * 4


def test_kill_9_anywhere_and_resume(recipe: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    at, run = random.randrange(18, PROMPTS), tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(TOYS.parent), str(at), str(recipe), str(run)]
    command += [f"{TOYS}:Early"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert cli.main(["train", "--resume", str(run)]) == 0, f"killed at prompt {at}"
    assert_same(run, whole["picky"])


class Crash(BaseException):
    """Takes the place of a killed process."""


def crashing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Crash at the `at`-th record, which is not written, and leave half of another line behind."""
    write, left = records.append, [at]

    def append(path: Path, record: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            with path.open("a") as file:
                file.write('{"step": 99, "torn')
            raise Crash
        write(path, record)

    monkeypatch.setattr(records, "append", append)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_crash_between_any_two_records(
    algorithm: str,
    base: Path,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = sum(map(len, recorded(whole[algorithm]).values()))
    points = (
        sorted(random.sample(range(2, written), 3))
        if algorithm == "ppo"
        else [written - 1, written]
    )
    for at in points:
        run = tmp_path / str(at)
        with monkeypatch.context() as patch:
            crashing(patch, at)
            with pytest.raises(Crash):
                train(config(base, algorithm), run)
        train(config(base, algorithm), run, resume=True)
        assert_same(run, whole[algorithm])


def signalling(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
    """Send this process a signal when the `at`-th prompt is built."""
    kind = load_object(f"{TOYS}:Early")
    pose, left = kind.prompt, [at]

    def prompt(self: Early, problem: Problem, template: str) -> Prompt:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(number)  # to this thread, at once
        return pose(self, problem, template)

    monkeypatch.setattr(kind, "prompt", prompt)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_the_run_can_be_resumed(
    number: int,
    base: Path,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    recipe.write_text(to_toml(config(base)))
    # the command has a handler of its own
    assert cli.main(["train", str(recipe), "--dry-run"]) == 0
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        # after the 17 prompts of the checks and the 33 of the first evaluations, before the end
        signalling(patch, number, at=17 + 33 + random.randrange(1, 17))
        assert cli.main(["train", str(recipe), "--run.dir", str(run)]) == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    said = capsys.readouterr()
    assert f"--resume {run}" in said.out
    assert "Traceback" not in said.err
    assert 1 <= len(recorded(run)["metrics"]) < STEPS
    assert state(run)["step"] == len(recorded(run)["metrics"])
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert_same(run, whole["picky"])


@pytest.mark.parametrize("at", [18, 17 + 33])  # in the first evaluation, and in the second
def test_a_signal_before_the_first_step_says_how_to_start_again(
    at: int,
    recipe: Path,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signalling(patch, signal.SIGINT, at)
        assert cli.main(["train", str(recipe), "--run.dir", str(run)]) == 130
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == (
        "stopped before the first step was finished: nothing was trained; "
        f"start again with `tinyzero train --resume {run}`"
    )
    assert "press Ctrl-C again to stop at once" in said.err
    assert recorded(run)["metrics"] == []
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert_same(run, whole["picky"])


def test_a_signal_before_the_folder_is_made_leaves_none(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    signalling(monkeypatch, signal.SIGINT, at=5)
    assert cli.main(["train", str(recipe), "--run.dir", str(run)]) == 130
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == "stopped before the run began: nothing was written"
    assert not run.exists()


def test_an_interrupted_run_of_the_api_says_how_to_resume(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signalling(patch, signal.SIGINT, at=17 + 33 + 1)
        with pytest.raises(KeyboardInterrupt, match=r"stopped after step 1: resume with .*/run"):
            tinyzero.train(str(recipe), folder=run)
    resumed = tinyzero.train(folder=run, resume=True, trust=True)
    assert resumed.metrics["step"] == list(range(STEPS))


def test_a_resumed_run_counts_the_processes_before(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, steps = tmp_path / "run", ["--steps", str(STEPS + 1)]
    with monkeypatch.context() as patch:
        patch.setattr(progress, "peaks", lambda device: {"memory/peak": 10**15})
        assert cli.main(["train", str(recipe), "--run.dir", str(run)]) == 0
    assert cli.main(["train", "--resume", str(run), *steps]) == 0
    before, last = list(records.read(run / "metrics.jsonl"))[-2:]
    assert last["memory/peak"] == 10**15, "the largest of the two processes"
    for key in ("time/elapsed", "time/cpu", "flops"):
        assert last[key] > before[key]
    assert last["time/elapsed_total"] > last["time/elapsed"], "two evaluations are still to come"


def test_a_second_signal_stops_at_once(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pose, count = Early.prompt, [0]

    def prompt(self: Early, problem: Problem, template: str) -> Prompt:
        count[0] += 1
        if count[0] in (20, 21):
            signal.raise_signal(signal.SIGINT)
        return pose(self, problem, template)

    monkeypatch.setattr(Early, "prompt", prompt)
    with pytest.raises(KeyboardInterrupt):
        train(config(base, task="toy_task:Early"), tmp_path / "run")
    assert count[0] == 21
    assert "nothing was trained; start again with" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_passed_over(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole["picky"], tmp_path / "run"))
    damaged = run / "checkpoints" / "step_000005" / "trainer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert cli.main(["train", "--resume", str(run)]) == 0
    said = capsys.readouterr().out
    assert "step_000005 is damaged" in said
    assert "step_000004" in said
    assert_same(run, whole["picky"])


def test_what_was_learned_is_saved_before_it_is_evaluated(
    base: Path, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, score, saved = tmp_path / "run", progress.score, set[int]()

    def noted(running: Any, split: Any, problems: int) -> None:
        path = run / "checkpoints" / f"step_{running.step:06d}"
        if path.is_dir() and checkpoint.verify(path) is None:
            saved.add(running.step)
        score(running, split, problems)

    monkeypatch.setattr(progress, "score", noted)
    train(config(base), run)
    assert saved == {2, 4, 5}

    assert_same(run, whole["picky"])
    newest = checkpoint.load_latest(run, pytest.fail)
    assert newest is not None
    assert newest[1]["records"]["eval.jsonl"][0] == (run / "eval.jsonl").stat().st_size


def test_a_model_that_is_saved_as_another_one_is_not_trained(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = models.save_model

    def broken(model: Any, tokenizer: Any, folder: Path) -> None:
        write(model, tokenizer, folder)
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.1}))

    monkeypatch.setattr(models, "save_model", broken)
    with pytest.raises(UserError, match=r"this model cannot be saved.*its logits differ by"):
        train(config(base), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "the same command can be given again"


def test_a_run_that_cannot_start_leaves_the_files_of_others(base: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "notes").touch()
    remove_start(tmp_path / "run", keep_folder=False)
    assert (tmp_path / "run" / "checkpoints" / "notes").exists()


def test_resuming_what_is_finished_changes_nothing(whole: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole["ppo"], tmp_path / "run"))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    return said


def test_a_run_folder_that_exists(
    recipe: Path, whole: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = recorded(whole["picky"])
    assert cli.main(["train", str(recipe), "--run.dir", str(whole["picky"])]) == 2
    assert "exists" in error_line(capsys)
    assert recorded(whole["picky"]) == before


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_loses_nothing_saved(
    refusal: int,
    recipe: Path,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, save = tmp_path / "run", models.save_model

    def refuse(model: Any, tokenizer: Any, folder: Path) -> None:
        if (run / "checkpoints" / "step_000002").exists():
            raise OSError(refusal, os.strerror(refusal))
        save(model, tokenizer, folder)

    with monkeypatch.context() as patch:
        patch.setattr(models, "save_model", refuse)
        assert cli.main(["train", str(recipe), "--run.dir", str(run)]) == 2
    line = error_line(capsys)
    assert os.strerror(refusal) in line
    assert "step_000002" in line
    assert checkpoint.verify(run / "checkpoints" / "step_000002") is None
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step_000002"]
    if refusal == errno.ENOSPC:
        assert cli.main(["train", "--resume", str(run)]) == 0
        assert_same(run, whole["picky"])


def test_one_process_at_a_time_trains_in_a_folder(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole["ppo"], tmp_path / "run"))
    with locked(run):
        assert cli.main(["train", "--resume", str(run), "--steps", "6"]) == 2
        assert "another process is training in" in error_line(capsys)
    assert recorded(run) == recorded(whole["ppo"])


def test_a_reward_model_that_breaks_down_before_it_is_asked_leaves_the_batch(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        losses, "implicit_reward_loss", lambda ratios, *more: ratios.sum() * float("nan")
    )
    with pytest.raises(NonFiniteError, match=r"3 updates in a row.*broken_batch.pt"):
        train(config(base, "prime"), tmp_path / "run")
    assert (tmp_path / "run" / "broken_batch.pt").is_file()


def test_gradients_that_are_not_finite_stop_the_run_with_the_batch(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs, calls = learner.policy_outputs, [0]

    def spoilt(model: Any, batch: Any, **more: Any) -> Any:
        calls[0] += torch.is_grad_enabled()
        found = outputs(model, batch, **more)
        return {k: v * float("nan") if calls[0] > 4 else v for k, v in found.items()}

    monkeypatch.setattr("tinyzero.run.learners.policy_outputs", spoilt)
    run = tmp_path / "run"
    code = cli.main(["train", str(recipe), "--run.dir", str(run), "--update.patience", "3"])
    assert code == 1
    line = error_line(capsys)
    assert "3 updates in a row" in line
    assert "learning rate" in line
    saved = torch.load(run / "broken_batch.pt", weights_only=True)
    assert saved["tokens"].shape[0] == 16
    assert [r["skipped"] for r in recorded(run)["metrics"]] == [0, 0, 2]
    for record in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(record, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_logits_that_are_not_finite_stop_the_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--optimizer.learning_rate", "1e30", "--optimizer.warmup", "0", "--eval.every", "0"]
    assert cli.main(["train", str(recipe), "--run.dir", str(tmp_path / "run"), *options]) == 1
    assert "logits are not finite" in error_line(capsys)


def test_a_resumed_run_may_go_further_and_nothing_else(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole["picky"], run)
    for option in (
        "--algorithm=ppo",
        "--task=countdown",
        "--model.name=tiny",
        "--seed=3",
        "--run.dir=elsewhere",
    ):
        assert cli.main(["train", "--resume", str(run), option]) == 2
        assert "cannot change when a run is resumed" in error_line(capsys)
    assert cli.main(["train", "--resume", str(run), "--steps", str(STEPS + 1)]) == 0
    assert f"steps = {STEPS + 1}" in (run / "config.toml").read_text()
    assert len(recorded(run)["metrics"]) == STEPS + 1


ERROR = "--rollout.too_long=error"


def test_a_prompt_that_does_not_fit_is_skipped_and_said_once(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rollout.max_tokens=126", "--steps=1", "--task", f"{TOYS}:Lengthening"]
    run = tmp_path / "run"
    assert cli.main(["train", str(recipe), "--run.dir", str(run), *options]) == 0
    assert capsys.readouterr().out.count("such problems are skipped") == 1
    (step,) = records.read(run / "metrics.jsonl")
    assert step["skipped_prompts"] == 1
    assert all(r["problem"].split(":")[1] != "2" for r in records.read(run / "rollouts.jsonl"))


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("Lengthening", ["--rollout.max_tokens=126", ERROR], "a prompt of 6 tokens exceed"),
        ("Lengthening", ["--rollout.max_tokens=127"], "a prompt of 6 tokens exceed"),  # none fits
        ("Raising", [], "Raising raised ValueError: no such luck"),
        ("Early", ["--task.data=nosuch"], "unknown option --task.data"),
    ],
)
def test_what_cannot_start_leaves_no_folder(
    task: str,
    options: list[str],
    says: str,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    command = [
        "train",
        str(recipe),
        "--run.dir",
        str(run),
        "--task",
        f"{TOYS}:{task}",
        *options,
    ]
    assert cli.main(command) == 2
    assert says in error_line(capsys)
    assert not run.exists()


def test_a_task_that_raises_between_steps_costs_nothing(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = {"checkpoint.every": 0, "rollout.prompts": 3, "algorithm.name": "grpo"}
    settings = resolve(config(base, "ppo", "toy_task:Exhausted").model_dump(), quiet)
    (tmp_path / "recipe.toml").write_text(to_toml(settings))
    assert (
        cli.main(["train", str(tmp_path / "recipe.toml"), "--run.dir", str(tmp_path / "run")]) == 2
    )
    assert "Exhausted raised ValueError: no more (toy_task.py, line " in error_line(capsys)
    assert state(tmp_path / "run")["step"] == len(recorded(tmp_path / "run")["metrics"]) == 3
    settings = resolve(config(base, task="toy_task:Unwritable").model_dump(), {})
    (tmp_path / "recipe.toml").write_text(to_toml(settings))
    assert (
        cli.main(["train", str(tmp_path / "recipe.toml"), "--run.dir", str(tmp_path / "set")]) == 2
    )
    assert "fields of a problem cannot be written as JSON" in error_line(capsys)
    assert not (tmp_path / "set").exists()


def test_a_run_says_what_was_asked_and_what_it_meant(
    recipe: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(
        f'steps = 1\nmodel = {{ name = "{base}" }}\ntask = {{ name = "{TOYS}:Early" }}\n'
        "rollout = { prompts = 2, samples = 2, max_tokens = 3 }\neval.test_problems = 0\n"
    )
    run = tmp_path / "run"
    typed = ["train", str(recipe), "--seed=3", "--algorithm.kl", "0.1", "--run.dir", str(run)]
    assert cli.main(typed) == 0
    asked = tomllib.loads((run / "asked.toml").read_text())
    assert asked.pop("command") == {
        "version": tinyzero.__version__,
        "lines": [f"tinyzero train {recipe} --seed=3 --algorithm.kl 0.1 --run.dir {run}"],
        "recipe": str(recipe),
        "options": ["seed", "algorithm.kl", "run.dir"],
    }
    assert asked == {
        "steps": 1,
        "seed": 3,
        "model": {"name": str(base)},
        "task": {"name": f"{TOYS}:Early"},
        "algorithm": {"name": "grpo", "kl": 0.1},
        "rollout": {"prompts": 2, "samples": 2, "max_tokens": 3},
        "eval": {"test_problems": 0},
        "run": {},
    }
    meant = tomllib.loads((run / "config.toml").read_text())
    assert meant["sampler"]["name"] == "torch"
    assert meant["algorithm"]["correction"] == "none"
    assert (meant["algorithm"]["kl_estimator"], meant["rollout"]["rows"]) == ("k3", 512)
    for name in ("asked", "config"):
        again = tmp_path / name
        assert cli.main(["train", str(run / f"{name}.toml"), "--run.dir", str(again)]) == 0
        assert recorded(again) == recorded(run), f"{name}.toml repeats the run"
        assert tomllib.loads((again / "config.toml").read_text()) == meant, "origins may differ"
    assert cli.main(["train", "--resume", str(run), "--steps", "2"]) == 0
    asked = tomllib.loads((run / "asked.toml").read_text())
    assert (asked["steps"], asked["algorithm"]) == (2, {"name": "grpo", "kl": 0.1})
    assert asked["command"]["lines"][1] == f"tinyzero train --resume {run} --steps 2"


def test_everything_is_loaded_and_checked_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        plain = getattr(module, name)

        def counting(*arguments: Any, **more: Any) -> Any:
            counted[name] += 1
            return plain(*arguments, **more)

        monkeypatch.setattr(module, name, counting)

    count(check, "load_task")
    count(check, "load_algorithm")
    count(algorithms, "load_algorithm")
    count(tasks, "load_task")
    count(recipes, "validate")
    count(algorithms, "validate")
    count(check, "check_context")
    assert cli.main(["train", str(recipe), "--steps", "1", "--run.dir", str(tmp_path / "run")]) == 0
    # the configuration is read for the options that exist, for their values, and for the alarms
    assert counted == {"load_task": 1, "load_algorithm": 1, "validate": 4, "check_context": 1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rollout.samples", "1"], "needs at least 2"),
        (
            ["--rollout.max_tokens", "128"],
            "no room for the prompt in the model's context of 128: use less",
        ),
        (["--critic.beta1", "0.5"], "critic.beta1 has no effect"),
        (["--algorithm.kll", "0.5"], "did you mean --algorithm.kl"),
        (["--task.data", "nosuch"], "unknown option --task.data"),
    ],
)
def test_a_dry_run_finds_what_a_run_would(
    arguments: list[str],
    says: str,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["train", str(recipe), "--run.dir", str(tmp_path / "run"), *arguments]
    for dry in (["--dry-run"], []):
        assert cli.main([*command, *dry]) == 2
        assert says in error_line(capsys)
    assert not (tmp_path / "run").exists()


EDITS = {
    "seed = 0": ("seed = 1", "seed is 1, but the run in"),
    "learning_rate = 0.005": ("learning_rate = 0.05", "critic.learning_rate is 0.05"),
    'prompt = "compact"': ('prompt = "base"', "model.prompt is 'base'"),
    "samples = 4": ("samples = 8", "rollout.samples is 8"),
    "kl = 0.01": ("kl = 0.02", "algorithm.kl is 0.02"),
    "rank = 0": ("rank = 2", "lora.rank is 2"),
    ":Picky": (":Never", "algorithm.name is"),
    ":Early": (":Repeat", "task.name is"),
}


@pytest.mark.parametrize("before", EDITS)
def test_an_edited_configuration_is_not_resumed(
    before: str, whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole["picky"], tmp_path / "run"))
    after, says = EDITS[before]
    text = (run / "config.toml").read_text()
    assert before in text
    (run / "config.toml").write_text(text.replace(before, after))
    files = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert cli.main(["train", "--resume", str(run), "--trust"]) == 2
    assert says in error_line(capsys)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize("name", ["metrics", "eval", "rollouts"])
@pytest.mark.parametrize("how", ["a line", "all", "doubled", "reordered", "edited", "blank"])
def test_changed_records_are_not_resumed(
    name: str,
    how: str,
    whole: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(whole["picky"], tmp_path / "run"))
    path = run / f"{name}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    spoilt = {
        "a line": lines[1:],
        "all": [],
        "doubled": [lines[0], *lines],
        "reordered": lines[::-1],
        "edited": [lines[0].replace("0", "1", 1), *lines[1:]],
        "blank": [lines[0], "\n", *lines[1:]],
    }[how]
    path.write_text("".join(spoilt))
    assert cli.main(["train", "--resume", str(run)]) == 2
    assert f"{path} has changed since the newest checkpoint was saved" in error_line(capsys)
    assert path.read_text() == "".join(spoilt)


def replace_state(run: Path, state: Any) -> None:
    """Replace trainer.pt in the newest checkpoint, and its entry in the manifest."""
    path = run / "checkpoints" / f"step_{STEPS:06d}"
    torch.save(state, path / "trainer.pt")
    content, manifest = (
        (path / "trainer.pt").read_bytes(),
        json.loads((path / "manifest.json").read_text()),
    )
    manifest["files"]["trainer.pt"] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.verify(path) is None


class Mark:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_state_of_another_kind_is_one_line(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole["picky"], tmp_path / "run"))
    ours = torch.load(run / "checkpoints" / f"step_{STEPS:06d}" / "trainer.pt", weights_only=True)
    of_0_1 = {key: value for key, value in ours.items() if key not in ("config", "records")}
    policy = ours["learners"]["policy"]
    for state, says in [
        ({}, "state.step: field required"),
        ([], "state: input should be a valid dictionary"),
        (ours | {"step": -5}, "state.step: input should be greater than or equal to 1"),
        (of_0_1, "state.config: field required): begin another run, or resume with the version"),
        (ours | {"cursor": {}}, "does not belong to this run (KeyError: 'next')"),
        (ours | {"learners": {"nobody": policy}}, "not belong to this run (KeyError: 'nobody')"),
        (ours | {"learners": {"policy": {}}}, "does not belong to this run"),
        (Mark(tmp_path / "mark"), "is not a run's state (UnpicklingError"),
    ]:
        replace_state(run, state)
        assert cli.main(["train", "--resume", str(run)]) == 2
        assert says in error_line(capsys)
    assert not (tmp_path / "mark").exists()
    task = ["--task", f"{TOYS}:Early"]
    assert cli.main(["eval", str(run), "--n", "2", *task]) == 0, "which needs the model alone"
    replace_state(run, ours)
    assert cli.main(["train", "--resume", str(run)]) == 0


def test_how_often_it_was_saved_is_what_the_run_says(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was killed before its first checkpoint may be saved more often when resumed."""
    run = Path(shutil.copytree(whole["picky"], tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    text = (run / "config.toml").read_text()
    seldom, changes = re.subn(r"(\[checkpoint\]\n#.*\nevery = )2\n", r"\g<1>20\n", text)
    assert changes == 1
    (run / "config.toml").write_text(seldom)
    for name in ("metrics", "eval"):
        lines = (run / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (run / f"{name}.jsonl").write_text("".join(lines[:3]))
    assert cli.main(["train", "--resume", str(run), "--trust", "--checkpoint.every=2"]) == 0
    assert "the run starts from the beginning" in capsys.readouterr().out
    assert_same(run, whole["picky"])


@pytest.mark.parametrize("refused", ["folder", "model"])
def test_what_cannot_be_saved_is_known_before_the_first_step(
    refused: str,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    refusal = OSError(errno.EACCES, os.strerror(errno.EACCES))

    def refuse(*arguments: Any) -> None:
        raise refusal

    def refuse_folder(path: Path, *arguments: Any, **more: Any) -> None:
        if path.is_relative_to(run / "checkpoints"):
            raise refusal
        os.makedirs(path, exist_ok=True)

    with monkeypatch.context() as patch:
        if refused == "model":
            patch.setattr(models, "save_model", refuse)
        else:
            patch.setattr(Path, "mkdir", refuse_folder)
        assert cli.main(["train", str(recipe), "--run.dir", str(run)]) == 2
    assert f"cannot save checkpoint {run / 'checkpoints'}: Permission denied" in error_line(capsys)
    assert not list(run.glob("*.jsonl")), "nothing was sampled"
    assert not list(run.glob("checkpoints/*"))
    assert cli.main(["train", str(recipe), "--run.dir", str(run), "--steps", "1"]) == 0


def test_a_run_stays_in_its_folder(
    recipe: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config(base, task=f"{TOYS}:Wandering").model_copy(update={"steps": 2})
    train(settings, Path("run"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"asked.toml", "config.toml", "metrics.jsonl", "rollouts.jsonl", "checkpoints"}


FORKED = """
import os, sys
from pathlib import Path
from tinyzero.config import read_recipe, resolve
from tinyzero.run.parts import opened
config = resolve(read_recipe(sys.argv[1]), {"steps": 2})
with opened(config, Path(sys.argv[2])) as run:
    for step in run.steps():
        groups = run.source.take(step)
        batch, lesson = run.annotate(groups)
        learned = run.models.update(batch, lesson)
        run.source.publish(run.models["policy"], version=step + 1)
        child = os.fork() if step == 0 else 0
        if child:
            assert os.waitpid(child, 0)[1] == 256
        run.record(step, groups, batch, learned)
"""


def test_a_forked_process_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(recipe), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("forked from the run") == 1
    assert [r["step"] for r in recorded(tmp_path / "run")["metrics"]] == [0, 1]


def test_a_run_that_lost_something_is_not_resumed(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole["picky"], tmp_path / "run"))
    resume = ["train", "--resume", str(run)]
    assert cli.main([*resume, "--steps", "4"]) == 2
    assert "steps is 4, but 5 are done: give 5 or more" in error_line(capsys)
    before = {path: path.read_bytes() for path in run.glob("*.*")}
    text = (run / "config.toml").read_text()
    for cut, lost in (("[optimizer]", "optimizer.learning_rate"), ("steps =", "lacks steps")):
        (run / "config.toml").write_text(text.partition(cut)[0])
        assert cli.main(resume) == 2
        assert lost in error_line(capsys)
    (run / "config.toml").write_text(text)
    shutil.rmtree(run / "checkpoints")
    assert cli.main(resume) == 2
    assert "recorded 5 steps but has no checkpoint left" in error_line(capsys)
    assert {path: path.read_bytes() for path in run.glob("*.*")} == before


def test_no_limit_below_one_token_is_advised() -> None:
    too_long = resolve({"rollout": {"max_tokens": 5, "too_long": "error"}}, {})
    with pytest.raises(UserError, match="lower it to 1 or less"):
        preflight.check_lengths(too_long, [9], 10, print)
    with pytest.raises(UserError, match="context of 10: use shorter prompts"):
        preflight.check_lengths(too_long, [10], 10, print)


def test_a_folder_that_is_not_a_run_cannot_be_resumed(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(recipe), "--run.dir", str(tmp_path)]) == 2
    assert "exists: it is not a run, so name another with --run.dir" in error_line(capsys)


def test_rewards_that_raise_are_said(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(base, task="toy_task:Faulty").model_copy(update={"steps": 2}), tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("alarm: the grader failed on") == 1
    assert "ValueError: no judge today" in said
    assert sum(r["reward_errors"] for r in recorded(tmp_path / "run")["metrics"]) > 0
    (tmp_path / "recipe.toml").write_text(to_toml(config(base, task="toy_task:Hopeless")))
    assert (
        cli.main(["train", str(tmp_path / "recipe.toml"), "--run.dir", str(tmp_path / "hopeless")])
        == 2
    )
    assert "no judge today" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rollout.max_tokens", "127"], "rollout.max_tokens 127 and a prompt of 2 tokens"),
        (["--eval.max_tokens", "127"], "lower it to 126 or less"),
        (["--rollout.samples", "1"], "at least 2"),
        (["--task", "countdown", "--model.prompt", "instruct"], "chat template"),
        (["--task", "countdown", "--model.prompt", "nonsense"], "nonsense"),
        (["--model.name", "no/such/model"], "no/such/model"),
    ],
)
def test_what_cannot_run_leaves_no_folder(
    arguments: list[str],
    says: str,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["train", str(recipe), "--run.dir", str(tmp_path / "run"), *arguments]) == 2
    assert says in error_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--run.dir", "{used}"], "{used} exists: it is not a run, so name another with --run.dir"),
        (["--run.dir", "{used}/file/run"], "cannot write {used}/file/run: Not a directory; name"),
        (
            ["--task", "countdown", "--task.max_number", "5", "--eval.test_problems", "900"],
            "eval.test_problems is 900: split 'test' has only",
        ),
        (["--task", f"{TOYS}:Raising"], "Raising raised ValueError: no such luck"),
        (["--rollout.max_tokens", "127"], "a prompt of 2 tokens exceed the model's context of 128"),
        (["--task", "countdown", "--model.prompt", "nonsense"], "nonsense"),
        (["--sampler", "vllm"], "pip install 'tinyzero[vllm]'"),
        (["--run.track", "wandb"], "pip install wandb"),
    ],
)
def test_what_can_be_refused_without_a_model_is_refused_before_one_is_loaded(
    arguments: list[str],
    says: str,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("")
    monkeypatch.setattr(models, "load_model", lambda *given: pytest.fail("a model was loaded"))
    for module in (preflight, trackers):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    given = [argument.format(used=used) for argument in arguments]
    assert cli.main(["train", str(recipe), "--run.dir", str(tmp_path / "run"), *given]) == 2
    said = capsys.readouterr()
    assert says.format(used=used) in said.err
    assert "completions are sampled" not in said.out
    assert not (tmp_path / "run").exists()


def test_no_right_to_write(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["train", str(recipe), "--run.dir", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write" in error_line(capsys)


def test_the_peak_of_a_gpu_is_recorded_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    assert progress.peaks(torch.device("cpu")).keys() == {"memory/peak"}
    assert progress.peaks(torch.device("cuda"))["memory/gpu_peak"] == 7
    assert "on the GPU" in (glossary.define("memory/gpu_peak") or "")


def test_a_run_says_what_it_trains_and_that_it_cannot_learn(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    never_right = config(base, task="toy_task:Never")
    (tmp_path / "recipe.toml").write_text(to_toml(never_right))
    train_it = ["train", "recipe.toml", "--run.dir", "runs/mine", "--steps", "2"]
    assert cli.main([*train_it, "--eval.samples", "8"]) == 0
    said = capsys.readouterr().out
    trains = f"training {base} on toy_task:Never with {PLEASED}:Picky: 2 steps, in runs/mine"
    assert said.splitlines()[0] == trains
    # 4 dev and 5 test problems, eight answers to each
    assert said.count("none of 72 answers is right before training") == 1
    assert "alarm: Almost nothing to learn from. The problems are too hard" in said

    assert cli.main(["train", "--resume", "runs/mine", "--steps", "3", "--trust"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "continuing runs/mine after step 2 of 3"
    assert "before training" not in said

    def broken(streams: object) -> None:
        raise ValueError("a broken check")

    monkeypatch.setattr(alarms, "find_alarms", broken)
    assert cli.main(["train", "--resume", "runs/mine", "--steps", "4", "--trust"]) == 0
    assert "could not be found: ValueError: a broken check" in capsys.readouterr().out
