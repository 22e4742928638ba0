"""Decoding, updates and whole steps of Qwen2.5 shapes on a GPU, with bounds, transformers and TRL.

    python benchmarks/gpu.py --part decode|detail|update|step|trl

decode    Tokens per second of the torch sampler, of transformers' `generate` with a growing and
          with a static cache, and of its continuous batching, next to what the GPU's bandwidth and
          rate allow.
detail    Of the torch sampler: prompt tokens per second, seconds to capture the graphs, the gap
          between its log-probabilities and the learner's, and the kernels of a step by time.
update    Trained tokens per second of the GRPO update with the recipe's micro-batches, and the
          share of the GPU's rate that the model's own FLOPs reach.
step      Seconds of a whole step by part, with the options of the recipes' profile for this card's
          memory or of --profile, and a projection of what a run would cost. GRPO with completions
          of equal length, GRPO with the lengths in LENGTHS, and PPO. Text is decoded, searched for
          the stop string, and graded.
trl       The GRPO step of equal lengths in TRL's GRPOTrainer, with micro-batches of several sizes.
          It needs trl.

Models have random weights in bf16, and prompts are random tokens. Completions end when the
benchmark says so. A part stops after --minutes and continues when it is run again: its figures are
in results/NAME.json. On a GPU a case of ours fails if flash attention or CUDA graphs were not in
use, so that no slow fallback is published. All parts but the last need torch >= 2.11, transformers
>= 5.17 and what TinyZero itself needs. `--device cpu` runs a toy model through the same code, to
test it without a GPU; its figures mean nothing.

If `tinyzero plan` knows the GPU, shares are of the peak rates in its data sheet. Otherwise they are
of the rates measured here. Both are printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from tinyzero import models
from tinyzero.algorithms import load_algorithm
from tinyzero.batching import Batch, collate
from tinyzero.config import Config, OptimizerOptions, read_recipe, resolve
from tinyzero.cost.devices import device_named
from tinyzero.cost.shapes import Shape, read_shape
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.types import Completion, Problem, Reward, Rollout, SamplingParams, requests_for


def qwen(
    layers: int, width: int, heads: int, feed_forward: int, vocabulary: int = 151_936
) -> dict[str, Any]:
    """A Qwen2.5 configuration with two key-value heads and tied embeddings."""
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": feed_forward}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": 2, "vocab_size": vocabulary}
    fixed = {"model_type": "qwen2", "tie_word_embeddings": True, "rms_norm_eps": 1e-6}
    return (
        sizes | fixed | {"max_position_embeddings": 32_768, "rope_theta": 1e6, "bos_token_id": None}
    )


SHAPES = {
    "3b": qwen(36, 2048, 16, 11_008),
    "1.5b": qwen(28, 1536, 12, 8960),
    "0.5b": qwen(24, 896, 14, 4864),
    "toy": qwen(2, 64, 4, 96, vocabulary=300),
}
STOP = "</answer>"
# Deciles of the length of completions, as shares of the limit. They are an assumption: their mean
# is the 0.3 of `tinyzero plan`, and a tenth of the completions is more than twice as long.
LENGTHS = (0.05, 0.08, 0.12, 0.16, 0.21, 0.27, 0.34, 0.43, 0.57, 0.77)
STEPS, PRICE = 475, 2.5  # for the projection: GRPO steps, and dollars per hour
OUT_OF_MEMORY = "out of memory"  # the only error that would happen again
ENGINES = ("ours", "generate", "static", "continuous")
Found = dict[str, Any]


def decode_bound(
    shape: Shape, batch: int, prompt: int, new: int, bandwidth: float, rate: float = math.inf
) -> float:
    """Tokens per second if each part takes as long as its bytes or its FLOPs, whichever is longer.

    A step reads the weights and multiplies each row with them. It also reads the whole cache and
    multiplies each query with its keys and values. The two parts take turns layer by layer, so that
    their times add up. The first new token comes from the prompt. The step after it
    reads a context of prompt + 1 tokens, and the last step one of prompt + new - 1.
    """
    weights = max(2 * shape.active / bandwidth, batch * 2 * shape.active / rate)
    per_token = max(shape.cache(2) / bandwidth, 4 * shape.layers * shape.heads * shape.head / rate)
    steps = new - 1
    contexts = sum(range(prompt + 1, prompt + new))
    return batch * steps / (steps * weights + batch * contexts * per_token)


def update_flops(shape: Shape, rows: int, prompt: int, new: int) -> float:
    """The model's FLOPs of an update on `new` tokens after `prompt` tokens in each row.

    They are three forward passes, with the head for the new tokens only, and attention over all
    earlier tokens. What is computed again to save memory does not count.
    """
    head, length = shape.vocabulary * shape.width, prompt + new
    products = 2 * rows * (length * (shape.active - head) + new * head)
    seen = rows * length * (length + 1) / 2
    return 3 * (products + 4 * shape.layers * shape.heads * shape.head * seen)


def cost(seconds: float, steps: int = STEPS, price: float = PRICE) -> float:
    """Dollars that `steps` steps of `seconds` each cost."""
    return steps * seconds / 3600 * price


def build(
    name: str, device: str, pack: bool = True, checkpointing: bool = False
) -> models.Backbone:
    """A model of that shape with random weights in bf16; as in a loaded one, only they are rounded.

    The peak of memory is reset afterwards, because a run loads its models and does not draw them.
    """
    torch.manual_seed(0)
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**SHAPES[name]),
            attn_implementation="tinyzero",
            dtype=torch.bfloat16,
        )
    model = models.Backbone(lm.eval(), pack)
    if checkpointing:
        models.recompute_layers(model)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return model


def prompts_of(given: argparse.Namespace, name: str, count: int) -> list[list[int]]:
    """Prompts of random tokens."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        1, SHAPES[name]["vocab_size"], (count, given.prompt), generator=generator
    ).tolist()


