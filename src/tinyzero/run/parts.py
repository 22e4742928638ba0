"""A run: its parts, made from a configuration; its folder; its checkpoints, and how it goes on from one."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tinyzero import algorithms, models, samplers, tasks
from tinyzero.config import Config, Named, to_toml
from tinyzero.cost.shapes import read_shape
from tinyzero.errors import UserError, asking
from tinyzero.evaluate import distinct_problems
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.models import lora
from tinyzero.registry import effective
from tinyzero.rollouts import Cursor, Player, Source
from tinyzero.run import checkpoint, records, trackers
from tinyzero.run.check import check_config
from tinyzero.run.console import Console
from tinyzero.run.meter import Meter
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.types import Algorithm, Group, Problem, Sampler, SamplingParams, Split

SOLVED = 8  # problems whose own solutions are graded before the first step
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
    player: Player
    source: Source
    save_model: Callable[[Path], None]
    console: Console
    tracking: trackers.Tracking
    meter: Meter
    step: int = 0
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
        raise UserError(
            f"cannot write {folder}: {error.strerror}; make it writable, then resume"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {folder}: wait for it, or stop it first"
            ) from None
        yield


def build(config: Config, folder: Path, resume: bool, started: float) -> Run:
    """Load or make everything a run needs; with `resume`, as it was after the newest whole checkpoint."""
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    torch.manual_seed(config.seed)
    task, algorithm = check_config(config)
    console = Console(config.steps, highlights=task.highlights)
    found = checkpoint.load_latest(folder, console.note) if resume else None
    policy = load(config, "policy")
    tokenizer = models.load_tokenizer(config.model.name)
    config = settle(config, policy, console.note)
    algorithm = algorithms.load_algorithm(config.algorithm.name, config.algorithm.options)
    ends = models.end_ids(tokenizer, policy, task.stop)
    sampler = make_sampler(config, policy, models.decoder(tokenizer), ends)
    player = Player(
        task,
        sampler,
        partial(models.encode_prompt, tokenizer),
        config.model.prompt,
        context=policy.context,
        too_long=config.rollout.too_long,
    )
    run = Run(
        config=config,
        folder=folder,
        task=task,
        algorithm=algorithm,
        learners=make_learners(config, algorithm, policy),
        sampler=sampler,
        player=player,
        source=make_source(config, player, algorithm),
        save_model=lambda path: save_policy(config, policy, tokenizer, path),
        console=console,
        tracking=trackers.Tracking(config.run.track, folder, config.model_dump(), console.note),
        meter=make_meter(config, algorithm, policy, console),
        started=started,
    )
    check_problems(run, policy.context)
    if found is not None:
        restore(run, found[1])
    elif resume:
        check_nothing_is_lost(run)
    if resume:
        forget_after(run)
        write_config(run)
    else:
        start_folder(run)
    return run


def make_learners(
    config: Config, algorithm: Algorithm, policy: models.Backbone
) -> dict[str, TorchLearner]:
    """The policy's learner and one for every other model that the algorithm asks for."""
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
        model = load(
            config,
            role,
            None if role == "reference" and algorithms.option(algorithm, "refresh") else policy,
        )
        if role == "critic":
            learners[role] = beside(models.ValueModel(model), value_outputs, config.critic)
        elif role == "prm":
            learners[role] = beside(model, outputs, config.prm)
        else:
            learners[role] = beside(model, outputs, None)
    return learners


def load(config: Config, role: str, owner: models.Backbone | None = None) -> models.Backbone:
    """The model that plays a role, on its device; with adapters it shares the frozen weights of `owner`, if any."""
    if role not in ROLES:
        raise UserError(
            f"algorithm {config.algorithm.name} asks for a model {role!r}: known are {', '.join(ROLES)}"
        )
    m, device = config.model, models.pick_device(config.model.device)
    shares = bool(config.lora.rank) and owner is not None
    # what will be shared never takes a second place on the GPU
    made_on = "cpu" if shares else device
    model = models.load_model(
        m.name, getattr(torch, m.dtype), made_on, config.update.pack, m.checkpointing
    )
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


def settle(config: Config, policy: models.Backbone, note: Callable[[str], None]) -> Config:
    """`config` with the sampler that was chosen and, where it is not the learner itself, a correction for that; and
    with every option of the task and the algorithm that acts, since a default may change before the run goes on."""
    name, why = samplers.choose(config.sampler.name, policy)
    if config.sampler.name == "auto":
        note(f"sampler {name}: {why}")
    given, kind = config.algorithm.options, algorithms.REGISTRY.find(config.algorithm.name).Options
    options = effective(kind, given, "algorithm")
    if "correction" not in given and options.get("correction") == "none":
        del options[
            "correction"
        ]  # whoever repeats the run with another sampler has not chosen to have none
        if name == "vllm":
            note(
                "vLLM's probabilities are not quite the learner's: --algorithm.correction truncate (none: as they are)"
            )
            options = effective(kind, given | {"correction": "truncate"}, "algorithm")
    task, kind = config.task, getattr(tasks.REGISTRY.find(config.task.name), "Options", None)
    return config.model_copy(
        update={
            "sampler": config.sampler.model_copy(update={"name": name}),
            "algorithm": Named(name=config.algorithm.name, **options),
            "task": Named(name=task.name, **effective(kind, task.options, "task"))
            if kind
            else task,
        }
    )


