"""What a recipe needs and costs before it runs, and as it runs: memory, time, FLOPs and dollars.

Nothing is loaded or fetched; the formulas are these, N being the parameters in matrix products (of experts those that
a token goes through, the head once) and T the tokens of a step:

    forward   2 N a token, and for attention 2 L H D a token and a token of its sequence. Learning is 3 forwards, with
              adapters 2, and with checkpointing 1 more, which is time and no work of the model's
    step      sampling, a forward for each model that scores and an update of each that learns: so PPO with a reference
              and several updates a batch is 2 + 2 + 2 + 2 + 6 + 6 = 20 N T
    memory    a weight that learns, its fp32 master, its fp32 gradient and two moments: 18 bytes in bf16, 16 in fp32; a
              weight that does not; the torch sampler's cache on a GPU; and what sampling takes, with the cache where it
              is freed afterwards, or the activations while learning if they are more
    decoding  a step for every token of the longest answer, which reads the cache and the weights, of experts those that
              some row goes through

Times are a roofline's: a device's peak times a share of it that is stated in devices.py and not measured, save for a
CPU that was calibrated. The critic is counted as if it had the policy's head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

from tinyzero.algorithms import Algorithm
from tinyzero.config import Config, OptimizerOptions
from tinyzero.cost.devices import Device
from tinyzero.cost.shapes import Shape
from tinyzero.errors import asking
from tinyzero.tasks import REGISTRY, load_task

BYTES = {"float32": 4, "bfloat16": 2}

USABLE = 0.92
"""Share of a device's memory to plan with; its context, the libraries and what lies in pieces take the rest."""
BUS = 6e9
"""Bytes a second between the CPU's memory and the GPU's: what is copied is not pinned, which would be faster."""
HOST_BANDWIDTH = 15e9
"""Bytes a second that an optimizer in the CPU's memory goes through, a seventh of which cross the bus."""
HANDED_OVER, STEPPED = 14, 28
"""Bytes of that memory for each offloaded parameter: to add a micro-batch's gradient to the sum; to take a step."""
OTHERWISE = 1.1
"""Everything in a step that is not computing, such as grading, collating and records."""
PADDED = 1.2
"""Tokens computed for each real one where rows are padded to the longest beside them, and not packed."""
KEPT = 0.5
"""Share of groups that a filter is taken to keep."""
LENGTH = 0.4
"""Mean length of an answer where nobody says, as a share of the limit."""


class Load(NamedTuple):
    """The tokens of one step, or of other sampling."""

    prompts: int
    samples: int
    """Answers a prompt."""
    prompt: float
    """Tokens of a prompt."""
    length: float
    """Tokens of an answer, on average."""
    longest: int
    kept: float = 1.0
    """Share of the answers that is learned from."""

    @property
    def answers(self) -> int:
        return self.prompts * self.samples

    @property
    def learned(self) -> float:
        """Tokens that are learned from, each answer with its prompt."""
        return self.kept * self.answers * (self.prompt + self.length)


class Part(NamedTuple):
    """One part of a step."""

    flops: float
    """The model's: what is computed a second time, to save memory, is not counted."""
    seconds: float
    again: float = 0.0
    """FLOPs of what is computed a second time."""


@dataclass(frozen=True)
class Plan:
    """What one recipe takes on one device."""

    device: Device
    dtype: str
    steps: int
    load: Load
    sampler: str
    """torch, vllm or auto, which is taken for torch."""
    models: dict[str, dict[str, float]]
    """Bytes on the device throughout, by model and part."""
    slots: float
    """Bytes of the cache on the device throughout: a GPU decodes in slots, and their graphs keep them."""
    sampling: dict[str, float]
    """Bytes while sampling."""
    learning: dict[str, float]
    """Bytes while learning."""
    host: float
    """Bytes in the CPU's memory, of a GPU's run."""
    disk: float
    """Bytes of the checkpoints that are kept."""
    step: dict[str, Part]
    evaluations: Part
    """All of the run's."""

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
        return self.peak <= USABLE * self.device.memory

    @property
    def seconds(self) -> float:
        """Of one step."""
        return OTHERWISE * sum(part.seconds for part in self.step.values())

    @property
    def hours(self) -> float:
        """Of the whole run, evaluations included."""
        return (self.steps * self.seconds + self.evaluations.seconds) / 3600

    @property
    def flops(self) -> float:
        """The models', of the whole run."""
        return self.steps * sum(part.flops for part in self.step.values()) + self.evaluations.flops

    @property
    def utilisation(self) -> float:
        """Of the device's peak rate, over the whole run."""
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
    """The plan of `config` on `device`, for prompts of so many tokens and answers of `length` on average, by default
    LENGTH of the limit. Raises UserError where the device has no rate in the recipe's type."""
    device.rate(config.model.dtype)
    load = step_load(config, algorithm, prompt, length)
    models, host, disk = _models(config, algorithm, shape)
    sampling, learning = _workspaces(config, algorithm, shape, device, load)
    keeps = not device.is_cpu and config.sampler.name != "vllm"
    return Plan(
        device=device,
        dtype=config.model.dtype,
        steps=config.steps,
        load=load,
        sampler=config.sampler.name,
        models=models,
        slots=sampling.pop("cache") if keeps else 0.0,
        sampling=sampling,
        learning=learning,
        host=host,
        disk=disk,
        step=_step(config, algorithm, shape, device, load),
        evaluations=_evaluations(config, shape, device, load),
    )