def timed(given: argparse.Namespace, work: Callable[[], Any]) -> float:
    """Seconds that `work` takes, including the device's part."""
    synchronize(given.device)
    began = time.perf_counter()
    work()
    synchronize(given.device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ceilings(given: argparse.Namespace) -> Found:
    """What this device reaches: bytes per second of a copy, bf16 FLOPs per second of a product."""
    size = 1 << 30 if given.device == "cuda" else 1 << 24
    source = torch.randint(0, 100, (size,), dtype=torch.int8, device=given.device)
    target = torch.empty_like(source)
    side = 8192 if given.device == "cuda" else 256
    a, b = (torch.randn(side, side, device=given.device, dtype=torch.bfloat16) for _ in range(2))
    copies = [timed(given, lambda: target.copy_(source)) for _ in range(12)]
    products = [timed(given, lambda: a @ b) for _ in range(12)]
    return {"bandwidth": 2 * size / median(copies[2:]), "rate": 2 * side**3 / median(products[2:])}


def peaks(given: argparse.Namespace, results: Found) -> tuple[float, float]:
    """Bytes per second and FLOPs per second that the shares in the tables are of."""
    if (device := device_named(given.name_of_device)) is not None:
        return device.bandwidth, device.rate("bfloat16")
    return results["ceilings"]["bandwidth"], results["ceilings"]["rate"]


# decode


def decode_cases(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Found]]]:
    for engine in given.engines:  # ours first, for all models
        for batch in given.batches:
            for name in given.models:
                yield f"{name}/{batch}/{engine}", partial(decode_case, given, name, batch, engine)


def decode_case(given: argparse.Namespace, name: str, batch: int, engine: str) -> Found:
    """Tokens per second of one engine at one batch size: the best round after a warm-up."""
    prompts = prompts_of(given, name, batch)
    run = our_engine(given, name, batch) if engine == "ours" else their_engine(given, name, engine)
    # a static cache is compiled for its length
    run(prompts, given.new if engine == "static" else min(given.new, 16))
    seconds, counts = [], []
    for _ in range(given.rounds):
        seconds.append(timed(given, lambda: counts.append(run(prompts, given.new))))
    assert set(counts) == {batch * given.new}, (
        f"{engine} made {counts} tokens, not {batch * given.new}"
    )
    return {"seconds": seconds, "tokens": counts[0], "tokens/s": counts[0] / min(seconds)}


def our_engine(
    given: argparse.Namespace, name: str, batch: int
) -> Callable[[list[list[int]], int], int]:
    """The torch sampler in slots, as a run on a GPU uses it."""
    sampler = TorchSampler(
        build(name, given.device), lambda ids: "", frozenset(), max_rows=batch, in_slots=True
    )

    def run(prompts: list[list[int]], new: int) -> int:
        params = SamplingParams(max_tokens=new, stop=())
        found = sampler.generate(requests_for(prompts), params)
        require_fast(sampler)
        return sum(len(c.token_ids) for group in found for c in group)

    return run


