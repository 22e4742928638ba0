"""A run: its parts, made from a configuration; its folder; its checkpoints, and how it goes on from one."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tinyzero import checkpoint, lora, metrics, models, samplers, trackers
from tinyzero.algorithms import load_algorithm
from tinyzero.config import Config, Named, to_toml
from tinyzero.evaluate import distinct_problems
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.plan.meter import Meter
from tinyzero.plan.shapes import read_shape
from tinyzero.rollouts import Cursor
from tinyzero.samplers.torch_sampler import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.types import Algorithm, Problem, Prompt, Sampler, Split, Task, UserError

ROLES = ("policy", "critic", "prm", "reference")


@dataclass
class Run:
    """The parts of a run: what the loop's names refer to."""

    config: Config
    folder: Path
    task: Task
    algorithm: Algorithm
    learners: dict[str, TorchLearner]
    sampler: Sampler
    encode: Callable[[Prompt], Sequence[int]]
    save_model: Callable[[Path], None]
    console: metrics.Console
    tracking: trackers.Tracking
    meter: Meter
    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    samples: int = 0
    tokens: int = 0
    cpu: float = 0.0  # seconds of the processes before this one
    started: float = field(default_factory=time.perf_counter)

    @property
    def shared(self) -> bool:
        """The sampler runs the very weights that the policy's learner trains."""
        return self.config.sampler.name != "vllm"