def step_load(
    config: Config, algorithm: Algorithm, prompt: float, length: float | None = None
) -> Load:
    """The tokens of one step."""
    r, filters = config.rollout, algorithm.drops_groups
    return Load(
        prompts=ceil(r.prompts * min(1 / KEPT, 1 + r.refills)) if filters else r.prompts,
        samples=r.samples,
        prompt=prompt,
        length=min(length or LENGTH * r.max_tokens, r.max_tokens),
        longest=r.max_tokens,
        kept=KEPT if filters else 1.0,
    )


def prompt_tokens(config: Config) -> float:
    """About how many tokens a prompt has: four characters each, as in English, fewer in the bundled bases' words.

    A task that reads its problems from a file or the hub is asked for drawn ones: nothing is fetched.
    """
    sources = getattr(REGISTRY.find(config.task.name), "sources", ())
    drawn = {k: v for k, v in config.task.options.items() if k not in sources}
    task, template = load_task(config.task.name, drawn), config.model.prompt
    with asking(task):
        prompts = [task.prompt(task.problem("train", i), template) for i in range(8)]
    texts = [p if isinstance(p, str) else " ".join(m["content"] for m in p) for p in prompts]
    return sum(map(len, texts)) / len(texts) / (1.5 if template in ("compact", "chat") else 4)


def _models(
    config: Config, algorithm: Algorithm, shape: Shape
) -> tuple[dict[str, dict[str, float]], float, float]:
    """Bytes on the device by model and part, bytes in the CPU's memory, and bytes on disk.

    Adapters are fp32 and share the policy's frozen weights. What is parked is on the device while it is used, which
    `_workspaces` counts.
    """
    itemsize = BYTES[config.model.dtype]
    weights, adapters = (
        float(shape.parameters * itemsize),
        shape.adapters(config.lora.rank, config.lora.targets),
    )
    models: dict[str, dict[str, float]] = {}
    host = disk = 0.0
    for role in ("policy", *algorithm.roles):
        shared = adapters and role != "policy" and not (role == "reference" and algorithm.refresh)
        parts = models[role] = {} if shared or parked(config, role) else {"weights": weights}
        host += weights if parked(config, role) else 0
        if role == "policy":
            disk += weights
        if role == "reference":
            continue
        trained = adapters or shape.parameters
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
    """The options of a trained model's optimizer."""
    return {"critic": config.critic, "prm": config.prm}.get(role, config.optimizer)