def require_fast(sampler: TorchSampler) -> None:
    """Raise RuntimeError if a GPU decoded without flash attention or without CUDA graphs."""
    missing = [name for name, value in sampler.metrics().items() if value != 1]
    if missing:
        raise RuntimeError(f"not in use: {', '.join(missing)}; {sampler.take_faults()}")


def their_engine(
    given: argparse.Namespace, name: str, engine: str
) -> Callable[[list[list[int]], int], int]:
    """transformers: `generate` with a growing or a static cache, or continuous batching."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    lm = build(name, given.device).lm
    lm.set_attn_implementation("sdpa")
    lm.generation_config = GenerationConfig()  # otherwise its end token is used
    # On a CPU, the cache would take all memory.
    small = (
        {"num_blocks": 64, "page_size": 32, "max_batch_tokens": 256}
        if given.device == "cpu"
        else {}
    )

    def run(prompts: list[list[int]], new: int) -> int:
        settings = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=new,
            eos_token_id=-1 if engine == "continuous" else None,
            pad_token_id=0,
            cache_implementation="static" if engine == "static" else None,
            disable_compile=given.device == "cpu",
        )
        if engine == "continuous":
            more = ContinuousBatchingConfig(**small)
            found = lm.generate_batch(
                prompts, generation_config=settings, continuous_batching_config=more
            )
            return sum(len(output.generated_tokens) for output in found.values())
        ids = torch.tensor(prompts, device=given.device)
        with torch.inference_mode():
            made = lm.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )
        return int((made.shape[1] - ids.shape[1]) * made.shape[0])

    return run


def decode_table(given: argparse.Namespace, results: Found) -> str:
    bandwidth, rate = peaks(given, results)
    rows = []
    for name in given.models:
        for batch in given.batches:
            found = {
                engine: results.get(f"{name}/{batch}/{engine}", {}) for engine in given.engines
            }
            sizes = read_shape(SHAPES[name], name), batch, given.prompt, given.new
            bound = decode_bound(*sizes, bandwidth, rate)
            share = (
                found["ours"].get("tokens/s", float("nan")) / bound
                if "ours" in found
                else float("nan")
            )
            rates = [cell(found[engine], "tokens/s") for engine in given.engines]
            rows.append(
                [
                    name,
                    batch,
                    *rates,
                    f"{decode_bound(*sizes, bandwidth):,.0f}",
                    f"{bound:,.0f}",
                    f"{share:.0%}",
                    cell(found.get("ours", {}), "peak", 1e9),
                ]
            )
    head = [
        "model",
        "batch",
        *given.engines,
        "by bandwidth",
        "bound",
        "ours / bound",
        "our peak, GB",
    ]
    return f"Tokens per second, {given.prompt} prompt tokens, {given.new} new.\n\n" + common.table(
        head, rows
    )


# detail


def detail_cases(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Found]]]:
    for name in given.models:
        yield f"{name}/{given.batches[0]}", partial(detail_case, given, name, given.batches[0])


def detail_case(given: argparse.Namespace, name: str, batch: int) -> Found:
    """Figures that explain the time of decoding, and how far it is from the learner."""
    model = build(name, given.device)
    sampler = TorchSampler(model, lambda ids: "", frozenset(), max_rows=batch, in_slots=True)
    prompts, params = prompts_of(given, name, batch), SamplingParams(max_tokens=given.new, stop=())
    completions = sampler.generate(requests_for(prompts), params)
    require_fast(sampler)

    groups = rollouts(name, prompts, completions)
    rows = collate(groups, given.new)
    scored = TorchLearner(model, policy_outputs, None).score(rows)
    gaps = (scored.cpu() - rows.sampled_logprobs.cpu()).abs()
    gap = float(gaps[rows.mask.cpu()].mean())

    slots = sampler._slots
    assert slots is not None
    every = torch.arange(batch)
    enter = partial(slots.enter, every, prompts, every, every, torch.zeros_like(every))
    with torch.inference_mode():
        prefill = min(timed(given, enter) for _ in range(given.rounds + 1))
        captures = {}
        if given.device == "cuda":
            for count in slots.buckets():
                captures[count] = timed(given, partial(slots._capture, count, params))
        kernels = breakdown(given, partial(slots.step, batch, params))
    return {
        "prefill tokens/s": batch * given.prompt / prefill,
        "captures": captures,
        "gap": gap,
        "kernels": kernels,
    }


def breakdown(given: argparse.Namespace, work: Callable[[], Any]) -> list[tuple[str, float]]:
    """The 25 operations of `work` that take longest, with their milliseconds."""
    activities = [ProfilerActivity.CPU]
    if given.device == "cuda":
        activities = [ProfilerActivity.CUDA]
    repeats = 20
    with profile(activities=activities) as profiler:
        for _ in range(repeats):
            work()
        synchronize(given.device)

    spent = "self_cpu_time_total" if given.device == "cpu" else "self_device_time_total"
    events = [
        (event.key, getattr(event, spent) / repeats / 1e3) for event in profiler.key_averages()
    ]
    return sorted(events, key=lambda event: -event[1])[:25]


def detail_table(given: argparse.Namespace, results: Found) -> str:
    rows, tables = [], []
    for name in given.models:
        case = results.get(f"{name}/{given.batches[0]}", {})
        captures = f"{sum(case['captures'].values()):.2f}" if "captures" in case else "-"
        rows.append([name, cell(case, "prefill tokens/s"), captures, cell(case, "gap", digits=5)])
        kernels = [[f"`{key[:70]}`", f"{spent:.3f}"] for key, spent in case.get("kernels", ())]
        tables.append(f"{name}\n\n" + common.table(["kernel", "ms per step"], kernels))
    head = ["model", "prefill tokens/s", "capturing all graphs, s", "mean gap to the learner"]
    return common.table(head, rows) + "\n\n" + "\n\n".join(tables)


# update and step


def rollouts(
    name: str, prompts: list[list[int]], completions: list[list[Completion]]
) -> list[list[Rollout]]:
    """Groups of rollouts whose rewards alternate, so that every row has a gradient."""
    problem = Problem("random", {}, "train", "random")
    return [
        [
            Rollout(problem, tuple(prompt), c, Reward(float((g + i) % 2)), g)
            for i, c in enumerate(group)
        ]
        for g, (prompt, group) in enumerate(zip(prompts, completions, strict=True))
    ]


def invented(
    given: argparse.Namespace, name: str, groups: int, samples: int, new: int
) -> list[list[Rollout]]:
    """Groups of random completions, for an update without sampling."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(
        1, SHAPES[name]["vocab_size"], (groups, samples, new), generator=generator
    ).tolist()
    zeros, kept = (-1.0,) * new, (True,) * new
    made = [[Completion(tuple(row), kept, zeros, "", "length") for row in group] for group in ids]
    return rollouts(name, prompts_of(given, name, groups), made)


