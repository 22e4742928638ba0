"""What a recipe needs and costs, before it runs and while it runs: memory, time, FLOPs and dollars.

Nothing is loaded or downloaded. N is the number of parameters in matrix products (the output head
once; of experts only those that a token uses), and T the number of tokens in a step.
A group's prompt is computed once, so it counts once.

    forward   2 N FLOPs per token, plus 2 L H D per token and token of its sequence for attention
    learning  3 forwards; with adapters 2; with checkpointing 1 more, which takes time but is not
              counted as the model's work
    step      sampling, one forward per model that scores and one update per model that learns.
              PPO with a reference and several updates per batch is 2 + 2 + 2 + 2 + 6 + 6 = 20 N T
    memory    18 bytes per trained weight in bf16 and 16 in fp32: weight, fp32 master, fp32 gradient
              and two moments. 2 or 4 per frozen weight. On a GPU the sampler's cache stays. On top
              comes the larger of what sampling takes and the activations of learning
    decoding  one pass per token until the longest answer ends. It reads all weights and the cache

Times follow the roofline model: a device's peak times a share of it, plus what the host needs to
launch the work. The shares are assumptions of devices.py. `tinyzero plan --measure` corrects them.
The critic is counted as if it had the policy's head.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from tinyzero.algorithms import Algorithm
from tinyzero.config import Config, OptimizerOptions
from tinyzero.cost.devices import Device
from tinyzero.cost.shapes import Shape
from tinyzero.errors import UserError, guarding
from tinyzero.tasks import REGISTRY, load_task
from tinyzero.types import Prompt

BYTES = {"float32": 4, "bfloat16": 2}

USABLE = 0.92
"""Share of a device's memory to plan with. CUDA, the libraries and fragmentation take the rest."""
BUS = 6e9
"""Bytes per second between the CPU's memory and the GPU's, from memory that is not pinned."""
HOST_BANDWIDTH = 15e9
"""Bytes per second that an optimizer in the CPU's memory goes through. A seventh cross the bus."""
HANDED_OVER, STEPPED = 14, 28
"""Bytes of traffic per offloaded parameter: to add a micro-batch's gradient, and to take a step."""
OTHERWISE = 1.1
"""The step's time is this many times its computations: collating, records and waiting."""
PER_ANSWER = 5e-4
"""Seconds of Python per answer: decoding its text, grading it, describing it."""
KEPT = 0.5
"""Share of groups that a filter is assumed to keep."""
LENGTH = 0.3
"""Assumed mean length of an answer over the run, as a share of the limit."""

TYPICAL_PROMPT = 128.0
"""Tokens of a prompt if the problems of a task cannot be read without a download."""


class Load(NamedTuple):
    """The tokens of one step, or of an evaluation."""

    prompts: int
    samples: int
    """Answers per prompt."""
    prompt: float
    """Tokens per prompt."""
    length: float
    """Mean tokens per answer."""
    longest: int
    """Tokens of the longest answer: decoding takes that many passes."""
    kept: float = 1.0
    """Share of the answers that are learned from."""

    @property
    def answers(self) -> int:
        """Answers in total."""
        return self.prompts * self.samples

    @property
    def learned(self) -> float:
        """Tokens that are computed to learn from: each prompt once, and all of its answers."""
        return self.kept * self.prompts * (self.prompt + self.samples * self.length)


class Part(NamedTuple):
    """One part of a step."""

    flops: float
    """The model's own: what is computed a second time, to save memory, is not counted."""
    seconds: float
    again: float = 0.0
    """FLOPs of what is computed a second time."""


