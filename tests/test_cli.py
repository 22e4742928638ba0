"""Every command works with a random model; every mistake gets one line and exit code 2."""

import importlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import refused
from jsonschema import Draft202012Validator

import tinyzero
from tinyzero import cli, models
from tinyzero.algorithms import NAMES as ALGORITHMS
from tinyzero.config import RECIPES, read_recipe, read_toml, recipes, resolve, run_name, sizes
from tinyzero.errors import UserError
from tinyzero.rollouts import Player
from tinyzero.run import records
from tinyzero.run.check import unused_gpu
from tinyzero.run.glossary import GLOSSARY

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_task.py"
COMPACT = ["--task", "countdown", "--model.prompt", "compact", "--max-tokens", "12"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Return to one thread after each test, because recipes ask for more."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = {
        "model.name": base,
        "run.dir": folder,
        "steps": 1,
        "rollout.max_tokens": 12,
        "rollout.prompts": 2,
    }
    options |= {
        "rollout.samples": 2,
        "eval.every": 0,
        "eval.test_problems": 3,
        "eval.max_tokens": 0,
        "task.max_number": 20,
        "model.threads": 1,
    }
    assert (
        cli.main(["train", "laptop", *(f"--{key}={value}" for key, value in options.items())]) == 0
    )
    return folder


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("trian", "unknown command 'trian': did you mean train?"),
        ("train nosuch", "unknown recipe 'nosuch'"),
        ("train laptob", "did you mean laptop"),
        ("train nosuch.toml", "nosuch.toml"),
        ("train laptop extra", "unexpected argument 'extra'"),
        ("train --seeds 3", "unknown option --seeds: did you mean --seed?"),
        ("train --rollout.promts 3", "did you mean --rollout.prompts?"),
        (
            "train --rolout.prompts 3",
            "unknown option --rolout.prompts: did you mean --rollout.prompts?",
        ),
        ("train --steps many", "steps"),
        ("train --steps", "--steps needs a value: write --steps VALUE"),
        ("train --profil 24gb", "unknown option --profil: did you mean --profile?"),
        ("train --rollout.stop x", "unknown option --rollout.stop"),
        ("train --model.device mps", "model.device is 'mps': use auto, cpu, cuda, or cuda:N"),
        ("tasks countdwn", "did you mean countdown"),
        ("algorithms gpro", "did you mean gspo or grpo"),
        ("explain rolout.samples", "did you mean rollout.samples"),
        ("explain response_lenght", "did you mean response_length"),
        ("explain zzz", "no metric or option is called 'zzz'"),
        ("completion powershell", "shell"),
        ("train --run.dir --dry-run", "--run.dir needs a value"),
        ("train --run.dir --steps 5", "--run.dir needs a value"),
        ("train --task [1] --dry-run", "unknown task '[1]': use one of"),
        (f"train --seed {'1' * 5000}", "seed"),
        (f"train {'a' * 300}.toml", "File name too long"),
        ("train --algorithm.kl true --dry-run", "algorithm.kl is True"),
        ("train --task.max_number '\"25\"' --dry-run", "task.max_number is '25'"),
        (
            "train --critic.learning_rate 1 --dry-run",
            "critic.learning_rate has no effect: grpo has no critic",
        ),
        (
            "train --prm.learning_rate 1 --algorithm ppo --dry-run",
            "prm.learning_rate has no effect",
        ),
        ("train --lora.alpha 8 --dry-run", "lora.alpha has no effect: lora.rank is 0"),
        ("train --eval.problems 8 --eval.every 0 --dry-run", "eval.problems has no effect"),
        ("train --run.rollouts 3 --run.rollouts_every 0 --dry-run", "run.rollouts has no effect"),
        ("train --sampler.cache_gb 2 --sampler torch --dry-run", "sampler.cache_gb has no effect"),
        ("train --rollout.prompts 2.5", "rollout.prompts"),
        ("eval tiny --temperature 0 --k 8 --n 4", "--k 8 at --temperature 0 gives the same"),
        ("train --update.pack yes", "--update.pack is 'yes': write true or false"),
        ("train --steps '5\nseed=3' --dry-run", "steps is '5\\nseed=3'"),
        ("train --steps '5 # five' --dry-run", "steps is '5 # five'"),
        ("train --run.dir 'a\nb' --dry-run", "run.dir is 'a\\nb'"),
        ("train --run.dir run_\udcff", "'run_\\udcff' has bytes that are not UTF-8"),
        ("train --model.date yesterday --dry-run", "model.date is 'yesterday': write year"),
        ("train --optimizer.learning_rate -1", "optimizer.learning_rate"),
        ("train --task countdwn", "did you mean countdown"),
        ("train --task no.such.module:Task", "no.such.module"),
        ("train --task nosuch.py:Task", "nosuch.py"),
        ("train --task.max_nmber 3", "did you mean --task.max_number"),
        ("train --task.max_number three", "task.max_number"),
        ("train --algorithm gpro", "did you mean gspo or grpo"),
        ("train --algorithm.kl -1", "algorithm.kl"),
        ("train --algorithm ppo --algorithm.scale none", "algorithm.scale"),
        ("train --sampler vlm --dry-run", "unknown sampler 'vlm': did you mean vllm?"),
        ("train --sampler scripted --dry-run", "unknown sampler 'scripted': use one of"),
        ("train --sampler nosuch.py:Mine --dry-run", "nosuch.py"),
        ("train --resume nosuch", "no run at nosuch"),
        ("train laptop --resume nosuch", "laptop"),
        ("train --model.name no/such/model/folder --run.dir never", "no/such/model/folder"),
        ("eval", "MODEL"),
        ("eval nosuch", "nosuch"),
        ("eval nosuch --n 0", "--n"),
        ("eval nosuch --n many", "--n"),
        ("eval nosuch --k -1", "--k"),
        ("eval nosuch --temperature -1", "--temperature"),
        ("eval nosuch --temperature 1e-40", "'1e-40' is not 0, or a number from 0.01 to 100"),
        ("eval tiny --rollout.temperature 0.5", "unknown option --rollout.temperature"),
        ("play tiny --steps 5", "--steps"),
        ("sample tiny --out x.jsonl --model.name y", "unknown option --model.name"),
        ("eval nosuch --top-p 0", "--top-p"),
        ("eval nosuch --top-k -5", "--top-k"),
        ("eval nosuch --seed -5", "--seed"),
        ("eval nosuch --split trian", "--split"),
        ("eval nosuch --recipe nosuch", "unknown recipe"),
        ("eval nosuch --task countdwn", "did you mean countdown"),
        ("eval nosuch --nn 3", "--nn"),
        ("play nosuch", "nosuch"),
        ("sample nosuch", "--out"),
        ("data", "--out"),
        ("data multiplicatoin --out x.jsonl", "did you mean multiplication"),
        ("data --out x.csv", "x.csv"),
        ("data --stats nosuch.parquet", "nosuch.parquet"),
        ("data --out x.jsonl --task.max_nmber 3", "max_nmber"),
        ("data --out no/such/folder/x.jsonl --n 2", "x.jsonl"),
        ("data --n 50 --out x.jsonl --task.max_number 1", "no Countdown problem of split"),
        (
            "data --stats x.jsonl --task.max_number 1",
            "--task.max_number is for writing problems",
        ),
        ("data --stats x.jsonl --out y.jsonl", "writes nothing: leave out --out y.jsonl"),
        ("data --out x.jsonl --optimizer.learning_rate 3", "unknown option --optimizer"),
        (
            "check-task countdown --optimizer.learning_rate 3",
            "unknown option --optimizer.learning_rate",
        ),
        ("check-task", "TASK"),
        ("check-task countdwn", "did you mean countdown"),
        ("check-task tinyzero.types:Reward", "lacks"),
        ("pretrain --pols 3", "did you mean --pools?"),
        ("pretrain --pools 0", "pretrain.pools"),
        ("pretrain --model.width wide", "pretrain.model.width"),
        ("pretrain --threads 0", "--threads"),
        (
            "pretrain --model.heads 3 --model.width 96 --model.kv_heads 2",
            "a multiple of kv_heads 2",
        ),
        (
            "pretrain --model.heads 3 --model.width 100",
            "width 100 must be a multiple of 2 * heads (6)",
        ),
        ("pretrain --muon_lr inf", "pretrain.muon_lr is inf"),
        ("train --run.track tensorbord", "run.track"),
        ("report", "RUN"),
        ("report nosuch", "no folder nosuch"),
        ("report .", "no run at ."),
        ("report . --out", "--out"),
        ("eval nosuch --n 1000000000", "'1000000000' is not a whole number from 1 to 100000"),
        ("eval nosuch --k 1000000000", "from 1 to 16384"),
        ("eval nosuch --max-tokens 1000000000", "from 1 to 1048576"),
        ("eval nosuch --temperature 1e9", "from 0.01 to 100"),
        (f"eval nosuch --n {'9' * 5000}", "from 1 to 100000"),
        ("sample nosuch --out x --n 1000000000", "from 1 to 100000"),
        ("data --out x.jsonl --n 100000000000", "from 1 to 10000000"),
        ("ablate x.toml --jobs 1000000", "from 1 to 256"),
        ("pretrain --threads 1000000", "from 1 to 256"),
        ("train --model.threads 1000000", "model.threads is 1000000"),
        ("plan --price 1e300", "--price"),
        ("plan --length 1000000000", "--length"),
        ("plan --gpu-memory 1e300", "at most 1e18"),
        ("report . --live", "--live"),
        ("watch nosuch", "no folder nosuch"),
        ("watch . --port 70000", "--port"),
        ("watch . --host ''", "--host is empty"),
        ("watch . --hots 0.0.0.0", "--hots"),
    ],
)
def test_a_mistake_is_one_line(
    command: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *shlex.split(command))
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize("damage", ["empty", "config", "weights", "tokenizer"])
def test_a_damaged_model_folder(
    damage: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    if damage == "config":
        (folder / "config.json").write_text("{")
    if damage == "weights":
        (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:999]
        )
    if damage == "tokenizer":
        (folder / "tokenizer.json").unlink()
    assert str(folder) in refused(capsys, "eval", folder, *COMPACT)
    # short, so that nothing else is wrong
    short = ("--rollout.max_tokens", "16", "--eval.max_tokens", "16")
    assert str(folder) in refused(
        capsys, "train", "--model.name", folder, *short, "--run.dir", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


def test_more_tokens_than_the_context_holds(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "lower max_tokens" in refused(
        capsys, "eval", base, *COMPACT, "--max-tokens", 127, "--n", 1
    )
    refused(
        capsys,
        "sample",
        base,
        *COMPACT,
        "--max-tokens",
        127,
        "--n",
        1,
        "--out",
        tmp_path / "x.jsonl",
    )
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"target": 24, "numbers": [3, 5, 12]}], "row 0"),
        ([{"target": 24, "nums": [3, 5, 12]}, {"target": "24", "nums": [3, 5, 12]}], "row 1"),
        ([{"target": 24, "nums": [3, 5, 12]}, {"target": 24, "nums": 3}], "row 1"),
        ([{"target": 97, "nums": [1, 2, 3]}], "row 0"),
        ([], "data.jsonl"),
    ],
    ids=["a column is missing", "text for a number", "no list", "no solution", "no rows"],
)
def test_a_data_file_with_a_wrong_row(
    rows: list[dict[str, Any]],
    says: str,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in ("train", "dev", "test"):
        line = refused(
            capsys, "eval", base, *COMPACT, "--task.data", path, "--split", split, "--n", 1
        )
        if "has no rows in split" not in line:
            assert says in line
            return
    pytest.fail(f"no line names {says}")


def test_dry_run_prints_the_resolved_recipe_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(
            ["train", "--dry-run", "--seed", "7", "--algorithm", "ppo", "--task.max_number", "12"]
        )
        == 0
    )
    (tmp_path / "shown.toml").write_text(capsys.readouterr().out)
    config = resolve(read_recipe(str(tmp_path / "shown.toml")), {})
    assert (config.seed, config.algorithm.name, config.task.options["max_number"]) == (7, "ppo", 12)
    assert config.steps == resolve(read_recipe("laptop"), {}).steps
    assert [p.name for p in tmp_path.iterdir()] == ["shown.toml"]