PROFILES = ("141gb", "80gb", "48gb")


def profile_of(memory: float) -> str:
    """The recipes' profile for a card with that many bytes of memory; 48gb if it has less."""
    return next((p for p in PROFILES if memory >= 1e9 * int(p.removesuffix("gb"))), PROFILES[-1])


def recipe_of(given: argparse.Namespace, name: str, kind: str) -> Config:
    """The recipe of that size and algorithm with the profile; the laptop's for the toy."""
    if name == "toy":
        return resolve(read_recipe(f"laptop-countdown-{kind}"), {"rollout.rows": 16})
    return resolve(read_recipe(f"qwen2.5-{name}-countdown-{kind}"), {}, given.profile)


def update_cases(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Found]]]:
    for name in given.models:
        for checkpointing in (False, True):
            yield (
                f"{name}/{'again' if checkpointing else 'kept'}",
                partial(update_case, given, name, checkpointing),
            )


def update_case(given: argparse.Namespace, name: str, checkpointing: bool) -> Found:
    """Figures of one optimizer step on a whole batch: the best round after a warm-up."""
    algorithm = load_algorithm("grpo")
    recipe = recipe_of(given, name, "grpo").update
    model, outputs = (
        build(name, given.device, checkpointing=checkpointing),
        partial(policy_outputs, logit_rows=recipe.logit_rows),
    )
    learner = TorchLearner(
        model,
        outputs,
        OptimizerOptions(),
        loss=partial(algorithm.loss, "policy"),
        micro_tokens=given.micro_tokens or recipe.micro_tokens,
    )
    groups = invented(given, name, given.update_rows // 4, 4, given.update_new)
    batch = algorithm.annotate(collate(groups, given.update_new), {"policy": learner})[0]
    assert batch.idle is None or not batch.idle.any(), "every row is to be computed"
    seconds = [timed(given, lambda: learner.update(batch)) for _ in range(given.rounds + 1)]
    tokens = batch.size * (given.prompt + given.update_new)
    assert int(batch.lengths.sum()) == tokens
    flops = update_flops(read_shape(SHAPES[name], name), batch.size, given.prompt, given.update_new)
    best = min(seconds[1:])
    return {
        "seconds": seconds,
        "tokens": tokens,
        "flops": flops,
        "tokens/s": tokens / best,
        "flops/s": flops / best,
    }


def update_table(given: argparse.Namespace, results: Found) -> str:
    _, rate = peaks(given, results)
    rows = []
    for name in given.models:
        for kind in ("kept", "again"):
            found = results.get(f"{name}/{kind}", {})
            share = (
                f"{found['flops/s'] / rate:.0%}" if "flops/s" in found else cell(found, "flops/s")
            )
            rows.append([name, kind, cell(found, "tokens/s"), share, cell(found, "peak", 1e9)])
    tokens = f"{given.prompt} + {given.update_new} tokens"
    title = f"The GRPO update of {given.update_rows} rows of {tokens}.\n\n"
    head = ["model", "activations", "tokens/s", "model FLOPs / peak", "peak, GB"]
    return title + common.table(head, rows)


def step_cases(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Found]]]:
    for name in given.models:
        for kind in ("grpo", "grpo lengths"):
            yield f"{name}/{kind}", partial(step_case, given, name, kind)
    for name in given.models:  # last, because it takes longest
        yield f"{name}/ppo", partial(step_case, given, name, "ppo")


