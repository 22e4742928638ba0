"""What a recipe needs and costs before it runs: memory, time, FLOPs and dollars. Nothing is loaded or fetched.

    forward     2 N a token, and attention 2 L H D a token and a token of its sequence; N = parameters in matrix products,
                active ones where there are experts. Trained on: 3 forwards, 2 with adapters, 1 more with checkpointing
    step        sample, then a forward for each model that scores, then an update of each that is trained; so PPO with a
                reference, whose batch takes several updates, is 2 + 2 + 2 + 2 + 6 + 6 = 20 N T
    memory      a trained parameter's weight (2 bytes in bf16), fp32 master, fp32 gradient and two moments; a frozen one's
                weight; the cache while sampling or the activations while learning, whichever is more
    decode      one step for every token of the longest answer, bound by reading the weights and the cache

Times are a roofline's: the device's peak times a share of it that is stated here (EFFICIENCY) and not measured, save for
a CPU that was calibrated. The critic is counted as if it had the policy's head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from tinyzero.config import Config, OptimizerOptions
from tinyzero.tasks import load_task
from tinyzero.types import Algorithm, UserError

ASSETS = Path(__file__).parent / "assets"
GIB, MIB = 2.0**30, 2.0**20
BYTES = {"float32": 4, "bfloat16": 2}

USABLE = 0.92
"""Share of a device's memory to plan with: its context, the libraries' workspaces and what lies in pieces take the rest."""
HOST_BANDWIDTH = 20e9
"""Bytes a second that go through the CPU's memory, whose optimizers work there, and through the bus to it."""
HANDED_OVER, STEPPED = 14, 28
"""Bytes of that for each offloaded parameter: a micro-batch's gradient added to the sum; the optimizer's step."""
OTHERWISE = 1.1
"""Everything in a step that is not computing, such as grading, collating and records."""
KEPT = 0.5
"""Share of groups that a filter is taken to keep."""
LENGTH = 0.4
"""Mean length of an answer where nobody says, as a share of the limit."""
SCORE = 1 / 16
"""A CPU's work on one head's score of one earlier token, beside the products; one channel of a layer's width is 1."""


class Shape(NamedTuple):
    """A llama-shaped model: what it takes to count it."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    """Channels of one head."""
    feed_forward: int
    vocabulary: int
    tied: bool
    biases: int = 0
    """Parameters a layer beside its matrices: biases and the norms of queries and keys."""
    experts: int = 0
    """Routed experts a layer, each with a feed-forward of `expert_width`; 0 for a dense model."""
    used: int = 0
    """Experts that a token goes through."""
    expert_width: int = 0
    shared_width: int = 0
    """Feed-forward that every token goes through beside the experts."""

    @property
    def attention(self) -> int:
        """Parameters of one layer's projections."""
        return 2 * self.width * self.head * (self.heads + self.kv_heads)

    def _feed_forward(self, experts: int) -> int:
        if not self.experts:
            return 3 * self.width * self.feed_forward
        router = self.width * (self.experts + bool(self.shared_width))
        return 3 * self.width * (experts * self.expert_width + self.shared_width) + router

    def _body(self, experts: int) -> int:
        return self.layers * (self.attention + self._feed_forward(experts))

    @property
    def parameters(self) -> int:
        """All of them."""
        norms = (2 * self.layers + 1) * self.width + self.layers * self.biases
        return self._body(self.experts) + norms + self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def active(self) -> int:
        """Those a token meets in a matrix product: the head once, no embedding that is only looked up."""
        return self._body(self.used) + self.vocabulary * self.width

    def forward(self, tokens: float, length: float) -> float:
        """FLOPs of reading `tokens` in sequences of `length`."""
        return tokens * (2 * self.active + 2 * self.layers * self.heads * self.head * length)

    def cache(self, itemsize: int) -> int:
        """Bytes that one token's keys and values take."""
        return 2 * self.layers * self.kv_heads * self.head * itemsize

    def activations(self, itemsize: int, fused_attention: bool, length: float) -> float:
        """Bytes that one layer keeps for the way back, for each token of sequences of `length`: both norms with their
        fp32 inputs, queries, keys, values and what is made of them, four products of the feed-forward; and, where
        attention is not fused, half a square of scores."""
        inner = self.used * self.expert_width + self.shared_width if self.experts else self.feed_forward
        scores = 0 if fused_attention else self.heads * length / 2
        projected = 2 * self.head * (self.heads + self.kv_heads)
        return itemsize * (4 * inner + projected + scores) + 2 * self.width * (4 + 2 * itemsize)

    def adapters(self, rank: int, targets: Iterable[str]) -> int:
        """Parameters of adapters of this rank beside those linear layers; beside all but the head where none is named."""
        queries, keys, inner = self.heads * self.head, self.kv_heads * self.head, self.feed_forward
        sides = {
            "q_proj": self.width + queries,
            "k_proj": self.width + keys,
            "v_proj": self.width + keys,
            "o_proj": self.width + queries,
            "gate_proj": self.width + inner,
            "up_proj": self.width + inner,
            "down_proj": self.width + inner,
        }
        return self.layers * rank * sum(sides.get(target, 0) for target in list(targets) or sides)