def test_runs_go_into_runs_by_name(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        "--rollout.max_tokens=8",
        "--rollout.prompts=1",
        "--rollout.samples=2",
        "--eval.test_problems=0",
        "--model.threads=1",
    ]
    assert (
        cli.main(
            ["train", f"--model.name={base}", "--steps=1", "--seed=3", "--eval.every=0", *options]
        )
        == 0
    )
    assert (tmp_path / "runs" / "laptop-grpo-3" / "config.toml").is_file()
    assert "runs/laptop-grpo-3" in capsys.readouterr().out
    own = [f"--task={EXAMPLE}:BeatTheSum", "--steps=1", "--eval.every=0"]
    assert cli.main(["train", f"--model.name={base}", *own, *options]) == 0
    assert "runs/laptop-BeatTheSum-grpo-0" in capsys.readouterr().out


def test_training_says_how_it_went(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--resume", str(run)]) == 0
    said = capsys.readouterr().out
    assert "before: test pass@1" in said
    assert "after: test pass@1" in said
    assert f"tinyzero play --web {run}" in said


def test_eval_writes_every_figure(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    assert cli.main(["eval", str(base), *COMPACT, "--n", "6", "--k", "8", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    for name in ("pass@1", "pass@2", "pass@4", "pass@8", "greedy"):
        assert 0 <= figures[f"{name}/low"] <= figures[name] <= figures[f"{name}/high"] <= 1
    assert (figures["n"], figures["k"], figures["split"], figures["model"]) == (
        6,
        8,
        "test",
        str(base),
    )
    assert any(key.startswith("pass@1/numbers=") for key in figures)
    assert any(key.startswith("pass@8/operators=") for key in figures)
    said = capsys.readouterr().out
    for name in ("pass@1", "pass@8", "greedy", "response_length"):
        assert name in said
    assert (
        cli.main(
            [
                "eval",
                str(base),
                *COMPACT,
                "--n",
                "6",
                "--k",
                "8",
                "--json",
                str(tmp_path / "b.json"),
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "b.json").read_text()) == figures, "an evaluation can be repeated"


def test_eval_greedily(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", str(base), *COMPACT, "--n", "3", "--temperature", "0"]) == 0
    assert "at temperature 0" in capsys.readouterr().out


def test_figures_that_cannot_be_written_are_refused_before_they_are_computed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(base), *COMPACT, "--n", "2", "--json"]
    assert cli.main([*command, str(tmp_path / "no" / "x.json")]) == 2
    said = capsys.readouterr()
    assert "pass@1" not in said.out
    assert f"there is no folder {tmp_path / 'no'}" in said.err
    assert said.err.count("\n") == 1


def test_a_run_is_a_model_with_its_own_recipe(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.jsonl"
    for name in (
        run,
        run / "checkpoints" / "step_000001",
        run / "checkpoints" / "step_000001" / "model",
    ):
        out.unlink(missing_ok=True)
        assert cli.main(["sample", str(name), "--n", "3", "--out", str(out)]) == 0
        written = list(records.read(out))
        assert len(written) == 3
        assert {len(r["fields"]["numbers"]) for r in written} == {3}
        assert max(n for r in written for n in r["fields"]["numbers"]) <= 20
        assert all(r["response_length"] <= 12 for r in written)
        assert {"text", "reward", "parts", "finish_reason", "problem", "split"} <= written[0].keys()


def test_sample_does_not_overwrite(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.jsonl"
    out.write_text("mine")
    assert "exists" in refused(capsys, "sample", run, "--n", 1, "--out", out)
    assert out.read_text() == "mine"


def test_a_run_without_a_checkpoint_is_no_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / "config.toml", tmp_path / "config.toml")
    assert "no checkpoint yet: wait for the first one" in refused(capsys, "eval", tmp_path)


def test_play_answers_what_is_typed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "stdin", io.StringIO("24 from 3 5 12\n97 from 1 2 3\nnonsense\n\n24 3 5 12")
    )
    assert cli.main(["play", str(run)]) == 0
    said = capsys.readouterr().out
    assert "type a problem such as `11 from 13 15 9`" in said, "the first of the test split"
    assert "> 20 from 10 6 16\n" in said, "one was drawn, and is shown"
    assert "97 cannot be made from 1, 2, 3" in said
    assert "'nonsense' is not a Countdown problem" in said
    assert said.count("[right]") + said.count("[wrong]") == 3


def test_play_poses_problems_of_other_tasks(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n47 x 36\n24 from 3 5 12"))
    assert cli.main(["play", str(run), "--task", "multiplication"]) == 0
    said = capsys.readouterr().out
    assert said.count("[wrong]") == 2
    assert "> 981*436\n" in said
    assert "'24 from 3 5 12' is not a multiplication" in said


def test_play_draws_no_problem_if_a_line_cannot_be_posed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from tinyzero.tasks.countdown import Countdown\nfrom tinyzero.tasks.base import Task\n\n"
        "class Mute(Countdown):\n    pose = Task.pose\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("24 from 3 5 12\n\n"))
    assert cli.main(["play", str(run), "--task", f"{tmp_path}/mine.py:Mute"]) == 0
    said = capsys.readouterr().out
    assert said.count("this task takes no typed problems: press Enter for one") == 1
    assert said.count("[right]") + said.count("[wrong]") == 1, "the line was not answered"


def test_play_survives_what_a_task_raises(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "careless.py"
    task.write_text(
        "from tinyzero.tasks.countdown import Countdown\n\n"
        "class Careless(Countdown):\n    def pose(self, line):\n"
        "        raise ValueError('two\\nlines')\n\n"
        "class Worse(Careless):\n    def line(self, problem):\n        raise KeyError('line')\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("24 from 3 5 12\n\n"))
    command = ["play", str(base), "--max-tokens", "4", "--model.prompt", "compact", "--task"]
    assert cli.main([*command, f"{task}:Careless"]) == 0
    said = capsys.readouterr().out
    assert "Careless raised ValueError: two lines (careless.py, line " in said
    assert said.count("[wrong]") == 1, "it continues"
    assert "Worse raised KeyError: 'line'" in refused(capsys, *command, f"{task}:Worse")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_data_writes_what_it_describes(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x.{suffix}"
    assert (
        cli.main(["data", "countdown", "--n", "50", "--out", str(path), "--task.max_number", "30"])
        == 0
    )
    capsys.readouterr()
    assert cli.main(["data", "--stats", str(path)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows"] == 50
    assert figures["numbers"][1] <= 30
    assert figures["permutation_duplicates"] == 0


def test_data_writes_the_fields_of_any_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    options = ["--n", "5", "--split", "test", "--out", str(path)]
    assert cli.main(["data", "multiplication", *options, "--task.max_digits", "2"]) == 0
    assert f"wrote 5 problems of split test to {path}" in capsys.readouterr().out
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 5
    assert all(row.keys() == {"a", "b"} and max(row.values()) < 100 for row in rows)
    own = tmp_path / "own.jsonl"
    assert cli.main(["data", f"{EXAMPLE}:BeatTheSum", "--n", "3", "--out", str(own)]) == 0
    assert len(own.read_text().splitlines()) == 3


def test_check_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-task", f"{EXAMPLE}:BeatTheSum"]) == 0
    assert "every check passed" in capsys.readouterr().out
    wrong = tmp_path / "wrong.py"
    wrong.write_text(EXAMPLE.read_text().replace("return False", "return True"))
    assert cli.main(["check-task", f"{wrong}:BeatTheSum"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_ones_own_task_is_trained_on(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        f"--model.name={base}",
        f"--run.dir={tmp_path / 'run'}",
        "--steps=1",
        "--rollout.max_tokens=8",
    ]
    options += [
        "--rollout.prompts=1",
        "--rollout.samples=2",
        "--eval.every=0",
        "--eval.test_problems=2",
        "--eval.max_tokens=0",
        "--model.threads=1",
    ]
    assert cli.main(["train", "--task", f"{EXAMPLE}:BeatTheSum", *options]) == 0
    assert next(records.read(tmp_path / "run" / "metrics.jsonl"))["accuracy"] == 0


def test_pretrain_makes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pools=1", "--pool_documents=8", "--model.layers=1", "--model.width=32"]
    assert cli.main(["pretrain", "--out", str(tmp_path), "--threads", "1", *options]) == 0
    assert "pool 1/1" in capsys.readouterr().out
    models.load_model(str(tmp_path / "model"))
    assert "stand in for a pretrained base" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    "verb", ["", "train", "eval", "play", "sample", "data", "check-task", "pretrain"]
)
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*verb.split(), "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "%%" not in said
    assert verb != "train" or "--optimizer.learning_rate" in said


def test_the_installed_command_and_its_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinyzero.cli", "train", "nosuch"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tinyzero: error: unknown recipe 'nosuch'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("recipe", "task", "profile", "folder"),
    [
        ("laptop", None, None, "laptop-grpo-0"),
        ("laptop", "multiplication", None, "laptop-multiplication-grpo-0"),
        ("some/own.toml", None, None, "own-grpo-0"),
        ("qwen2.5-3b", None, "24gb", "qwen2.5-3b-grpo-24gb-0"),
        # as overridden by --algorithm grpo
        ("qwen2.5-3b-countdown-ppo", None, None, "qwen2.5-3b-countdown-grpo-0"),
    ],
)
def test_a_run_is_named_by_what_was_chosen(
    recipe: str, task: str | None, profile: str | None, folder: str
) -> None:
    assert run_name(recipe, resolve({}, {}), task, profile) == folder


def test_a_profile_of_a_run_that_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "leave out '24gb'" in refused(capsys, "train", "--resume", run, "--profile", "24gb")


def test_what_a_model_writes_does_not_draw_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter([""])

    def typed(prompt: str) -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(Player, "stream", lambda *asked: iter(["\x1b[2J", "one\n\ttwo \x07"]))
    assert cli.main(["play", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "\\x1b[2Jone\n\ttwo \\x07" in said
    assert "\x1b" not in said


def test_a_checkpoint_by_its_own_path_is_checked_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run")) / "checkpoints" / "step_000001"
    weights = copied / "model" / "model.safetensors"
    assert cli.main(["eval", str(copied), "--n", "2"]) == 0
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    for path in (copied, copied / "model"):
        said = refused(capsys, "eval", path, "--n", 2)
        assert "model.safetensors was changed after it was written" in said
        refused(capsys, "export", path, tmp_path / "out")


def test_saved_weights_are_as_readable_as_everything_else(run: Path) -> None:
    """safetensors writes files only for their owner, and a colleague's eval calls them damaged."""
    model = run / "checkpoints" / "step_000001" / "model"
    assert len({path.stat().st_mode for path in model.iterdir() if path.is_file()}) == 1


# ---- help, and what every option means


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The output of a command that must succeed."""
    capsys.readouterr()
    try:
        assert cli.main(list(words)) == 0
    except SystemExit as stopped:
        if stopped.code:
            raise
    return capsys.readouterr().out


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys)
    assert said == shown(capsys, "--help")
    assert said.splitlines()[2].startswith("TinyZero reproduces DeepSeek R1-Zero")
    for module in cli.COMMANDS:
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        assert f"\n    {name}" in said
        assert "examples:\n  tinyzero " in shown(capsys, name, "--help") or name == "completion"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--version") == f"tinyzero {tinyzero.__version__}\n"


def test_help_fits_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ["", *cli.make_parser(cli.COMMANDS).commands]:
        wide = [line for line in shown(capsys, *name.split(), "-h").splitlines() if len(line) > 80]
        assert wide == []


def test_help_says_the_value_that_will_run_and_where_it_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", "laptop", "--algorithm", "ppo", "--rollout.samples", "4", "--help"]
    said = " ".join(shown(capsys, *words).split())
    assert (
        "--rollout.samples VALUE completions per problem (the group size) [command line: 4]" in said
    )
    assert (
        "--steps VALUE training steps, each on a new batch of completions [recipe laptop: 100]"
        in said
    )
    assert "[command line: ppo]" in said
    assert "--algorithm.value_warmup VALUE" in said, "an option of PPO"
    assert "--algorithm.scale" not in said, "an option of GRPO"
    assert "--task.max_number VALUE largest given number [recipe laptop: 25]" in said
    assert "optimizer: The optimizer of the policy (AdamW). --optimizer.learning_rate" in said

    other = " ".join(shown(capsys, "train", "laptop-multiplication-grpo", "--help").split())
    assert "--task.max_digits" in other
    assert "--task.max_number" not in other
    assert "--algorithm.scale {group,batch,none}" in other


def test_help_of_ones_own_task_has_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from pydantic import BaseModel, Field\nfrom tinyzero.tasks.base import Task\n"
        "class Options(BaseModel):\n    days: int = Field(5, description='most days')\n"
        "class Mine(Task):\n    Options = Options\n"
        "    def problem(self, split, index): ...\n    def prompt(self, problem, template): ...\n"
        "    def reward(self, problem, text): ...\n    def solution(self, problem): ...\n"
    )
    said = shown(capsys, "train", "--task", f"{path}:Mine", "--task.days=9", "-h")
    assert "--task.days VALUE\n      most days [command line: 9]" in said
    assert "did you mean --task.days?" in refused(
        capsys, "train", "--task", f"{path}:Mine", "--task.dais", 9, "--dry-run"
    )


def test_help_of_a_stranger_s_run_does_not_run_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('this code ran')")
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "config.toml").write_text(f'[task]\nname = "{tmp_path}/evil.py:Task"\n')
    said = refused(capsys, "train", tmp_path / "config.toml", "--help")
    assert "if you trust that code" in said


@pytest.mark.parametrize(
    "words", ["--help", "--version", "eval --help", "recipes", "tasks", "algorithms"]
)
def test_help_does_not_wait_for_torch(words: str) -> None:
    code = (
        "import sys\nfrom tinyzero import cli\n"
        f"try:\n    cli.main({words.split()!r})\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "recipes")
    for name in recipes():
        assert f"{name}\n    " in said
    assert "    trains tiny on countdown with grpo\n    runs on a CPU\n" in said
    assert "    needs a GPU; --profile fits it into 24gb, 48gb, 80gb, 141gb\n" in said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_every_recipe_fits_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(shown(capsys, "recipes", "--schema"))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for name in recipes():
        validator.validate(read_toml(RECIPES / f"{name}.toml"))
    for wrong in (
        {"steps": 0},
        {"rollout": {"promts": 3}},
        {"task": {"name": "countdown", "max_nmber": 3}},
        {"algorithm": {"name": "ppo", "scale": "group"}},
        {"algorithms": {"ppo": {"rollout": {"prompts": "many"}}}},
        {"profiles": {"24gb": {"lora": {"rank": -1}}}},
    ):
        assert not validator.is_valid(wrong), wrong
    assert validator.is_valid({"task": {"name": "mine.py:Task", "anything": 3}})


def test_a_run_s_own_file_fits_the_schema(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validator = Draft202012Validator(json.loads(shown(capsys, "recipes", "--schema")))
    validator.validate(read_toml(run / "config.toml"))
    validator.validate(read_toml(run / "asked.toml"))


def test_tasks_and_algorithms_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\ncountdown\n    Countdown: reach a target" in "\n" + shown(capsys, "tasks")
    said = shown(capsys, "tasks", "countdown")
    assert "--task.max_number VALUE\n      largest given number [default: 99]" in said
    assert "a right answer:" in said
    own = shown(capsys, "tasks", f"{EXAMPLE}:BeatTheSum")
    assert own.count("--task.") == own.count("--task.tool") == 1

    listed = shown(capsys, "algorithms")
    for name in ALGORITHMS:
        assert f"\n{name} " in "\n" + listed
    said = shown(capsys, "algorithms", "ppo")
    assert said.startswith("ppo\n\nPPO")
    assert "    models           policy, critic\n" in said
    assert "--algorithm.value_warmup VALUE" in said


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("rollout.samples", "completions per problem (the group size) [default: 16]"),
        ("steps", "training steps"),
        ("response_length", "stop token included"),
        ("time/", "time/elapsed"),
        ("optimizer", "optimizer.learning_rate"),
        ("algorithm.value_clip", "algorithm.value_clip (ppo)"),
        ("task.max_digits", "task.max_digits (multiplication)"),
        ("behaviour/attempts", "behaviour/attempts (metric of countdown)"),
        ("pass@4/numbers=3", "numbers=3 (metric"),
    ],
)
def test_a_key_is_explained(key: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in " ".join(shown(capsys, "explain", key).split())


def test_every_option_and_metric_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for key in ["seed", "task.name", "model.device", "eval.every", "algorithm.kl"]:
        assert shown(capsys, "explain", key)
    for key in GLOSSARY:
        assert shown(capsys, "explain", key.replace("*", "x")), key


# ---- completion, in the shell itself


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("tinyzero tra", "train"),
        ("tinyzero train qwen2.5-7b-", "qwen2.5-7b-instruct"),
        ("tinyzero train --rollout.sam", "--rollout.samples"),
        ("tinyzero train --algorithm pp", "ppo"),
        ("tinyzero train --algorithm ppo --algorithm.value_w", "--algorithm.value_warmup"),
        ("tinyzero train --model.dtype bf", "bfloat16"),
        ("tinyzero train --task multiplication --task.max_d", "--task.max_digits"),
        ("tinyzero algorithms rlo", "rloo"),
    ],
)
def test_bash_completes(line: str, wanted: str, tmp_path: Path) -> None:
    program = tmp_path / "tinyzero"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tinyzero.cli "$@"\n')
    program.chmod(0o755)
    words = shlex.join(line.split(" "))
    script = f"""
        eval "$(tinyzero completion bash)"
        COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _python_argcomplete tinyzero "${{COMP_WORDS[-1]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert wanted in done.stdout.split(), done.stderr


# ---- what a run will be


def test_a_dry_run_prints_the_later_config(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "model.name": base,
        "steps": 1,
        "rollout.max_tokens": 8,
        "rollout.prompts": 1,
        "rollout.samples": 2,
        "eval.every": 0,
        "eval.test_problems": 0,
        "eval.max_tokens": 0,
        "model.threads": 1,
        "run.dir": tmp_path / "run",
    }
    words = ["train", "laptop", *(f"--{key}={value}" for key, value in options.items())]
    said = shown(capsys, *words, "--dry-run")
    shown(capsys, *words)
    assert (tmp_path / "run" / "config.toml").read_text() == said
    assert "# completions per problem (the group size) (command line)\nsamples = 2\n" in said
    assert "# largest given number (recipe laptop)\nmax_number = 25\n" in said
    assert "# smallest given number (default)\nmin_number = 1\n" in said
    assert "(recipe laptop)\naggregate = " in said
    assert all(len(line) <= 80 for line in said.splitlines() if line.startswith("#"))

    shown(capsys, "train", "--resume", str(tmp_path / "run"), "--steps", "2")
    again = (tmp_path / "run" / "config.toml").read_text()
    assert "(command line)\nsteps = 2\n" in again
    assert "(recipe laptop)\nmax_number = 25\n" in again, "options of the first command are kept"


def test_a_repeated_run_is_named_after_the_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "runs/run-repeat-0" in shown(capsys, "train", str(run / "config.toml"))
    assert (tmp_path / "runs" / "run-repeat-0" / "metrics.jsonl").is_file()


# ---- a pretrained model does not train with the settings for a tiny one


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        ("Qwen/Qwen2.5-0.5B", "tinyzero train qwen2.5-0.5b\n"),
        ("Qwen/Qwen2.5-3B-Instruct", "tinyzero train qwen2.5-3b-instruct\n"),
        (
            "HuggingFaceTB/SmolLM2-135M",
            "tinyzero train real-laptop --model.name HuggingFaceTB/SmolLM2-135M\n",
        ),
        (
            "Qwen/Qwen3-8B-Instruct",
            "tinyzero train qwen2.5-7b-instruct --model.name Qwen/Qwen3-8B-Instruct\n",
        ),
        ("microsoft/phi-2", "tinyzero train qwen2.5-3b --model.name microsoft/phi-2\n"),
    ],
)
@pytest.mark.parametrize("recipe", ["", "laptop", "multiplication", "laptop-countdown-ppo"])
def test_a_pretrained_model_needs_its_own_recipe(
    recipe: str,
    model: str,
    fix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sizes, "has_gpu", lambda: False)
    said = refused(capsys, "train", *recipe.split(), "--model.name", model, "--dry-run")
    assert f"model.name is '{model}', and this recipe is for the tiny bundled models" in said
    assert said.endswith(fix)


def test_a_folder_is_judged_by_its_shape(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "some-instruct"
    shutil.copytree(base, large)
    shape = json.loads((large / "config.json").read_text())
    shape |= {"hidden_size": 896, "num_hidden_layers": 24, "vocab_size": 151_936}
    (large / "config.json").write_text(json.dumps(shape | {"intermediate_size": 4864}))
    said = refused(capsys, "train", "--model.name", large)
    assert said.endswith(f"tinyzero train qwen2.5-0.5b-instruct --model.name {large}\n")


def test_models_and_recipes_of_one_s_own_are_fine(base: Path, tmp_path: Path) -> None:
    laptop = read_recipe("laptop")
    resolve(laptop, {"model.name": str(base)})
    resolve(laptop, {"model.name": "tiny-multiplication"})
    own = tmp_path / "own.toml"
    own.write_text('inherit = "laptop"\n[model]\nname = "Qwen/Qwen2.5-3B"\n')
    assert resolve(read_recipe(str(own)), {}).model.name == "Qwen/Qwen2.5-3B"
    resolve(read_recipe("qwen2.5-0.5b"), {"model.name": "HuggingFaceTB/SmolLM2-135M"})


def test_the_python_api_refuses_it_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tinyzero train qwen2.5-1.5b$"):
        tinyzero.train(folder=tmp_path / "run", model={"name": "Qwen/Qwen2.5-1.5B"})
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_the_recipe_ignores_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    laptop = resolve(read_recipe("laptop"), {})
    assert unused_gpu(laptop) is None, "this machine has no GPU"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "--model.device cuda" in (unused_gpu(laptop) or "")
    assert unused_gpu(resolve(read_recipe("laptop"), {"model.device": "auto"})) is None


@pytest.mark.parametrize(
    ("heading", "key"), [("length", "response_length"), ("attempts", "behaviour/attempts")]
)
def test_explain_knows_the_headings_of_the_console(
    heading: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, "explain", heading).startswith(f"{key} (metric")


def test_explain_names_what_mentions_an_unknown_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert "; these mention it: flat_groups, " in refused(capsys, "explain", "advantage")
    assert shown(capsys, "explain", "KL").startswith("kl (metric)")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--model.name 7", 'name = "7"'),
        ("--task.data 1e5", 'data = "1e5"'),
        ("--task.data null", 'data = "null"'),
        ("--task.data 007", 'data = "007"'),
        ("--update.pack True", "pack = true"),
        ("--update.pack FALSE", "pack = false"),
        ("--lora.rank 4 --lora.targets q_proj,v_proj", 'targets = ["q_proj", "v_proj"]'),
        ("--lora.rank 4 --lora.targets [q_proj]", 'targets = ["q_proj"]'),
        ("--lora.rank 4 --lora.targets '[\"q_proj\"]'", 'targets = ["q_proj"]'),
    ],
)
def test_an_option_is_read_by_its_type(
    options: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyzero.run.check.check_context", lambda config: None)
    assert cli.main(["train", "--dry-run", *shlex.split(options)]) == 0
    assert f"\n{line}\n" in capsys.readouterr().out


def test_a_folder_is_named_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Path] = []
    loop = importlib.import_module("tinyzero.train")
    monkeypatch.setattr(loop, "train", lambda config, folder, *rest: given.append(folder))
    monkeypatch.setattr("tinyzero.cli.train.closing_lines", lambda folder, seconds: [])
    monkeypatch.setattr("tinyzero.cli.train._alarm_lines", lambda folder: [])
    for name in ("2024", "007", "1e5", "true", "[1]", "null", "2024-01-01", "a b"):
        assert cli.main(["train", "--run.dir", name]) == 0
        assert given[-1] == Path(name)