class TimedSampler(TorchSampler):
    """Lets row i end after `lengths[i]` tokens, because random weights do not know when to end."""

    lengths: torch.Tensor

    def _record(
        self,
        drawn: Any,
        rows: torch.Tensor,
        columns: torch.Tensor,
        token: torch.Tensor,
        *more: Any,
    ) -> None:
        end = int(self.end_ids[0])
        token = torch.where(token == end, 1, token)  # no other row may end
        token = torch.where(columns + 1 == self.lengths[rows], end, token)
        super()._record(drawn, rows, columns, token, *more)


def lengths_of(given: argparse.Namespace, kind: str, rows: int, limit: int) -> torch.Tensor:
    """(rows,) the tokens of each completion: equal, or the deciles in LENGTHS in random order."""
    if kind != "grpo lengths":
        return torch.full((rows,), given.step_new)
    shares = torch.tensor(LENGTHS).repeat(-(-rows // len(LENGTHS)))[:rows]
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(2))
    return (shares[order] * limit).long().clamp(min=1)


def text_decoder(given: argparse.Namespace) -> Callable[[Any], str]:
    """A real decoder for random ids: they stand for tokens whose text is not a stop string."""
    tokenizer = models.load_tokenizer(given.tokenizer)
    decode = models.decoder(tokenizer)
    plain = [i for i in range(len(tokenizer)) if STOP not in decode([i])]
    return lambda ids: decode([plain[i % len(plain)] for i in ids])


def step_case(given: argparse.Namespace, name: str, kind: str) -> Found:
    """Seconds of sampling, scoring and the update of every model, with the recipe's settings.

    Those are several updates per batch, truncated importance sampling, and whatever makes it fit. A
    warm-up step comes before the timed ones.
    """
    algorithm_name = kind.split()[0]
    algorithm, recipe = (
        load_algorithm(algorithm_name, {"correction": "truncate"}),
        recipe_of(given, name, algorithm_name),
    )
    prompts, samples, minibatches = given.ppo if kind == "ppo" else given.grpo
    m, u, rows = recipe.model, recipe.update, min(recipe.rollout.rows, prompts * samples)
    policy = build(name, given.device, checkpointing=m.checkpointing)
    outputs, learner = (
        partial(policy_outputs, logit_rows=u.logit_rows),
        partial(TorchLearner, minibatches=minibatches, micro_tokens=u.micro_tokens),
    )
    learners = {
        "policy": learner(policy, outputs, recipe.optimizer, loss=partial(algorithm.loss, "policy"))
    }
    if kind == "ppo":
        critic = models.ValueModel(build(name, given.device, checkpointing=m.checkpointing))
        learners["critic"] = learner(
            critic,
            value_outputs,
            recipe.critic,
            loss=partial(algorithm.loss, "critic"),
            park=m.park,
        )
    end = frozenset({SHAPES[name]["vocab_size"] - 1})
    sampler = TimedSampler(policy, text_decoder(given), end, max_rows=rows, in_slots=True)
    limit = given.step_new if given.device == "cpu" else recipe.rollout.max_tokens
    sampler.lengths = lengths_of(given, kind, prompts * samples, limit)
    ids = prompts_of(given, name, prompts)
    requests = requests_for(ids, samples)
    task = load_task("countdown")
    problems = [task.problem("train", number) for number in range(prompts)]

    def grade(number: int, completions: list[Completion]) -> None:
        task.rewards([problems[number]] * samples, [c.text for c in completions])

    steps: list[dict[str, float]] = []
    for number in range(given.rounds + 1):
        made: list[Any] = []
        laps: dict[str, float] = {}
        params = SamplingParams(max_tokens=limit, stop=(STOP,), seed=number)
        laps["sample"] = timed(
            given,
            lambda params=params, made=made: made.append(sampler.generate(requests, params, grade)),
        )
        require_fast(sampler)
        groups = rollouts(name, ids, made[0])
        batch = collate(groups, limit)

        def annotate(batch: Batch = batch, made: list[Any] = made) -> None:
            made.append(replace(algorithm.annotate(batch, learners)[0], idle=None))

        laps["annotate"] = timed(given, annotate)
        for role, learner in learners.items():
            laps[f"update {role}"] = timed(given, partial(learner.update, made[1]))
        tokens = sum(len(r.completion.token_ids) for group in groups for r in group)
        assert tokens == int(sampler.lengths.sum())
        steps.append(laps | {"step": sum(laps.values()), "tokens": tokens})
    best = min(steps[1:], key=lambda laps: laps["step"])
    return {"steps": steps, **best, "rows": rows, "checkpointing": m.checkpointing}


def step_table(given: argparse.Namespace, results: Found) -> str:
    rows, notes = [], []
    laps = ("sample", "annotate", "update policy", "update critic", "step")
    for name in given.models:
        kinds = (("grpo", given.grpo), ("grpo lengths", given.grpo), ("ppo", given.ppo))
        for kind, (prompts, samples, _) in kinds:
            found = results.get(f"{name}/{kind}", {})
            cells = [cell(found, lap, digits=2) for lap in laps]
            twice = {True: "yes", False: "no"}.get(found.get("checkpointing", ""), "-")
            rows.append(
                [
                    name,
                    f"{kind} {prompts} × {samples}",
                    cell(found, "rows"),
                    twice,
                    *cells,
                    cell(found, "peak", 1e9),
                ]
            )
            if kind == "grpo lengths" and "step" in found:
                notes.append(projection(name, found["step"]))
    title = f"Seconds of a step, {given.prompt} prompt tokens and {given.step_new} new, or "
    title += f"{sum(LENGTHS) / len(LENGTHS):.0%} of the limit on average (lengths)"
    title += f", with the recipes' profile {given.profile}.\n\n" if given.profile else ".\n\n"
    head = ["model", "step", "rows at once", "layers computed twice", *laps, "peak, GB"]
    return title + common.table(head, rows) + "\n\n" + "\n".join(notes)


def projection(name: str, seconds: float) -> str:
    hours = STEPS * seconds / 3600
    return (
        f"PROJECTION, not a run: {STEPS} such GRPO steps of {name} take {hours:.1f} hours, "
        f"${cost(seconds):.2f} at ${PRICE:.2f} per hour."
    )


# TRL


def trl_cases(given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Found]]]:
    for name in given.models:
        for micro in trl_sizes(given):
            yield f"{name}/trl/{micro}", partial(trl_case, given, name, micro)