def _qwen(layers: int, width: int, heads: int, kv_heads: int, head: int, inner: int, words: int, tied: bool) -> Shape:
    return Shape(layers, width, heads, kv_heads, head, inner, words, tied, biases=(heads + 2 * kv_heads) * head)


SHAPES = {
    "Qwen/Qwen2.5-0.5B": _qwen(24, 896, 14, 2, 64, 4864, 151_936, True),
    "Qwen/Qwen2.5-1.5B": _qwen(28, 1536, 12, 2, 128, 8960, 151_936, True),
    "Qwen/Qwen2.5-3B": _qwen(36, 2048, 16, 2, 128, 11_008, 151_936, True),
    "Qwen/Qwen2.5-7B": _qwen(28, 3584, 28, 4, 128, 18_944, 152_064, False),
    "meta-llama/Llama-3.2-3B": Shape(28, 3072, 24, 8, 128, 8192, 128_256, True),
}
"""Hub ids that the recipes use, beside their -Instruct; from the config.json of each."""

KINDS = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")


def find_shape(name: str) -> Shape:
    """The shape of a bundled base, a local folder (a checkpoint or a run's model too), or a hub id of SHAPES.

    Raises UserError for any other: nothing is fetched to find out.
    """
    known = SHAPES.get(name.removesuffix("-Instruct"))
    folder = ASSETS / name if (ASSETS / name).is_dir() else Path(name)
    for path in (folder / "config.json", folder / "model" / "config.json"):
        if path.is_file():
            return read_shape(json.loads(path.read_text(encoding="utf-8")), name)
    if known is None:
        raise UserError(
            f"no model folder at {name!r}, and its shape is not known: give a folder with its config.json, "
            f"or one of {', '.join(SHAPES)}"
        )
    return known


