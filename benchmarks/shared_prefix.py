"""An update that computes each prompt once per group, compared with one that repeats it, on a CPU.

    python benchmarks/shared_prefix.py [MODEL ...] [--groups 16] [--samples 8] [--rounds 5]

Each MODEL is a folder or a bundled base. It is updated by GRPO on random tokens, in turn with every
row padded, with rows joined but prompts repeated, and with prompts shared. The seconds are those of
the processor, so that other programs disturb them less. Nothing is skipped: no row is idle.

FLOPs are those of the linear layers and the output head, forward and backward. The bound is the
time of the shared update's bare matrix products, of the same shapes and in the same process:
nothing but a faster product, or fewer of them, would make an update faster than that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import common

WAYS = {"padded": (False, False), "joined": (True, False), "shared": (False, True)}
"""Whether rows are joined (pack) and whether prompts are shared, by name."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["tiny"], metavar="MODEL")
    parser.add_argument("--groups", type=int, default=16, help="problems per update")
    parser.add_argument("--samples", type=int, default=8, help="completions per problem")
    parser.add_argument("--prompt", type=int, default=28, help="tokens per prompt")
    parser.add_argument("--length", type=int, default=12, help="mean tokens per completion")
    parser.add_argument("--vary", action="store_true", help="draw lengths from an exponential law")
    parser.add_argument("--micro-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    import torch

    torch.set_num_threads(given.threads)
    results = [measured(name, given) for name in given.models]
    about = common.describe([given.threads], "torch", "transformers")
    common.write("shared_prefix", about, results, page(results, given))


def measured(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of one model."""
    from tinyzero import algorithms, models
    from tinyzero.config import OptimizerOptions
    from tinyzero.learner import TorchLearner, policy_outputs

    model = models.load_model(name)
    batch = random_batch(given, int(model.config.vocab_size))
    loss = partial(algorithms.load_algorithm("grpo", {}).loss, "policy")
    options = OptimizerOptions(learning_rate=1e-9)
    learner = TorchLearner(
        model, policy_outputs, options, loss=loss, micro_tokens=given.micro_tokens
    )

    def update(way: str) -> float:
        model.pack, model.share = WAYS[way]
        learner.shares = model.share
        began = time.process_time()
        learner.update(batch)
        return time.process_time() - began

    seconds = in_turn({way: partial(update, way) for way in WAYS}, given.rounds)
    micro = [part for _, part in batch.micro_batches(given.micro_tokens, share=True)]
    sizes = [(part.computed_tokens(share=True) - part.size, int(part.mask.sum())) for part in micro]
    bound = median(products(model, sizes) for _ in range(given.rounds))

    tokens = {share: batch.computed_tokens(share=share) - batch.size for share in (False, True)}
    flops = {share: linear_flops(model, count, batch) for share, count in tokens.items()}
    return {
        "model": name.rstrip("/").rpartition("/")[2],
        "seconds": seconds,
        "bound": bound,
        "tokens": [tokens[False], tokens[True]],
        "flops": [flops[False], flops[True]],
    }


def random_batch(given: argparse.Namespace, vocabulary: int) -> Any:
    """A batch of random tokens with random advantages."""
    import torch

    from tinyzero.batching import collate
    from tinyzero.types import Completion, Problem, Reward, Rollout

    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, vocabulary, (count,), generator=generator).tolist())

    def length() -> int:
        if not given.vary:
            return int(given.length)
        drawn = torch.empty(1).exponential_(1 / given.length, generator=generator)
        return min(max(1, int(drawn)), 6 * given.length)

    problem, groups = Problem("p", {}, "train", "p"), []
    for number in range(given.groups):
        prompt, group = draw(given.prompt), []
        for _ in range(given.samples):
            ids = draw(length())
            completion = Completion(ids, (True,) * len(ids), (-4.0,) * len(ids), "", "stop")
            group.append(Rollout(problem, prompt, completion, Reward(0.0), number))
        groups.append(group)

    batch = collate(groups, 6 * given.length)
    advantages = torch.randn(batch.mask.shape, generator=generator)
    return replace(batch, advantages=advantages, old_logprobs=batch.sampled_logprobs)


def in_turn(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of what each call returns, over `rounds` rounds after a first one."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            value = call()
            if number:
                found[name].append(value)
    return {name: median(values) for name, values in found.items()}


def linear_shapes(model: Any) -> list[tuple[int, int]]:
    """The shapes of the linear layers' weights, without the output head."""
    from torch import nn

    linear = [module for module in model.core.modules() if isinstance(module, nn.Linear)]
    return [tuple(module.weight.shape) for module in linear if module is not model.head]


def linear_flops(model: Any, tokens: int, batch: Any) -> float:
    """FLOPs of the linear layers for `tokens` tokens and of the head, forward and backward."""
    layers = sum(outer * inner for outer, inner in linear_shapes(model))
    return 6.0 * (layers * tokens + model.head.weight.numel() * int(batch.mask.sum()))


def products(model: Any, micro_batches: Sequence[tuple[int, int]]) -> float:
    """Seconds of the bare matrix products of micro-batches of (tokens, tokens with logits)."""
    import torch

    weights: dict[tuple[int, int], Any] = {}
    head = tuple(model.head.weight.shape)
    for shape in {*linear_shapes(model), head}:
        weights[shape] = torch.randn(shape)

    seconds = 0.0
    for tokens, predicted in micro_batches:
        for shape in [*linear_shapes(model), head]:
            rows = predicted if shape == head else tokens
            inputs, outputs = torch.randn(rows, shape[1]), torch.randn(rows, shape[0])
            began = time.process_time()
            inputs @ weights[shape].T  # forward
            outputs @ weights[shape]  # gradient of the inputs
            outputs.T @ inputs  # gradient of the weights
            seconds += time.process_time() - began
    return seconds


def page(results: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """The table of all models."""
    spread = ", drawn from an exponential law" if given.vary else ""
    title = (
        f"{given.groups} x {given.samples} rows, prompts of {given.prompt} tokens, completions of "
        f"{given.length}{spread}; median of {given.rounds} updates in turn, processor seconds."
    )
    head = ["model", "tokens", "shared", "FLOPs", *WAYS, "padded / shared", "share of the bound"]
    rows = []
    for found in results:
        (alone, shared), seconds = found["tokens"], found["seconds"]
        ratio = found["flops"][0] / found["flops"][1]
        rows.append(
            [
                found["model"],
                alone,
                shared,
                f"{ratio:.2f} x fewer",
                *(f"{seconds[way]:.2f} s" for way in WAYS),
                f"{seconds['padded'] / seconds['shared']:.2f}",
                f"{found['bound'] / seconds['shared']:.0%}",
            ]
        )
    return f"{title}\n\n{common.table(head, rows)}"


if __name__ == "__main__":
    main()