def trl_sizes(given: argparse.Namespace) -> list[int]:
    """Rows per micro-batch to try: whole groups that divide an optimizer step's rows."""
    prompts, samples, minibatches = given.grpo
    share, sizes = prompts * samples // minibatches, []
    for size in (samples * 2**power for power in range(8)):
        if share % size == 0 and size * (given.prompt + given.step_new) <= 50_000:
            sizes.append(size)
    return sizes[-1:-5:-1]  # the largest first


def trl_case(given: argparse.Namespace, name: str, micro: int) -> Found:
    """Figures of a step of the same shape in TRL's GRPOTrainer, with as many updates per batch.

    It has no reference model and no logging.
    """
    sys.modules.setdefault("vllm", None)  # type: ignore[arg-type]  # saves its import
    import datasets
    from transformers import GenerationConfig, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    datasets.disable_progress_bars()
    prompts, samples, minibatches = given.grpo
    rows, total = prompts * samples, given.rounds + 1
    tokenizer = models.build_tokenizer("0123456789", [])
    lm = build(name, given.device).lm
    lm.set_attn_implementation("sdpa")
    texts = [
        "".join(str((i + j) % 10) for j in range(given.prompt)) for i in range(prompts * total)
    ]
    data = datasets.Dataset.from_dict({"prompt": texts})
    with tempfile.TemporaryDirectory() as out:
        arguments = GRPOConfig(
            output_dir=out,
            max_steps=total * minibatches,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rows // minibatches // micro,
            steps_per_generation=rows // micro,
            num_generations=samples,
            max_completion_length=given.step_new,
            temperature=1.0,
            top_k=0,
            beta=0.0,
            loss_type="dapo",
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            gradient_checkpointing=recipe_of(given, name, "grpo").model.checkpointing,
            bf16=given.device == "cuda",
            use_cpu=given.device == "cpu",
            use_vllm=False,
            shuffle_dataset=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )

        def reward(completions: list[str], **_: Any) -> list[float]:
            return [float(i % 2) for i in range(len(completions))]

        trainer = GRPOTrainer(
            lm, reward, args=arguments, train_dataset=data, processing_class=tokenizer
        )
        trainer.eos_token_ids = [-1]  # every completion runs to the limit
        lm.generation_config = GenerationConfig()
        trainer.generation_config.eos_token_id = trainer.generation_kwargs["eos_token_id"] = None
        seconds: list[float] = []
        tokens: list[float] = []

        class Clock(TrainerCallback):
            began = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.began = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step % minibatches:
                    return
                synchronize(given.device)
                seconds.append(time.perf_counter() - self.began)
                tokens.append(trainer._metrics["train"]["completions/mean_length"][-1] * rows)
                self.began = time.perf_counter()

        trainer.add_callback(Clock())
        trainer.train()
    assert set(tokens) == {rows * given.step_new}, f"TRL made {tokens} tokens per step"
    return {
        "seconds": seconds,
        "tokens": rows * given.step_new,
        "step": min(seconds[1:]),
        "micro": micro,
    }