def read_shape(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a config.json of transformers describes. Raises UserError for a kind that cannot be counted."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UserError(f"{name!r} is of type {kind!r}, which cannot be counted: known are {', '.join(KINDS)}")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or width // heads
    biased = kind.startswith("qwen2") or config.get("attention_bias")
    biases = (heads + 2 * kv_heads) * head if biased else 0
    biases += width if config.get("attention_bias") and kind == "llama" else 0  # its output projection has one too
    biases += 2 * head if kind.startswith("qwen3") else 0  # the norms of queries and keys
    experts = config.get("num_local_experts" if kind == "mixtral" else "num_experts") or 0
    return Shape(
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        feed_forward=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
        biases=biases,
        experts=experts,
        used=config["num_experts_per_tok"] if experts else 0,
        expert_width=config.get("moe_intermediate_size") or config["intermediate_size"],
        shared_width=config.get("shared_expert_intermediate_size") or 0,
    )


@dataclass(frozen=True)
class Device:
    """A device by its data sheet, and the shares of its peaks that work reaches."""

    name: str
    """As torch.cuda.get_device_name has it, to the letter: an H200 is not an H20."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second."""
    rates: Mapping[str, float]
    """Dense FLOPs a second by type of number; one that is missing is not computed in hardware."""
    forward: float = 0.45
    """Share of the rate that reading reaches."""
    update: float = 0.40
    """Share of the rate that learning reaches."""
    decode: float = 0.60
    """Share of the bandwidth that decoding reaches."""
    launch: float = 1.1e-5
    """Seconds that a layer of a decode step takes however little it computes; the step being one CUDA graph."""
    reading: float = 0.0
    """Seconds a token, layer and channel of width that are not matrix products; on a GPU the shares cover them."""
    decoding: float = 0.0
    """The same in a decode step."""
    fused_attention: bool = True
    is_cpu: bool = False

    def rate(self, dtype: str) -> float:
        """FLOPs a second. Raises UserError where the device does not compute in that type."""
        if dtype not in self.rates:
            raise UserError(f"{self.name} does not compute in {dtype}: use --model.dtype {' or '.join(self.rates)}")
        return self.rates[dtype]


def _gpu(name: str, memory: float, bandwidth: float, bf16: float, fp8: float, fp32: float) -> Device:
    """From MiB, TB/s and TFLOP/s, where 0 means not in hardware."""
    rates = {"bfloat16": bf16, "float8": fp8, "float32": fp32}
    return Device(name, memory * MIB, bandwidth * 1e12, {k: r * 1e12 for k, r in rates.items() if r})


DEVICES = {
    "h100": _gpu("NVIDIA H100 80GB HBM3", 81_559, 3.35, 989.4, 1978.9, 66.9),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 81_559, 2.0, 756.4, 1512.9, 51.2),
    "h200": _gpu("NVIDIA H200", 143_771, 4.8, 989.4, 1978.9, 66.9),
    "h800": _gpu("NVIDIA H800", 81_559, 3.35, 989.4, 1978.9, 66.9),
    "h20": _gpu("NVIDIA H20", 97_871, 4.0, 148.0, 296.0, 44.0),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 81_920, 2.039, 311.9, 0, 19.5),
    "a100-40gb": _gpu("NVIDIA A100-SXM4-40GB", 40_960, 1.555, 311.9, 0, 19.5),
    "l40s": _gpu("NVIDIA L40S", 46_068, 0.864, 362.1, 733.0, 91.6),
    "4090": _gpu("NVIDIA GeForce RTX 4090", 24_564, 1.008, 165.2, 330.3, 82.6),
    "t4": _gpu("Tesla T4", 15_360, 0.320, 0, 0, 8.1),
}
"""By short name: memory as the driver reports it, bandwidth and dense rates as NVIDIA's data sheets give them."""

CPU = Device(
    "a CPU",
    memory=16 * GIB,
    bandwidth=20e9,
    rates={"float32": 115e9},
    forward=1.0,
    update=1.0,
    decode=1.0,
    launch=2e-4,
    reading=3.5e-8,
    decoding=5.4e-8,
    fused_attention=False,
    is_cpu=True,
)
"""One core of the machine that benchmarks/results/plan_cpu.md tells of; `tinyzero plan --calibrate` measures yours."""


def device_named(name: str) -> Device | None:
    """The device whose whole name this is, or None for one that is not in the table."""
    return next((device for device in DEVICES.values() if device.name == name), None)


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
    models: dict[str, dict[str, float]]
    """Bytes on the device throughout, by model and part."""
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
    def peak(self) -> float:
        """Bytes at the worst moment."""
        held = sum(sum(parts.values()) for parts in self.models.values())
        return held + max(sum(self.sampling.values()), sum(self.learning.values()))

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
    several = config.update.minibatches * config.update.epochs > 1
    old = several or option(algorithm, "kl_in_reward", 0) or option(algorithm, "correction", "none") != "none"
    trained = [role for role in ("policy", *algorithm.roles) if role != "reference"]
    return [*(["policy"] if old else []), *algorithm.roles], trained