@contextmanager
def opened(config: Config, folder: Path, resume: bool, started: float) -> Iterator[Run]:
    """`build`, and nobody else trains in the folder meanwhile."""
    if resume:
        with locked(folder):
            run = build(config, folder, resume, started)
            with run.tracking:
                yield run
    else:
        run = build(config, folder, resume, started)  # a run that cannot start leaves no folder
        with locked(folder), run.tracking:
            yield run


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process. Raises UserError where another process holds it."""
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; make it writable, then resume") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is training in {folder}: wait for it, or stop it first") from None
        yield


def build(config: Config, folder: Path, resume: bool, started: float) -> Run:
    """Load or make everything a run needs; with `resume`, as it was after the newest whole checkpoint."""
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    torch.manual_seed(config.seed)
    console = metrics.Console(config.steps)
    trackers.require(config.run.track)
    task = load_task(config.task.name, config.task.options)
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    if config.rollout.samples < algorithm.min_samples:
        raise UserError(
            f"rollout.samples is {config.rollout.samples}: "
            f"{config.algorithm.name} needs at least {algorithm.min_samples}"
        )
    overlong = option(algorithm, "overlong")
    if overlong > config.rollout.max_tokens:
        raise UserError(
            f"algorithm.overlong is {overlong}, more than rollout.max_tokens {config.rollout.max_tokens}: "
            "the penalty would begin before the answer"
        )
    check_memory(config)
    found = checkpoint.load_latest(folder, console.note) if resume else None
    policy = load(config, "policy")
    tokenizer = models.load_tokenizer(config.model.name)
    config = settle(config, algorithm, policy, console.note)
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    sampler = make_sampler(config, policy, models.decoder(tokenizer), models.end_ids(tokenizer, policy))
    learner = partial(
        TorchLearner,
        total_updates=config.steps * updates(config),
        micro_tokens=config.update.micro_tokens,
        patience=config.update.patience,
    )
    outputs = partial(policy_outputs, logit_rows=config.update.logit_rows)
    learners = {"policy": learner(policy, outputs, config.optimizer)}
    beside = partial(learner, park=config.model.park)
    for role in algorithm.roles:
        model = load(config, role, None if role == "reference" and option(algorithm, "refresh") else policy)
        if role == "critic":
            learners[role] = beside(models.ValueModel(model), value_outputs, config.critic)
        elif role == "prm":
            learners[role] = beside(model, outputs, config.prm)
        else:
            learners[role] = beside(model, outputs, None)
    run = Run(
        config=config,
        folder=folder,
        task=task,
        algorithm=algorithm,
        learners=learners,
        sampler=sampler,
        encode=lambda prompt: models.encode_prompt(tokenizer, prompt),
        save_model=lambda path: save_policy(config, policy, tokenizer, path),
        console=console,
        tracking=trackers.Tracking(config.run.track, folder, config.model_dump(), console.note),
        meter=make_meter(config, algorithm, policy, console),
        started=started,
    )
    check_problems(run, policy.context)
    if found is not None:
        restore(run, found[1])
    if resume:
        forget_after(run)
        write_config(run)
    else:
        start_folder(run)
    return run


def load(config: Config, role: str, owner: models.Backbone | None = None) -> models.Backbone:
    """The model that plays a role, on its device; with adapters it shares the frozen weights of `owner`, if any."""
    if role not in ROLES:
        raise UserError(f"algorithm {config.algorithm.name} asks for a model {role!r}: known are {', '.join(ROLES)}")
    m, device = config.model, models.pick_device(config.model.device)
    shares = bool(config.lora.rank) and owner is not None
    # what will be shared never takes a second place on the GPU
    made_on = "cpu" if shares else device
    model = models.load_model(m.name, getattr(torch, m.dtype), made_on, config.update.pack, m.checkpointing)
    if config.lora.rank:
        if role == "reference":
            model.requires_grad_(False)
        else:
            lora.add_adapter(model, config.lora)
        if owner is not None:
            lora.share_frozen(model, owner)
    return model.to(device)


def save_policy(config: Config, policy: models.Backbone, tokenizer: Any, path: Path) -> None:
    """The model as anybody loads it; with adapters these too, apart."""
    models.save_model(policy, tokenizer, path)
    if config.lora.rank:
        lora.save_adapter(policy, config.lora, path / lora.FOLDER, config.model.name)


def check_memory(config: Config) -> None:
    """Raise UserError where an option that saves memory would do nothing, or undo another."""
    trained = {"optimizer": config.optimizer, "critic": config.critic, "prm": config.prm}
    moved = [f"{name}.offload" for name, section in trained.items() if section.offload]
    moved += ["model.park"] if config.model.park else []
    if moved and models.pick_device(config.model.device) == "cpu":
        raise UserError(f"{moved[0]} moves things to CPU memory, where a run on a CPU has them: leave it out")
    if config.model.park and config.lora.rank:
        raise UserError("model.park moves weights that lora.rank lets all models share: leave one of them out")


def settle(config: Config, algorithm: Algorithm, policy: models.Backbone, note: Callable[[str], None]) -> Config:
    """`config` with the sampler that was chosen and, where it is not the learner itself, a correction for that."""
    name, why = samplers.choose(config.sampler.name, policy)
    if config.sampler.name == "auto":
        note(f"sampler {name}: {why}")
    config = config.model_copy(update={"sampler": config.sampler.model_copy(update={"name": name})})
    unsaid = getattr(getattr(algorithm, "options", None), "correction", "") == "none"
    if name == "torch" or not unsaid or "correction" in config.algorithm.options:
        return config
    note("vLLM's probabilities are not quite the learner's: --algorithm.correction truncate (none switches it off)")
    corrected = config.algorithm.options | {"correction": "truncate"}
    return config.model_copy(update={"algorithm": Named(name=config.algorithm.name, **corrected)})


def make_sampler(
    config: Config, policy: models.Backbone, decode: Callable[[Sequence[int]], str], end_ids: frozenset[int]
) -> Sampler:
    """The sampler that a settled `config` names."""
    rows = config.rollout.rows
    if config.sampler.name == "torch":
        return TorchSampler(policy, decode, end_ids, rows)
    from tinyzero.samplers.vllm_sampler import VllmSampler

    # completions of full length, and room for the prompts, which their groups share
    tokens = rows * max(config.rollout.max_tokens, config.eval_tokens) + policy.context
    cache = int(config.sampler.cache_gb * 1e9) or tokens * policy.cache_bytes
    return VllmSampler(models.locate(config.model.name), policy, decode, end_ids, rows, cache)


def make_meter(config: Config, algorithm: Algorithm, policy: models.Backbone, console: metrics.Console) -> Meter:
    """Counts the run's cost; FLOPs only of models whose shape is known."""
    shape = None
    try:
        shape = read_shape(policy.config.to_dict(), config.model.name)
    except UserError as error:
        console.note(f"no FLOPs are counted: {error}")
    on_gpu = policy.device.type == "cuda"
    return Meter(config, algorithm, shape, torch.cuda.get_device_name(policy.device) if on_gpu else None)