def trl_table(given: argparse.Namespace, results: Found) -> str:
    ours = read(given, "step").get("results", {})
    rows = []
    for name in given.models:
        sizes = [results.get(f"{name}/trl/{micro}", {}) for micro in trl_sizes(given)]
        theirs = min(sizes, key=lambda case: case.get("step", math.inf))  # its best micro-batch
        mine = ours.get(f"{name}/grpo", {})
        ratio = (
            f"{theirs['step'] / mine['step']:.2f}" if "step" in theirs and "step" in mine else "-"
        )
        rows.append(
            [
                name,
                cell(theirs, "step", digits=2),
                cell(theirs, "micro"),
                cell(mine, "step", digits=2),
                ratio,
                cell(theirs, "peak", 1e9),
            ]
        )
    prompts, samples, _ = given.grpo
    size = f"{prompts} × {samples}, {given.prompt} prompt tokens and {given.step_new} new"
    title = f"Seconds of a GRPO step of {size}. TRL has its fastest micro-batch. It trains bf16 "
    title += (
        "weights and has bf16 moments; ours has fp32 copies of the weights and fp32 moments.\n\n"
    )
    head = ["model", "TRL", "rows per micro-batch", "ours", "TRL / ours", "TRL's peak, GB"]
    return title + common.table(head, rows)


PARTS: dict[str, tuple[Any, Any]] = {
    "decode": (decode_cases, decode_table),
    "detail": (detail_cases, detail_table),
    "update": (update_cases, update_table),
    "step": (step_cases, step_table),
    "trl": (trl_cases, trl_table),
}


def cell(found: Found, key: str, unit: float = 1.0, digits: int | None = None) -> str:
    """A cell of a table: the figure, why it is missing, or a dash if it was not measured yet."""
    if key not in found:
        return str(found.get("error", "-"))
    return f"{found[key] / unit:,.{(1 if unit > 1 else 0) if digits is None else digits}f}"


def file_of(given: argparse.Namespace, part: str) -> str:
    return f"{given.name}_{part}"