def make_plan(
    config: Config, algorithm: Algorithm, shape: Shape, device: Device, prompt: float, length: float | None = None
) -> Plan:
    """The plan of `config` on `device`, for prompts of so many tokens and answers of `length` on average, by default
    LENGTH of the limit. Raises UserError where the device does not compute in the recipe's type."""
    device.rate(config.model.dtype)
    load = step_load(config, algorithm, prompt, length)
    models, host, disk = _models(config, algorithm, shape)
    sampling, learning = _workspaces(config, algorithm, shape, device, load)
    return Plan(
        device=device,
        dtype=config.model.dtype,
        steps=config.steps,
        load=load,
        models=models,
        sampling=sampling,
        learning=learning,
        host=host,
        disk=disk,
        step=_step(config, algorithm, shape, device, load),
        evaluations=_evaluations(config, shape, device, load),
    )


def step_load(config: Config, algorithm: Algorithm, prompt: float, length: float | None = None) -> Load:
    """The tokens of one step."""
    r, filters = config.rollout, option(algorithm, "filter", "none") != "none"
    return Load(
        prompts=ceil(r.prompts * min(1 / KEPT, 1 + r.refills)) if filters else r.prompts,
        samples=r.samples,
        prompt=prompt,
        length=min(length or LENGTH * r.max_tokens, r.max_tokens),
        longest=r.max_tokens,
        kept=KEPT if filters else 1.0,
    )


def option(algorithm: Algorithm, name: str, default: Any) -> Any:
    """An option of the algorithm; `default` where one of the user's own has none of that name."""
    return getattr(getattr(algorithm, "options", None), name, default)


def prompt_tokens(config: Config) -> float:
    """About how many tokens a prompt has: four characters each, as in English, fewer in the bundled bases' words.

    A task that reads its problems from a file or the hub is asked for drawn ones: nothing is fetched.
    """
    drawn = {k: v for k, v in config.task.options.items() if k not in ("data", "data_split")}
    task, template = load_task(config.task.name, drawn), config.model.prompt
    prompts = [task.prompt(task.problem("train", i), template) for i in range(8)]
    texts = [p if isinstance(p, str) else " ".join(m["content"] for m in p) for p in prompts]
    return sum(map(len, texts)) / len(texts) / (1.5 if template in ("compact", "chat") else 4)


def _models(config: Config, algorithm: Algorithm, shape: Shape) -> tuple[dict[str, dict[str, float]], float, float]:
    """Bytes on the device by model and part, bytes in the CPU's memory, and bytes on disk.

    Adapters are fp32 and share the policy's frozen weights. What is parked is on the device while it is used, which
    `_workspaces` counts.
    """
    itemsize = BYTES[config.model.dtype]
    weights, adapters = float(shape.parameters * itemsize), shape.adapters(config.lora.rank, config.lora.targets)
    models: dict[str, dict[str, float]] = {}
    host = disk = 0.0
    for role in ("policy", *algorithm.roles):
        shared = adapters and role != "policy" and not (role == "reference" and option(algorithm, "refresh", 0))
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
    rows, columns = min(max(config.rollout.rows, load.samples), load.answers), load.prompt + load.longest
    sampling = {
        "cache": rows * columns * shape.cache(itemsize),
        "logits": rows * shape.vocabulary * 24.0,  # in fp32, then with their running sum in fp64
    }
    if config.sampler.name == "vllm":
        sampling["vLLM's copy"] = weights
    tokens = max(u.micro_tokens, columns)
    layer = tokens * shape.activations(itemsize, device.fused_attention, load.prompt + load.length)
    inputs = shape.layers * tokens * shape.width * itemsize
    learning = {
        "activations": inputs + layer if config.model.checkpointing else shape.layers * layer,
        "logits": 16.0 * min(u.logit_rows, tokens) * shape.vocabulary,  # in fp32: they, their softmax, two gradients
    }
    if not config.lora.rank:
        learning["the head's gradient"] = 4.0 * shape.vocabulary * shape.width
    if any(parked(config, role) for role in algorithm.roles):
        learning["parked, in use"] = weights
    return sampling, learning