def check_problems(run: Run, context: int) -> None:
    """Draw what will be asked before anything is written. Raises UserError where the task cannot draw it, or a
    prompt and its answer do not fit the model's context."""
    config, problems = run.config, list[Problem]()
    wanted: dict[str, tuple[Split, int]] = {"eval.test_problems": ("test", config.eval.test_problems)}
    if config.eval.every:
        wanted["eval.problems"] = ("dev", config.eval.problems)
    try:
        problems += [run.task.problem("train", i) for i in range(2 * config.rollout.prompts)]
        for option, (split, count) in wanted.items():
            try:
                problems += distinct_problems(run.task, split, count) if count else []
            except UserError as error:
                raise UserError(f"{option} is {count}: {error}") from None
        longest = max(len(run.encode(run.task.prompt(p, config.model.prompt))) for p in problems)
    except UserError:
        raise
    except Exception as error:  # whatever a user's own task raises
        raise UserError(f"task {config.task.name} cannot pose its problems: {type(error).__name__}: {error}") from error
    limits = {"rollout": config.rollout.max_tokens}
    if any(count for _, count in wanted.values()):
        limits["eval"] = config.eval_tokens
    for option, limit in limits.items():
        if longest + limit > context:
            raise UserError(
                f"{option}.max_tokens {limit} and a prompt of {longest} tokens exceed the model's "
                f"context of {context}: lower it to {context - longest} or less"
            )


def publish(run: Run, version: int) -> None:
    """Tell the sampler the version and, where it does not share the policy's weights, those. Now and then the
    reference gets them too."""
    run.sampler.load_weights(() if run.shared else run.learners["policy"].named_weights(), version)
    if (every := refresh(run)) and version % every == 0:
        run.learners["reference"].load_weights(run.learners["policy"].named_weights())


def refresh(run: Run) -> int:
    """Steps after which the policy becomes the reference; 0 for never."""
    return option(run.algorithm, "refresh")


def option(algorithm: Algorithm, name: str) -> int:
    """A shared option of the algorithm; 0 where one of the user's own has none of that name."""
    return int(getattr(getattr(algorithm, "options", None), name, 0))


def updates(config: Config) -> int:
    """Optimizer steps a batch."""
    return config.update.minibatches * config.update.epochs


def save(run: Run) -> Path:
    """Checkpoint the run as it stands after `run.step` steps."""
    state = {
        "step": run.step,
        "cursor": run.cursor.state_dict(),
        "samples": run.samples,
        "tokens": run.tokens,
        "seconds": time.perf_counter() - run.started,
        "cpu": time.process_time() + run.cpu,
        "flops": run.meter.flops,
        "learners": {role: x.state_dict() for role, x in run.learners.items() if x.options is not None or refresh(run)},
    }
    return checkpoint.save(run.folder, run.step, run.save_model, state, run.config.checkpoint.keep)


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """The inverse of `save`; metrics written after it are removed."""
    run.step, run.samples, run.tokens = state["step"], state["samples"], state["tokens"]
    run.cursor = Cursor.from_state(state["cursor"])
    run.started -= state["seconds"]
    run.cpu, run.meter.flops = state.get("cpu", 0.0), state.get("flops", 0.0)
    for role, saved in state["learners"].items():
        run.learners[role].load_state_dict(saved)
    if run.step:
        publish(run, run.step)


def forget_after(run: Run) -> None:
    """Remove what was written after the checkpoint that is resumed from."""
    metrics.retain(run.folder / "metrics.jsonl", lambda e: e["step"] < run.step)
    metrics.retain(run.folder / "eval.jsonl", lambda e: run.step > 0 and e["step"] <= run.step)
    evaluated = {(e["step"], e["split"]) for e in metrics.read(run.folder / "eval.jsonl")}
    metrics.retain(
        run.folder / "rollouts.jsonl",
        lambda e: e["step"] < run.step if e["split"] == "train" else (e["step"], e["split"]) in evaluated,
    )


def start_folder(run: Run) -> None:
    """Make the run's folder with its config. Raises UserError where there is already a run, or no right to write."""
    try:
        if run.folder.is_dir() and any(run.folder.iterdir()):
            raise UserError(
                f"{run.folder} exists: go on with `tinyzero train --resume {run.folder}`, "
                "or name another with --run.dir"
            )
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {run.folder}: {error.strerror}; name another folder with --run.dir") from None
    write_config(run)


def write_config(run: Run) -> None:
    """The resolved configuration, whole or not at all: a resumed run may have been given more steps."""
    path, partial = run.folder / "config.toml", run.folder / ".config.toml.partial"
    try:
        partial.write_text(to_toml(run.config), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name another folder with --run.dir") from None