def settings_of(given: argparse.Namespace) -> Found:
    """What the figures depend on, so that results of different settings are never mixed."""
    kept = (
        "device",
        "name_of_device",
        "prompt",
        "new",
        "update_rows",
        "update_new",
        "step_new",
        "grpo",
        "ppo",
    )
    values = {key: getattr(given, key) for key in (*kept, "micro_tokens", "profile", "rounds")}
    values["tokenizer"] = Path(given.tokenizer).name  # a folder is of no use to others
    return json.loads(json.dumps(values | {"torch": torch.__version__}))


def read(given: argparse.Namespace, part: str) -> Found:
    """The record of an earlier run of a part with the same settings, or an empty one."""
    path = common.RESULTS / f"{file_of(given, part)}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found if found.get("settings") == settings_of(given) else {}


def measure(given: argparse.Namespace) -> None:
    """Measure the missing cases of a part until the time is over, and write the table."""
    cases, table = PARTS[given.part]
    began, longest, left = time.perf_counter(), 0.0, 0
    results: Found = read(given, given.part).get("results", {})
    about = common.describe([torch.get_num_threads()], "torch", "transformers", "trl")
    about |= {"device": given.name_of_device, "settings": settings_of(given)}
    if "ceilings" not in results:
        results["ceilings"] = ceilings(given)
    for key, run in cases(given):
        if key in results and results[key].get("error", OUT_OF_MEMORY) == OUT_OF_MEMORY:
            continue
        if time.perf_counter() - began + longest > 60 * given.minutes:
            left += 1
            continue
        at = time.perf_counter()
        results[key] = with_memory(given, run)
        longest = max(longest, time.perf_counter() - at)
        print(f"{given.part} {key}: {results[key]}", file=sys.stderr, flush=True)
        save(given, about, results)
    reached = results["ceilings"]
    text = (
        f"{given.name_of_device}: measured {gigas(reached['bandwidth'], reached['rate'])}; "
        f"shares are of {gigas(*peaks(given, results))}.\n\n"
    )
    text += table(given, results) + (f"\n\n{left} cases are left: run it again." if left else "")
    common.write(file_of(given, given.part), about, results, text)


def gigas(bandwidth: float, rate: float) -> str:
    return f"{bandwidth / 1e9:,.0f} GB/s and {rate / 1e9:,.0f} GFLOP/s"


def with_memory(given: argparse.Namespace, run: Callable[[], Found]) -> Found:
    """The figures of a case and its peak memory in bytes, or the error that it ended with.

    On a CPU, the peak is that of the process.
    """
    gc.collect()
    if given.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        found = run()
    except torch.OutOfMemoryError:
        return {"error": OUT_OF_MEMORY}
    except Exception as error:  # the other cases are measured whatever happens here
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:80]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found | {"peak": torch.cuda.max_memory_allocated() if given.device == "cuda" else peak}


def save(given: argparse.Namespace, about: Found, results: Found) -> None:
    common.RESULTS.mkdir(exist_ok=True)
    path: Path = common.RESULTS / f"{file_of(given, given.part)}.json"
    path.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options, with the toy model's defaults on a CPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--models", nargs="+", choices=SHAPES)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument(
        "--rounds", type=int, default=2, help="timed rounds after a warm-up (default: 2)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=7.0,
        help="do not start a case that would end later (default: 7)",
    )
    parser.add_argument("--micro-tokens", type=int, help="for update (default: the recipe's)")
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        help="profile of the recipes, for step (default: by this card's memory)",
    )
    parser.add_argument(
        "--tokenizer",
        default=models.BUNDLED[0],
        help="bundled name or folder of the tokenizer that decodes text in step",
    )
    parser.add_argument("--name", help="name of the files in benchmarks/results")
    given = parser.parse_args(arguments)
    toy = given.device == "cpu"
    given.models = given.models or (["toy"] if toy else ["3b", "1.5b", "0.5b"])
    given.batches = given.batches or ([4, 6] if toy else [192, 256, 64, 512])
    given.name = given.name or ("gpu_toy" if toy else "gpu")
    given.name_of_device = common.cpu() if toy else torch.cuda.get_device_name()
    if not toy:
        given.profile = given.profile or profile_of(torch.cuda.get_device_properties().total_memory)
    given.prompt, given.new, given.step_new = (10, 12, 8) if toy else (140, 512, 400)
    given.update_rows, given.update_new = (8, 14) if toy else (256, 510)
    # Prompts, samples per prompt, and updates per step.
    given.grpo, given.ppo = ((4, 5, 2), (8, 1, 4)) if toy else ((128, 5, 2), (256, 1, 4))
    return given


if __name__ == "__main__":
    measure(parse())