def _step(config: Config, algorithm: Algorithm, shape: Shape, device: Device, load: Load) -> dict[str, Part]:
    """The parts of a step by name."""
    u, length, learned = config.update, load.prompt + load.length, load.learned
    parts = _sample(config, shape, device, load)
    scored, trained = passes(config, algorithm)
    once = shape.forward(learned, length)
    for role in scored:
        parts[f"score by {role}"] = Part(once, _seconds(config, shape, device, once, learned, length))
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
        parts["park"] = Part(0, 2 * uses * shape.parameters * BYTES[config.model.dtype] / HOST_BANDWIDTH)
    return parts


def _sample(config: Config, shape: Shape, device: Device, load: Load) -> dict[str, Part]:
    """Prefill, for which a group's prompt is read once, and decode."""
    rate, itemsize, rows = device.rate(config.model.dtype), BYTES[config.model.dtype], config.rollout.rows
    read, written, context = load.prompts * load.prompt, load.answers * load.length, load.prompt + load.length / 2
    prefill, decode = shape.forward(read, load.prompt), shape.forward(written, 2 * context)
    # with all rows at once the longest answer decides; else freed rows are filled, until the last ones run out
    steps = load.longest if load.answers <= rows else written / rows + load.longest - load.length
    moved = steps * shape.active * itemsize + written * context * shape.cache(itemsize)
    bound = max(moved / (device.bandwidth * device.decode), decode / (rate * device.forward))
    other = written * channels(shape, context) * device.decoding + steps * shape.layers * device.launch
    return {
        "prefill": Part(prefill, _seconds(config, shape, device, prefill, read, load.prompt)),
        "decode": Part(decode, bound + other),
    }


def channels(shape: Shape, context: float) -> float:
    """What a CPU works on for one token beside matrix products, in channels of width: see SCORE."""
    return shape.layers * (shape.width + SCORE * shape.heads * context)


def _seconds(
    config: Config, shape: Shape, device: Device, flops: float, tokens: float, length: float, ways: int = 1
) -> float:
    """Of reading `tokens`, or of learning from them where `ways` is more than one."""
    share = device.forward if ways == 1 else device.update
    other = ways * tokens * channels(shape, length / 2) * device.reading
    return flops / (device.rate(config.model.dtype) * share) + other


def _evaluations(config: Config, shape: Shape, device: Device, load: Load) -> Part:
    """All of the run's: dev at the start and every so many steps, test at both ends; answers as long as in training."""
    e = config.eval
    problems = 2 * e.test_problems + (e.problems * (1 + ceil(config.steps / e.every)) if e.every else 0)
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
)
"""Options that save memory, from what costs least time to what changes the run itself."""


def remedies(config: Config, planned: Callable[[Config], Plan]) -> list[str]:
    """Overrides with which the recipe would fit, as they are written; none where nothing here makes it fit."""
    found, plan = list[str](), planned(config)
    for key, value in LADDER:
        section, _, name = key.partition(".")
        if plan.device.is_cpu and name in ("offload", "park"):
            continue  # a run on a CPU has everything there already
        if key == "lora.rank":  # adapters share what is frozen, so nothing of it can be parked
            config = _changed(config, "model", "park", False)
        tried = _changed(config, section, name, value)
        if (better := planned(tried)).peak < plan.peak:
            config, plan, found = tried, better, [*found, f"--{key} {str(value).lower()}"]
        if plan.fits:
            return [f for f in found if f != "--model.park true" or config.model.park]
    return []


def _changed(config: Config, section: str, name: str, value: Any) -> Config:
    changed = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: changed})