def _workspaces(
    config: Config, algorithm: Algorithm, shape: Shape, device: Device, load: Load
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes while sampling and while learning."""
    itemsize, u = BYTES[config.model.dtype], config.update
    weights = float(shape.parameters * itemsize)
    rows, columns = _decoded(config, load)
    sampling = {
        "cache": rows * columns * shape.cache(itemsize),
        "logits": rows * shape.vocabulary * 24.0,  # in fp32, then with their running sum in fp64
    }
    if config.sampler.name == "vllm":
        sampling["vLLM's copy"] = weights
    tokens = max(u.micro_tokens, load.prompt + load.longest)
    layer = tokens * shape.activations(itemsize, device.fused_attention, load.prompt + load.length)
    inputs = shape.layers * tokens * shape.width * itemsize
    learning = {
        "activations": inputs + layer if config.model.checkpointing else shape.layers * layer,
        "logits": 16.0
        * min(u.logit_rows, tokens)
        * shape.vocabulary,  # in fp32: they, their softmax, two gradients
    }
    if not config.lora.rank:
        learning["the head's gradient"] = 4.0 * shape.vocabulary * shape.width
    if any(parked(config, role) for role in algorithm.roles):
        learning["parked, in use"] = weights
    return sampling, learning


def _decoded(config: Config, load: Load) -> tuple[int, float]:
    """Rows decoded at once, and the tokens that each has room for, in steps and in evaluations."""
    e = config.eval
    asked = max(e.test_problems, e.dev_problems) * e.samples
    rows = min(max(config.rollout.rows, load.samples), max(load.answers, asked))
    return rows, load.prompt + max(load.longest, config.eval_tokens)


def _step(
    config: Config, algorithm: Algorithm, shape: Shape, device: Device, load: Load
) -> dict[str, Part]:
    """The parts of a step by name."""
    u, length, learned = config.update, load.prompt + load.length, load.learned
    parts = _sample(config, shape, device, load)
    scored, trained = passes(config, algorithm)
    once = shape.forward(learned, length)
    for role in scored:
        parts[f"score by {role}"] = Part(
            once, _seconds(config, shape, device, once, learned, length)
        )
    ways = 2 if config.lora.rank else 3
    moved = shape.adapters(config.lora.rank, config.lora.targets) or shape.parameters
    for role in trained:
        flops, again = u.epochs * ways * once, u.epochs * once * config.model.checkpointing
        seconds = _seconds(config, shape, device, flops + again, u.epochs * learned, length, ways)
        parts[f"learn {role}"] = Part(flops, seconds, again)
        if optimizer(config, role).offload:
            micro_batches = max(u.minibatches, ceil(learned / u.micro_tokens)) * u.epochs
            through = moved * (HANDED_OVER * micro_batches + STEPPED * u.minibatches * u.epochs)
            parts[f"offload {role}"] = Part(0, through / HOST_BANDWIDTH)
    if waiting := [role for role in algorithm.roles if parked(config, role)]:
        uses = len([role for role in (*scored, *trained) if role in waiting])
        parts["park"] = Part(0, 2 * uses * shape.parameters * BYTES[config.model.dtype] / BUS)
    return parts


def _sample(config: Config, shape: Shape, device: Device, load: Load) -> dict[str, Part]:
    """Prefill, for which a group's prompt is read once, and decode."""
    rate, itemsize, rows = (
        device.rate(config.model.dtype),
        BYTES[config.model.dtype],
        config.rollout.rows,
    )
    read, written, context = (
        load.prompts * load.prompt,
        load.answers * load.length,
        load.prompt + load.length / 2,
    )
    prefill, decode = shape.forward(read, load.prompt), shape.forward(written, 2 * context)
    # with all rows at once the longest answer decides; else freed rows are filled, until the last ones run out
    steps = load.longest if load.answers <= rows else written / rows + load.longest - load.length
    weights, cache = (
        steps * shape.read(written / steps) * itemsize,
        written * context * shape.cache(itemsize),
    )
    through, computing = device.bandwidth * device.decode, decode / (rate * device.forward)
    # a GPU computes while it reads; a CPU first lays a product's weights out anew, and reads its cache in `decoding`
    bound = (
        weights / through + computing
        if device.is_cpu
        else max((weights + cache) / through, computing)
    )
    other = (
        written * shape.channels(context) * device.decoding + steps * shape.layers * device.launch
    )
    return {
        "prefill": Part(prefill, _seconds(config, shape, device, prefill, read, load.prompt)),
        "decode": Part(decode, bound + other),
    }


def step_flops(
    config: Config,
    algorithm: Algorithm,
    shape: Shape,
    sampled: float,
    scored: float,
    learned: float,
    length: float,
) -> float:
    """FLOPs of a step whose sampling read and wrote so many tokens, and whose models scored and learned from so many,
    in sequences of `length`."""
    scorers, learners = passes(config, algorithm)
    ways = config.update.epochs * (2 if config.lora.rank else 3)
    return shape.forward(sampled + len(scorers) * scored + len(learners) * ways * learned, length)


def _seconds(
    config: Config,
    shape: Shape,
    device: Device,
    flops: float,
    tokens: float,
    length: float,
    ways: int = 1,
) -> float:
    """Of reading `tokens`, or of learning from them where `ways` is more than one."""
    share = device.forward if ways == 1 else device.update
    other = ways * tokens * shape.channels(length / 2) * device.reading
    return (flops / (device.rate(config.model.dtype) * share) + other) * (
        1.0 if config.update.pack else PADDED
    )


def _evaluations(config: Config, shape: Shape, device: Device, load: Load) -> Part:
    """All of the run's: dev at the start and every so many steps, test at both ends; answers as long as in training."""
    e = config.eval
    problems = 2 * e.test_problems + (
        e.problems * (1 + ceil(config.steps / e.every)) if e.every else 0
    )
    if not problems:
        return Part(0, 0)
    asked = Load(problems, e.samples + e.greedy, load.prompt, load.length, config.eval_tokens)
    parts = _sample(config, shape, device, asked).values()
    return Part(sum(part.flops for part in parts), sum(part.seconds for part in parts))


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
"""Options that save memory, from what costs least time to what changes the run itself."""


def remedies(config: Config, planned: Callable[[Config], Plan]) -> dict[str, Any]:
    """Overrides with which the recipe would fit, of LADDER and no more than it takes; none if nothing there helps."""
    on_cpu = planned(config).device.is_cpu
    steps = [(k, v) for k, v in LADDER if not (on_cpu and k.endswith(("offload", "park")))]
    changes: dict[str, Any] = {}

    def needs(
        changes: Mapping[str, Any],
    ) -> float:  # both workspaces, since a later change may make either the larger
        plan = planned(changed(config, changes))
        return plan.held + sum(plan.sampling.values()) + sum(plan.learning.values())

    for key, value in steps:
        tried = changes | {key: value}
        if (
            key == "lora.rank" and changed(config, changes).model.park
        ):  # models that share weights cannot be parked
            tried["model.park"] = False
        if needs(tried) < needs(changes):
            changes = tried
        if planned(changed(config, changes)).fits:
            break
    else:
        return {}
    for key in list(changes):
        rest = {k: v for k, v in changes.items() if k != key}
        if (
            key != "model.park" and planned(changed(config, rest)).fits
        ):  # a later one made it needless
            changes = rest
    return changes


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with other values of some `section.option`."""
    for key, value in changes.items():
        section, _, name = key.partition(".")
        table = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: table})
    return config
