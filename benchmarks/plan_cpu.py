"""Whether `tinyzero plan --gpu cpu`, calibrated on the laptop's base, predicts a step of other sizes and lengths.

    python benchmarks/plan_cpu.py [--out runs/plan_cpu.json]

Calibrates on this machine, anew beside each case, then trains a few steps of it for real: a random model of that shape,
with the task, the prompts and the grader of the laptop recipe. The clock is the process's CPU time with one thread, so
that other work on the machine slows neither side. What is told to the plan of each case is the mean length of its
answers. A KL loss keeps every row in the update, where groups without a lesson would otherwise be left out.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch

from tinyzero import models
from tinyzero.algorithms import load_algorithm
from tinyzero.config import Config, read_recipe, resolve
from tinyzero.cost import simulator as plan
from tinyzero.cost.devices import Device
from tinyzero.cost.shapes import find_shape
from tinyzero.run import records
from tinyzero.tasks import corpora
from tinyzero.tools.plan.calibrate import calibrate
from tinyzero.tools.pretrain import base
from tinyzero.train import train

STEPS = (
    4  # of each case: the first warms up, of the others the fastest counts, as in the calibration
)


class Case(NamedTuple):
    """A shape, a length and an algorithm."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    prompts: int
    max_tokens: int
    algorithm: str = "grpo"


CASES = {
    "the laptop's": Case(4, 128, 4, 384, 16, 128),
    "longer answers": Case(4, 128, 4, 384, 8, 400),
    "fewer rows": Case(4, 128, 4, 384, 2, 200),
    "twice as wide": Case(4, 256, 4, 768, 8, 128),
    "twice as deep": Case(8, 128, 4, 384, 8, 128),
    "7 times the weights": Case(6, 256, 4, 1024, 8, 128),
    "7 times, longer": Case(6, 256, 4, 1024, 4, 400),
    "30 times the weights": Case(8, 512, 8, 1536, 2, 128),
    "PPO, twice as wide": Case(4, 256, 4, 768, 8, 128, "ppo"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        default="runs/plan_cpu.json",
        help="cases that are done, so that a stopped run goes on",
    )
    out = Path(parser.parse_args().out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name, case in CASES.items():
        if name in results:
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[name] = case._asdict() | measure(
                case, calibrate(1, time.process_time), Path(folder)
            )
        out.write_text(json.dumps(results))
        print(name, results[name], flush=True)
    head = ["case", "weights", "answers of tokens", "a step, CPU seconds", "planned", "off by"]
    rows = [
        [
            name,
            f"{r['parameters'] / 1e6:.2f} M",
            f"{r['answers']} of {r['length']:.0f}",
            f"{r['measured']:.2f}",
            f"{r['planned']:.2f}",
            f"{r['planned'] / r['measured'] - 1:+.0%}",
        ]
        for name, r in results.items()
    ]
    worst = max(abs(r["planned"] / r["measured"] - 1) for r in results.values())
    text = f"{common.table(head, rows)}\n\nThe plan is off by at most {worst:.0%}."
    common.write("plan_cpu", common.describe([1], "torch", "transformers"), results, text)
    out.unlink()


def measure(case: Case, device: Device, folder: Path) -> dict[str, Any]:
    """A case's CPU seconds a step, and what is planned for answers of that length."""
    make_model(case, folder / "model")
    config = recipe(case, folder / "model")
    run = train(config, folder / "run").parent.parent
    steps = list(records.read(run / "metrics.jsonl"))
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    shape, prompt = find_shape(config.model.name), plan.prompt_tokens(config)
    found = []
    for before, e in pairwise(steps):
        planned = plan.make_plan(config, algorithm, shape, device, prompt, e["response_length"])
        cpu = e["time/cpu"] - before["time/cpu"]
        found.append({"length": e["response_length"], "measured": cpu, "planned": planned.seconds})
    best = min(found, key=lambda step: step["measured"] / step["planned"])
    answers = case.prompts * config.rollout.samples
    return {
        "parameters": shape.parameters,
        "answers": answers,
        **best,
        "steps": found,
        "device": asdict(device),
    }


def make_model(case: Case, folder: Path) -> None:
    """A random model that ends about once in `max_tokens`: all tokens but the ends share a direction, to which every
    state leans."""
    tokenizer = models.build_tokenizer(corpora.CHARACTERS, corpora.WORDS, corpora.END)
    shape = base.ModelOptions(
        layers=case.layers, width=case.width, heads=case.heads, feed_forward=case.feed_forward
    )
    model = models.build_model(base.model_config(shape, len(tokenizer)), seed=0)
    ends = [tokenizer.convert_tokens_to_ids(word) for word in (corpora.END, "</answer>")]
    others = torch.ones(len(tokenizer), dtype=torch.bool)
    others[ends] = False
    text = torch.randint(len(tokenizer), (4, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        while model.logits(text).softmax(-1)[..., ends].sum(-1).mean() > 1 / case.max_tokens:
            model.lm.get_input_embeddings().weight[others] += 0.1 / case.width**0.5
    models.save_model(model, tokenizer, folder)


def recipe(case: Case, folder: Path) -> Config:
    """The laptop's, with the case's shape and length and no evaluations."""
    overrides = {
        "model.name": str(folder),
        "model.threads": 1,
        "steps": STEPS,
        "algorithm.name": case.algorithm,
    }
    overrides |= {
        "eval.every": 0,
        "eval.test_problems": 0,
        "checkpoint.every": 0,
        "eval.max_tokens": 0,
    }
    overrides |= {
        "rollout.prompts": case.prompts,
        "rollout.max_tokens": case.max_tokens,
        "algorithm.kl": 0.001,
    }
    return resolve(read_recipe("laptop"), overrides)


if __name__ == "__main__":
    main()