def describe(plan: Plan, price: float) -> str:
    """The plan as a page: memory, a step, the run; `price` is dollars an hour, 0 for no word of it."""
    device, load = plan.device, plan.load
    lines = [f"{device.name}, {plan.dtype}; GB are 1e9 bytes", "", "memory"]
    for name, parts in (plan.models | {"sampling": plan.sampling, "learning": plan.learning}).items():
        listed = "  ".join(f"{part} {_size(size)}" for part, size in parts.items())
        lines.append(f"  {name:<16} {_size(sum(parts.values())):>9}  {listed}")
    verdict = "it fits" if plan.fits else "IT DOES NOT FIT"
    lines.append(f"  {'at most':<16} {_size(plan.peak):>9}  {verdict} in {USABLE:.0%} of {_size(device.memory)}")
    lines += [f"  {'in CPU memory':<16} {_size(plan.host):>9}"] if plan.host else []
    lines += [
        f"  {'checkpoints':<16} {_size(plan.disk):>9}  on disk",
        "",
        f"a step: {load.answers} answers of {load.length:.0f} tokens ({load.longest} at most) "
        f"to {load.prompts} prompts of {load.prompt:.0f}" + f", {load.kept:.0%} learned from" * (load.kept < 1),
    ]
    for name, part in plan.step.items():
        flops = f"  {part.flops:.1e} FLOP" * bool(part.flops)
        lines.append(f"  {name:<16} {part.seconds:7.1f} s{flops}" + f" and {part.again:.1e} again" * bool(part.again))
    lines += [
        f"  {'in all':<16} {plan.seconds:7.1f} s  with a tenth for everything else",
        "",
        f"{plan.steps} steps and evaluations: {_time(plan.hours)}, {plan.flops:.1e} FLOP, "
        f"{plan.utilisation:.0%} of the device's rate" + f", {_dollars(price, plan)} at ${price:.2f} an hour" * bool(price),
    ]
    if not device.is_cpu:
        lines.append(
            f"assumed, not measured: {device.forward:.0%} of the rate reading, {device.update:.0%} learning, "
            f"{device.decode:.0%} of the bandwidth decoding"
        )
    return "\n".join(lines)


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def _dollars(price: float, plan: Plan) -> str:
    return f"${price * plan.hours:,.2f}"


def survey(configs: Mapping[str, Config], planned: Callable[[Config, Device], Plan], price: float) -> str:
    """A line for every device: the fastest that fits of the recipe as it is, named "", and its profiles."""
    head = f"{'':<12} {'profile':<8} {'needs':>9} {'of':>9} {'a step':>9} {'the run':>12}"
    lines = [head + f" {'cost':>9}" * bool(price)]
    for name, device in (DEVICES | {"cpu": CPU}).items():
        try:
            plans = [(profile, planned(config, device)) for profile, config in configs.items()]
        except UserError as error:
            lines.append(f"{name:<12} {str(error).partition(':')[0]}")
            continue
        fitting = [(profile, plan) for profile, plan in plans if plan.fits]
        if not fitting:
            lines.append(f"{name:<12} does not fit")
            continue
        profile, plan = min(fitting, key=lambda entry: entry[1].hours)
        lines.append(
            f"{name:<12} {profile:<8} {_size(plan.peak):>9} {_size(device.memory):>9} {plan.seconds:7.1f} s "
            f"{_time(plan.hours):>12}" + f" {_dollars(price, plan):>9}" * bool(price)
        )
    return "\n".join(lines)


def pretraining(active: float, tokens: float, device: Device, hours: float, price: float) -> str:
    """What pretraining takes, 6 FLOPs an active parameter and a token, as a few lines.

    Where `hours` of the device are told, the share of its rates that they mean; else the hours at its usual share.
    """
    flops = 6 * active * tokens
    lines = [f"6 x {active:.3g} active parameters x {tokens:.3g} tokens = {flops:.3g} FLOP"]
    rates = {dtype: rate for dtype, rate in device.rates.items() if dtype != "float32"}
    if not hours:
        hours = flops / (device.update * device.rate("bfloat16")) / 3600
        lines.append(f"{device.name} at {device.update:.0%} of its bfloat16 rate: {hours:,.0f} hours")
    else:
        shares = (f"{flops / (hours * 3600 * rate):.1%} of its {dtype} rate" for dtype, rate in rates.items())
        lines.append(f"{hours:,.0f} hours of {device.name}: " + ", ".join(shares))
    return "\n".join(lines + [f"${hours * price / 1e6:,.3f} million at ${price:.2f} an hour"] * bool(price))