@dataclass(frozen=True)
class Plan:
    """What one recipe takes on one device. Sizes are in bytes."""

    device: Device
    dtype: str
    threads: int
    """Threads of the CPU that the times are for; 0 on a GPU."""
    steps: int
    load: Load
    sampler: str
    """torch, vllm, or auto, which is planned as torch."""
    models: dict[str, dict[str, float]]
    """Held on the device throughout, by model and part."""
    slots: float
    """The cache that stays on a GPU, which decodes in slots; 0 on a CPU."""
    sampling: dict[str, float]
    """Held while sampling."""
    learning: dict[str, float]
    """Held while learning."""
    host: float
    """In the CPU's memory, for a run on a GPU."""
    disk: float
    """Checkpoints that are kept."""
    step: dict[str, Part]
    evaluations: Part
    """All evaluations of the run together."""

    @property
    def held(self) -> float:
        """Bytes on the device throughout."""
        return sum(sum(parts.values()) for parts in self.models.values()) + self.slots

    @property
    def peak(self) -> float:
        """Bytes at the worst moment."""
        return self.held + max(sum(self.sampling.values()), sum(self.learning.values()))

    @property
    def fits(self) -> bool:
        """Whether the peak is within the usable memory."""
        return self.peak <= USABLE * self.device.memory

    @property
    def margin(self) -> float:
        """Share of the usable memory that stays free; negative if the run does not fit."""
        return 1 - self.peak / (USABLE * self.device.memory)

    @property
    def seconds(self) -> float:
        """Seconds per step."""
        return OTHERWISE * sum(part.seconds for part in self.step.values())

    @property
    def hours(self) -> float:
        """Hours of the whole run, evaluations included."""
        return (self.steps * self.seconds + self.evaluations.seconds) / 3600

    @property
    def flops(self) -> float:
        """The models' FLOPs in the whole run."""
        return self.steps * sum(part.flops for part in self.step.values()) + self.evaluations.flops

    @property
    def utilisation(self) -> float:
        """Share of the device's peak rate over the whole run."""
        return self.flops / (self.hours * 3600 * self.device.rate(self.dtype))


def passes(config: Config, algorithm: Algorithm) -> tuple[list[str], list[str]]:
    """The models that score a step's rollouts, each once, and those that are trained on them."""
    trained = [role for role in ("policy", *algorithm.roles) if role != "reference"]
    return list(algorithm.scorers(config.update.minibatches * config.update.epochs)), trained


def make_plan(
    config: Config,
    algorithm: Algorithm,
    shape: Shape,
    device: Device,
    prompt: float,
    length: float | None = None,
) -> Plan:
    """The plan of `config` on `device`, for prompts of `prompt` tokens and answers of `length`.

    Both are means; `length` is LENGTH of the limit if it is not given. A CPU is planned with
    `model.threads`. Raises UserError if the device does not compute in the recipe's data type.
    """
    device.rate(config.model.dtype)
    load = step_load(config, algorithm, prompt, length)
    models, host, disk = _models(config, algorithm, shape)
    sampling, learning = _workspaces(config, algorithm, shape, device, load)
    keeps_slots = not device.is_cpu and config.sampler.name != "vllm"

    return Plan(
        device=device,
        dtype=config.model.dtype,
        threads=(config.model.threads or os.cpu_count() or 1) if device.is_cpu else 0,
        steps=config.steps,
        load=load,
        sampler=config.sampler.name,
        models=models,
        slots=sampling.pop("cache") if keeps_slots else 0.0,
        sampling=sampling,
        learning=learning,
        host=host,
        disk=disk,
        step=step_parts(config, algorithm, shape, device, load),
        evaluations=_evaluations(config, shape, device, load),
    )


def step_load(
    config: Config, algorithm: Algorithm, prompt: float, length: float | None = None
) -> Load:
    """The tokens of one step. Some answer is expected to reach the limit in every step."""
    rollout, filters = config.rollout, algorithm.drops_groups
    drawn = ceil(rollout.prompts * min(1 / KEPT, 1 + rollout.refills))

    return Load(
        prompts=drawn if filters else rollout.prompts,
        samples=rollout.samples,
        prompt=prompt,
        length=min(length or LENGTH * rollout.max_tokens, rollout.max_tokens),
        longest=rollout.max_tokens,
        kept=KEPT if filters else 1.0,
    )