def make_sampler(
    config: Config,
    policy: models.Backbone,
    decode: Callable[[Sequence[int]], str],
    end_ids: frozenset[int],
) -> Sampler:
    """The sampler that a settled `config` names."""
    rows = config.rollout.rows
    if config.sampler.name == "torch":
        return TorchSampler(policy, decode, end_ids, rows)
    from tinyzero.samplers.vllm import VllmSampler

    # completions of full length, and room for the prompts, which their groups share
    tokens = rows * max(config.rollout.max_tokens, config.eval_tokens) + policy.context
    cache = int(config.sampler.cache_gb * 1e9) or tokens * policy.cache_bytes
    return VllmSampler(models.locate(config.model.name), policy, decode, end_ids, rows, cache)


def make_source(config: Config, player: Player, algorithm: Algorithm) -> Source:
    """What fills the batches of a run."""
    r = config.rollout

    def keep(groups: list[Group]) -> list[Group]:
        with asking(algorithm):
            return list(algorithm.keep(groups))

    params = SamplingParams(
        temperature=r.temperature, max_tokens=r.max_tokens, n=r.samples, seed=config.seed
    )
    return Source(player, keep, prompts=r.prompts, params=params, refills=r.refills)


def make_meter(
    config: Config, algorithm: Algorithm, policy: models.Backbone, console: Console
) -> Meter:
    """Counts the run's cost; FLOPs only of models whose shape is known."""
    shape = None
    try:
        shape = read_shape(policy.config.to_dict(), config.model.name)
    except UserError as error:
        console.note(f"no FLOPs are counted: {error}")
    on_gpu = policy.device.type == "cuda"
    return Meter(
        config, algorithm, shape, torch.cuda.get_device_name(policy.device) if on_gpu else None
    )


def check_problems(run: Run, context: int) -> None:
    """Draw what will be asked before anything is written. Raises UserError where the task cannot draw it, or a
    prompt and its answer do not fit the model's context."""
    config, problems = run.config, list[Problem]()
    wanted: dict[str, tuple[Split, int]] = {
        "eval.test_problems": ("test", config.eval.test_problems),
        "eval.problems": ("dev", config.eval.dev_problems),
    }
    problems += [run.task.problem("train", i) for i in range(2 * config.rollout.prompts)]
    for option, (split, count) in wanted.items():
        try:
            drawn = distinct_problems(run.task, split, count) if count else []
        except UserError as error:
            raise UserError(f"{option} is {count}: {error}") from None
        if len(drawn) < count:
            run.console.note(
                f"{option} is {count}: split {split!r} has {len(drawn)} distinct problems, all are used"
            )
        problems += drawn
    check_grading(run, problems[:SOLVED])
    try:
        json.dumps([dict(p.fields) for p in problems])  # rollouts are written with them
    except (TypeError, ValueError) as error:
        raise UserError(f"fields of a problem cannot be written as JSON: {error}") from None
    limits = {"rollout": config.rollout.max_tokens}
    evaluates = any(count for _, count in wanted.values())
    if evaluates and config.eval_tokens != config.rollout.max_tokens:
        limits["eval"] = config.eval_tokens
    lengths = [len(run.player.prompt_ids(p)) for p in problems]
    for option, limit in limits.items():
        check_room(run, option, limit, lengths, context)


def check_room(run: Run, option: str, limit: int, lengths: Sequence[int], context: int) -> None:
    """Whether prompts of these lengths and an answer of `limit` tokens fit into the context.

    Raises UserError if none fits, or one does not and the user asked for an error; else says how many
    will be skipped.
    """
    long = [length for length in lengths if length + limit > context]
    if not long:
        return
    if len(long) == len(lengths) or run.config.rollout.too_long == "error":
        raise UserError(
            f"{option}.max_tokens {limit} and a prompt of {max(long)} tokens exceed the model's "
            f"context of {context}: lower it to {context - max(long)} or less"
        )
    run.console.note(
        f"{len(long)} of the first {len(lengths)} prompts do not fit into the model's context of "
        f"{context} tokens with {option}.max_tokens {limit}: such problems are skipped"
    )