def prompt_tokens(config: Config) -> float:
    """Estimated mean tokens per prompt of the recipe's task.

    A token is taken for four characters, as in English, or 1.5 in the bundled bases' vocabulary.
    A task that reads its problems from a file or the hub is asked for generated ones instead, so
    that nothing is downloaded. If it has only those of its data, they are read if they are files
    here; else a typical prompt is assumed.
    """
    sources = getattr(REGISTRY.find(config.task.name), "sources", ())
    given = config.task.options
    template = config.model.prompt
    try:
        prompts = _prompts(config, {k: v for k, v in given.items() if k not in sources})
    except UserError:
        if not all(Path(str(given[name])).is_file() for name in sources if name in given):
            return TYPICAL_PROMPT
        prompts = _prompts(config, given)
    texts = [p if isinstance(p, str) else " ".join(m["content"] for m in p) for p in prompts]
    characters_per_token = 1.5 if template in ("compact", "chat") else 4

    return sum(map(len, texts)) / len(texts) / characters_per_token


def _prompts(config: Config, options: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of the first training problems of the recipe's task with these options."""
    task = load_task(config.task.name, options)
    with guarding(task):
        return [task.prompt(task.problem("train", i), config.model.prompt) for i in range(8)]


def _models(
    config: Config, algorithm: Algorithm, shape: Shape
) -> tuple[dict[str, dict[str, float]], float, float]:
    """Bytes on the device by model and part, bytes in the CPU's memory, and bytes on disk.

    Adapters are fp32 and share the policy's frozen weights. A parked model is on the device only
    while it is used, which `_workspaces` counts.
    """
    itemsize = BYTES[config.model.dtype]
    weights = float(shape.parameters * itemsize)
    adapters = shape.adapters(config.lora.rank, config.lora.targets)
    trained = adapters or shape.parameters
    models: dict[str, dict[str, float]] = {}
    host = disk = 0.0

    for role in ("policy", *algorithm.roles):
        refreshed = role == "reference" and algorithm.refresh
        shared = adapters and role != "policy" and not refreshed
        parts = models[role] = {} if shared or parked(config, role) else {"weights": weights}
        host += weights if parked(config, role) else 0
        if role == "policy":
            disk += weights
        if role == "reference":
            continue

        disk += 12 * trained
        if optimizer(config, role).offload:
            host += 16 * trained
            continue
        if itemsize < 4 or adapters:
            parts["masters"] = 4 * trained
        parts |= {"gradients": 4 * trained, "moments": 8 * trained}

    return models, host, disk * config.checkpoint.keep


def parked(config: Config, role: str) -> bool:
    """Whether a model waits in the CPU's memory while it is not used."""
    return config.model.park and role != "policy"


def optimizer(config: Config, role: str) -> OptimizerOptions:
    """The optimizer options of a trained model."""
    return {"critic": config.critic, "prm": config.prm}.get(role, config.optimizer)


def _workspaces(
    config: Config, algorithm: Algorithm, shape: Shape, device: Device, load: Load
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes that sampling takes and bytes that learning takes, by what they hold."""
    itemsize, update = BYTES[config.model.dtype], config.update
    weights = float(shape.parameters * itemsize)

    rows, columns = _decoded(config, load)
    sampling = {
        "cache": rows * columns * shape.cache(itemsize),
        "logits": rows * shape.vocabulary * 24.0,  # in fp32, then with their running sum in fp64
    }
    if config.sampler.name == "vllm":
        sampling["vLLM's copy"] = weights

    tokens = max(update.micro_tokens, load.prompt + load.longest)
    layer = tokens * shape.activations(itemsize, device.fused_attention, load.prompt + load.length)
    inputs = shape.layers * tokens * shape.width * itemsize
    chunk = min(update.logit_rows, tokens)
    learning = {
        "activations": inputs + layer if config.model.checkpointing else shape.layers * layer,
        "logits": 16.0 * chunk * shape.vocabulary,  # fp32: logits, softmax, two gradients
    }
    if not config.lora.rank:
        learning["head gradient"] = 4.0 * shape.vocabulary * shape.width
    if any(parked(config, role) for role in algorithm.roles):
        learning["parked, in use"] = weights

    return sampling, learning


def _decoded(config: Config, load: Load) -> tuple[int, float]:
    """Rows decoded at once, and the tokens each has room for, in steps and in evaluations."""
    evaluation = config.eval
    most_problems = max(evaluation.test_problems, evaluation.dev_problems)
    most_answers = max(load.answers, most_problems * evaluation.samples)
    rows = min(max(config.rollout.rows, load.samples), most_answers)

    return rows, load.prompt + max(load.longest, config.eval_tokens)


def step_parts(
    config: Config, algorithm: Algorithm, shape: Shape, device: Device, load: Load
) -> dict[str, Part]:
    """The parts of a step with this load, by name: first sampling, then scoring and learning."""
    device = device.with_threads(config.model.threads) if device.is_cpu else device
    update, learned = config.update, load.learned
    parts = _sample(config, shape, device, load)
    parts["grade"] = Part(0, PER_ANSWER * load.answers)

    scored, trained = passes(config, algorithm)
    once = shape.forward(learned, load.prompt + load.length)
    for role in scored:
        parts[f"score by {role}"] = Part(once, _seconds(config, shape, device, once, load))

    ways = 2 if config.lora.rank else 3
    moved = shape.adapters(config.lora.rank, config.lora.targets) or shape.parameters
    for role in trained:
        flops = update.epochs * ways * once
        again = update.epochs * once * config.model.checkpointing
        seconds = _seconds(config, shape, device, flops + again, load, ways, update.epochs)
        parts[f"learn {role}"] = Part(flops, seconds, again)
        if optimizer(config, role).offload:
            micro_batches = max(update.minibatches, _micro_batches(config, load)) * update.epochs
            optimizer_steps = update.minibatches * update.epochs
            traffic = moved * (HANDED_OVER * micro_batches + STEPPED * optimizer_steps)
            parts[f"offload {role}"] = Part(0, traffic / HOST_BANDWIDTH)

    if waiting := [role for role in algorithm.roles if parked(config, role)]:
        uses = len([role for role in (*scored, *trained) if role in waiting])
        parts["park"] = Part(0, 2 * uses * shape.parameters * BYTES[config.model.dtype] / BUS)

    return parts


def _micro_batches(config: Config, load: Load) -> int:
    """Micro-batches in one pass over the batch."""
    return ceil(load.learned / config.update.micro_tokens)


def _sample(config: Config, shape: Shape, device: Device, load: Load) -> dict[str, Part]:
    """Prefill, which reads a group's prompt once, and decoding."""
    rate, itemsize = device.rate(config.model.dtype), BYTES[config.model.dtype]
    read, written = load.prompts * load.prompt, load.answers * load.length
    context = load.prompt + load.length / 2
    prefill, decode = shape.forward(read, load.prompt), shape.forward(written, 2 * context)

    steps = _decode_steps(config, device, load)
    weights = steps * shape.read(written / steps) * itemsize
    cache = written * context * shape.cache(itemsize)
    transfer, computing = device.bandwidth * device.decode, decode / (rate * device.forward)
    bound = max((weights + cache) / transfer, computing)  # a GPU computes while it reads
    if device.is_cpu:
        bound = weights / transfer + computing  # it lays out each product's weights first

    overhead = steps * (device.step + shape.layers * device.launch)
    overhead += written * shape.channels(context) * device.decoding
    reading = prefill / (rate * device.forward)
    reading += read * shape.channels(load.prompt) * device.reading

    return {
        "prefill": Part(prefill, max(reading, device.call * shape.layers)),
        "decode": Part(decode, bound + overhead),
    }


def _decode_steps(config: Config, device: Device, load: Load) -> float:
    """Passes until the last answer has ended.

    If all answers are decoded at once, the longest decides. With more answers than rows, a GPU
    fills each free row until no answer waits; a CPU decodes one batch after another.
    """
    rows = config.rollout.rows
    if load.answers <= rows:
        return load.longest
    if device.is_cpu:
        return load.longest * ceil(load.answers / rows)
    return load.answers * load.length / rows + load.longest - load.length


def step_flops(
    config: Config,
    algorithm: Algorithm,
    shape: Shape,
    sampled: float,
    scored: float,
    learned: float,
    length: float,
) -> float:
    """FLOPs of a step that sampled, scored and learned from these numbers of tokens.

    `sampled` counts the tokens read and written; `length` is the mean length of a sequence.
    """
    scorers, learners = passes(config, algorithm)
    ways = config.update.epochs * (2 if config.lora.rank else 3)
    return shape.forward(sampled + len(scorers) * scored + len(learners) * ways * learned, length)


def _seconds(
    config: Config,
    shape: Shape,
    device: Device,
    flops: float,
    load: Load,
    ways: int = 1,
    epochs: int = 1,
) -> float:
    """Seconds of scoring the load, or of learning from it if `ways` is more than one.

    `ways` is the number of forward passes that it is worth. A small model on a GPU waits for the
    host, which launches every layer of every micro-batch.
    """
    share = device.forward if ways == 1 else device.update
    length = load.prompt + load.length
    computing = flops / (device.rate(config.model.dtype) * share)
    computing += epochs * ways * load.learned * shape.channels(length / 2) * device.reading

    computed_ways = ways + (ways > 1 and config.model.checkpointing)
    calls = epochs * computed_ways * _micro_batches(config, load) * shape.layers
    return max(computing, calls * device.call)


def _evaluations(config: Config, shape: Shape, device: Device, load: Load) -> Part:
    """All evaluations of the run.

    The dev split is evaluated at the start, every few steps and at the end, the test split at the
    start and at the end. The answers are assumed to be as long as in training, and at least one of
    them to reach the limit.
    """
    device = device.with_threads(config.model.threads) if device.is_cpu else device
    options = config.eval
    on_dev = 1 + ceil(config.steps / options.every) if options.every else 0
    flops = seconds = 0.0

    for times, problems in ((on_dev, options.problems), (2, options.test_problems)):
        if not problems:
            continue
        samples = options.samples + options.greedy
        asked = Load(problems, samples, load.prompt, load.length, config.eval_tokens)
        parts = _sample(config, shape, device, asked).values()
        flops += times * sum(part.flops for part in parts)
        grading = PER_ANSWER * asked.answers
        seconds += times * (grading + sum(part.seconds for part in parts))

    return Part(flops, seconds)


LADDER: tuple[tuple[str, Any], ...] = (
    ("model.checkpointing", True),
    ("rollout.rows", 128),
    ("update.logit_rows", 512),
    ("critic.offload", True),
    ("prm.offload", True),
    ("optimizer.offload", True),
    ("update.micro_tokens", 4096),
    ("rollout.rows", 64),
    ("model.park", True),
    ("lora.rank", 64),
    ("lora.rank", 16),
)
"""Options that save memory. The first cost little time, the last change what is trained."""


def remedies(config: Config, planned: Callable[[Config], Plan]) -> dict[str, Any]:
    """Overrides from LADDER that make the recipe fit, as few as possible; empty if none do."""
    on_cpu = planned(config).device.is_cpu
    steps = [(k, v) for k, v in LADDER if not (on_cpu and k.endswith(("offload", "park")))]
    changes: dict[str, Any] = {}

    def needs(changes: Mapping[str, Any]) -> float:
        # both workspaces, since a later change may make either of them the larger one
        plan = planned(changed(config, changes))
        return plan.held + sum(plan.sampling.values()) + sum(plan.learning.values())

    for key, value in steps:
        tried = changes | {key: value}
        if key == "lora.rank" and changed(config, changes).model.park:
            tried["model.park"] = False  # models that share weights cannot be parked
        if needs(tried) < needs(changes):
            changes = tried
        if planned(changed(config, changes)).fits:
            break
    else:
        return {}

    for key in list(changes):  # a later change may have made this one unnecessary
        rest = {k: v for k, v in changes.items() if k != key}
        if key != "model.park" and planned(changed(config, rest)).fits:
            changes = rest

    return changes


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with other values for some `section.option`."""
    for key, value in changes.items():
        section, _, name = key.partition(".")
        table = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: table})
    return config