def check_grading(run: Run, problems: Sequence[Problem]) -> None:
    """Grade the task's own solutions. Raises UserError if the grader raises or hangs on one."""
    for problem in problems:
        try:
            solution = run.task.solution(problem)
        except NoSolution:
            continue
        verdict = run.player.judge(problem, solution)
        if verdict.reward is None or verdict.reward.failure:
            raise UserError(
                f"the grader fails on the task's own solution of problem {problem.id!r}: {verdict.error}"
            )
        if verdict.reward.right is False:
            run.console.note(
                f"the task's own solution of problem {problem.id!r} counts as wrong: "
                "try the task with `tinyzero check-task`"
            )
            return


def publish(run: Run, version: int) -> None:
    """Tell the sampler the version and, where it does not share the policy's weights, those. Now and then the
    reference gets them too."""
    run.sampler.load_weights(() if run.shared else run.learners["policy"].named_weights(), version)
    if (every := refresh(run)) and version % every == 0:
        run.learners["reference"].load_weights(run.learners["policy"].named_weights())


def refresh(run: Run) -> int:
    """Steps after which the policy becomes the reference; 0 for never."""
    return algorithms.option(run.algorithm, "refresh")


def updates(config: Config) -> int:
    """Optimizer steps a batch."""
    return config.update.minibatches * config.update.epochs


def save(run: Run) -> Path:
    """Checkpoint the run as it stands after `run.step` steps."""
    state = {
        "step": run.step,
        "cursor": run.source.cursor.state_dict(),
        "samples": run.samples,
        "tokens": run.tokens,
        "seconds": time.perf_counter() - run.started,
        "cpu": time.process_time() + run.cpu,
        "flops": run.meter.flops,
        "learners": {
            role: x.state_dict()
            for role, x in run.learners.items()
            if x.options is not None or refresh(run)
        },
    }
    return checkpoint.save(run.folder, run.step, run.save_model, state, run.config.checkpoint.keep)


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """The inverse of `save`; metrics written after it are removed."""
    run.step, run.samples, run.tokens = state["step"], state["samples"], state["tokens"]
    run.source.cursor = Cursor.from_state(state["cursor"])
    run.started -= state["seconds"]
    run.cpu, run.meter.flops = state["cpu"], state["flops"]
    if run.step > run.config.steps:
        raise UserError(
            f"steps is {run.config.steps}, and {run.step} are done: give {run.step} or more"
        )
    for role, saved in state["learners"].items():
        run.learners[role].load_state_dict(saved)
    if run.step:
        publish(run, run.step)


def check_nothing_is_lost(run: Run) -> None:
    """Raise UserError where a run without a checkpoint recorded more than a crash leaves: it had one, and to begin it
    anew would remove the records."""
    recorded, c = sum(1 for _ in records.read(run.folder / "metrics.jsonl")), run.config
    scored = {(e["split"], e["step"]) for e in records.read(run.folder / "eval.jsonl")}
    # a step is recorded, then perhaps an evaluation, then it is saved
    if recorded > (c.checkpoint.every or c.steps) or ("test", c.steps) in scored:
        raise UserError(
            f"{run.folder} recorded {recorded} steps and has no checkpoint left: put it back, begin another run with "
            "--run.dir, or remove its records if they may go"
        )
    run.console.note("there is no checkpoint yet: it begins anew")


def forget_after(run: Run) -> None:
    """Remove what was written after the checkpoint that is resumed from."""
    records.retain(run.folder / "metrics.jsonl", lambda e: e["step"] < run.step)
    records.retain(run.folder / "eval.jsonl", lambda e: run.step > 0 and e["step"] <= run.step)
    evaluated = {(e["step"], e["split"]) for e in records.read(run.folder / "eval.jsonl")}
    records.retain(
        run.folder / "rollouts.jsonl",
        lambda e: (
            e["step"] < run.step if e["split"] == "train" else (e["step"], e["split"]) in evaluated
        ),
    )


def start_folder(run: Run) -> None:
    """Make the run's folder with its config. Raises UserError where there is already a run, or no right to write."""
    try:
        if run.folder.is_dir() and any(run.folder.iterdir()):
            is_run = (run.folder / "config.toml").is_file()
            other = (
                f"go on with `tinyzero train --resume {run.folder}`, or name"
                if is_run
                else "it is no run, so name"
            )
            raise UserError(f"{run.folder} exists: {other} another with --run.dir")
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {run.folder}: {error.strerror}; name another folder with --run.dir"
        ) from None
    write_config(run)


def write_config(run: Run) -> None:
    """The resolved configuration, whole or not at all: a resumed run may have been given more steps."""
    path, unfinished = run.folder / "config.toml", run.folder / ".config.toml.partial"
    try:
        unfinished.write_text(to_toml(run.config), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; name another folder with --run.dir"
        ) from None
