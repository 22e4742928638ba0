"""A run: its parts, made from a configuration; its folder; its checkpoints, and how it goes on from one."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tinyzero import algorithms, models, samplers
from tinyzero import config as configs
from tinyzero.batching import Batch, collate
from tinyzero.config import Command, Config
from tinyzero.cost.shapes import read_shape
from tinyzero.errors import NonFiniteError, UserError, asking, brief
from tinyzero.evaluate import distinct_problems
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.models import lora
from tinyzero.rollouts import Cursor, Player, Source
from tinyzero.run import progress, records, trackers
from tinyzero.run.check import Parts, check, complete
from tinyzero.run.clock import Clock
from tinyzero.run.console import Console
from tinyzero.run.meter import Meter
from tinyzero.run.models import Models
from tinyzero.run.progress import Saved
from tinyzero.run.stopping import stop_requested
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
    models: Models
    sampler: Sampler
    player: Player
    source: Source
    save_model: Callable[[Path], None]
    console: Console
    tracking: trackers.Tracking
    meter: Meter
    clock: Clock
    step: int = 0
    samples: int = 0
    tokens: int = 0
    cpu: float = 0.0  # seconds of the processes before this one
    started: float = field(default_factory=time.perf_counter)
    stopping: list[int] = field(default_factory=list)
    """Signals that were heard: after the step that is being taken the run stops."""
    learning: bool = False
    """Between `annotate` and `record` the models are between two steps, and cannot be saved."""
    saved: Path = Path()
    """The newest checkpoint."""
    recorded: dict[str, int] = field(default_factory=dict)
    """Bytes in each file of records after the last step or evaluation that was recorded whole."""
    process: int = field(default_factory=os.getpid)
    """The one process that may write into the folder."""

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to take; evaluates, saves and stops between them."""
        return progress.steps(self, self.stopping)

    def annotate(self, groups: list[Group]) -> Batch:
        """The groups as a batch with advantages and whatever else the algorithm's losses need.

        A batch whose every group the algorithm refused is only padded: nothing is learned from it.
        """
        self.learning = True
        with self.clock("annotate"):
            r, u = self.config.rollout, self.config.update
            version = self.source.player.sampler.version
            batch = collate(groups, r.temperature, r.max_tokens, u.minibatches, u.epochs, version)
            if self.source.collected.refused:
                return batch
            with self.models.saved_if_broken(batch), asking(self.algorithm):
                return self.algorithm.annotate(batch, self.models)

    def record(
        self, step: int, groups: list[Group], batch: Batch, learned: Mapping[str, float]
    ) -> None:
        """Write down what the step did; every so often the policy becomes the reference."""
        if progress.due(self.refresh, step + 1):
            self.models["reference"].load_weights(self.models["policy"].named_weights())
        progress.record(self, step, groups, batch, learned)
        self.learning = False

    def save(self) -> None:
        """Checkpoint the run as it stands after `step` steps."""
        progress.save(self)

    @property
    def refresh(self) -> int:
        """Steps after which the policy becomes the reference; 0 for never."""
        return int(algorithms.option(self.algorithm, "refresh"))


@contextmanager
def opened(
    config: Config,
    folder: Path,
    resume: bool = False,
    started: float | None = None,
    command: Command | None = None,
) -> Iterator[Run]:
    """A run that is ready to train, in a folder where nothing else trains meanwhile.

    Whatever ends it while answers are collected, after at least one step, is raised only after the
    state of the last step was saved: a user's error, an error of ours, a second signal.
    """
    started = started or time.perf_counter()
    folder = folder.resolve()  # a user's code may change the working directory
    with ExitStack() as stack:
        if resume:
            stack.enter_context(locked(folder))
        # a run that cannot start leaves no folder
        run = build(config, folder, resume, started, command or Command())
        if not resume:
            stack.enter_context(locked(folder))
        stack.enter_context(run.tracking)
        stack.enter_context(run.console)
        run.stopping = stack.enter_context(stop_requested("step"))
        try:
            yield run
        except NonFiniteError:
            raise
        except BaseException:
            if run.step and not run.learning:
                run.save()
            raise


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


def build(config: Config, folder: Path, resume: bool, started: float, command: Command) -> Run:
    """Load or make everything a run needs; with `resume`, as it was after the newest whole checkpoint."""
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    torch.manual_seed(config.seed)
    console = Console(config.steps)
    asked, parts = config, check(config, command.options)
    found = progress.load_latest(folder, console.note) if resume else None
    policy = load(config, "policy")
    tokenizer = models.load_tokenizer(config.model.name)
    task = parts.task
    config, algorithm = choose_sampler(config, parts, policy, console.note)
    if found:
        progress.refuse_changes(found, config, folder)
    sampler = make_sampler(
        config, policy, models.decoder(tokenizer), models.end_ids(tokenizer, policy)
    )
    clock = Clock()
    player = Player(task, sampler, partial(models.encode_prompt, tokenizer), config.model.prompt)
    run = Run(
        config=config,
        folder=folder,
        task=task,
        algorithm=algorithm,
        models=Models(
            make_learners(config, algorithm, policy),
            algorithm,
            config.update.minibatches,
            config.update.epochs,
            folder,
            clock,
        ),
        sampler=sampler,
        player=player,
        source=make_source(config, player, algorithm, clock),
        clock=clock,
        save_model=lambda path: save_policy(config, policy, tokenizer, path),
        console=console,
        tracking=trackers.Tracking(config.run.track, folder, config.model_dump(), console.note),
        meter=make_meter(config, algorithm, policy, console),
        started=started,
    )
    check_problems(run, policy.context)
    if resume:
        resume_run(run, found, command)
    else:
        start_folder(run, asked, command)
    return run


def resume_run(run: Run, found: Saved | None, command: Command) -> None:
    """The run as it stood at the checkpoint that was `found`, its records and its configuration too."""
    if found is None:
        check_nothing_is_lost(run)
    else:
        restore(run, found)
    for name in records.FILES:
        prefix = found.records[name] if found else records.NOTHING
        records.cut(run.folder / name, *prefix)
    run.recorded = records.lengths(run.folder)
    write_config(run)
    if (asked := configs.asked_again(run.folder, command)) is not None:
        write(run.folder / configs.ASKED, asked)


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


def choose_sampler(
    config: Config, parts: Parts, policy: models.Backbone, note: Callable[[str], None]
) -> tuple[Config, Algorithm]:
    """What `config` means, now that the sampler can be chosen for the policy, and the algorithm.

    A sampler that is not the learner itself is corrected for, unless `config` says how or that it is not.
    """
    name, why = samplers.choose(config.sampler.name, policy)
    if config.sampler.name == "auto":
        note(f"sampler {name}: {why}")
    algorithm, options = parts.algorithm, config.algorithm.options
    uncorrected = algorithms.option(algorithm, "correction", None) == "none"
    if name == "vllm" and uncorrected and "correction" not in options:
        note(
            "vLLM's probabilities are not quite the learner's: --algorithm.correction truncate (none: as they are)"
        )
        algorithm = algorithms.load_algorithm(
            config.algorithm.name, options | {"correction": "truncate"}
        )
    sampler = config.sampler.model_copy(update={"name": name})
    meant = complete(config, parts.task, algorithm)
    return meant.model_copy(update={"sampler": sampler}), algorithm


def make_sampler(
    config: Config,
    policy: models.Backbone,
    decode: Callable[[Sequence[int]], str],
    end_ids: frozenset[int],
) -> Sampler:
    """The sampler that `config` names, which is not "auto"."""
    rows = config.rollout.rows
    if config.sampler.name == "torch":
        return TorchSampler(policy, decode, end_ids, rows)
    from tinyzero.samplers.vllm import VllmSampler

    # completions of full length, and room for the prompts, which their groups share
    tokens = rows * max(config.rollout.max_tokens, config.eval_tokens) + policy.context
    cache = int(config.sampler.cache_gb * 1e9) or tokens * policy.cache_bytes
    return VllmSampler(models.locate(config.model.name), policy, decode, end_ids, rows, cache)


def make_source(config: Config, player: Player, algorithm: Algorithm, clock: Clock) -> Source:
    """What fills the batches of a run."""
    r = config.rollout

    def keep(groups: list[Group]) -> list[Group]:
        with asking(algorithm):
            return list(algorithm.keep(groups))

    params = SamplingParams(
        temperature=r.temperature, max_tokens=r.max_tokens, n=r.samples, seed=config.seed
    )
    return Source(player, keep, prompts=r.prompts, params=params, refills=r.refills, clock=clock)


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
            problems += distinct_problems(run.task, split, count) if count else []
        except UserError as error:
            raise UserError(f"{option} is {count}: {error}") from None
    check_grading(run, problems[:SOLVED])
    longest = max(len(run.player.prompt_ids(p)) for p in problems)
    try:
        json.dumps([dict(p.fields) for p in problems])  # rollouts are written with them
    except (TypeError, ValueError) as error:
        raise UserError(f"fields of a problem cannot be written as JSON: {error}") from None
    limits = {"rollout": config.rollout.max_tokens}
    if any(count for _, count in wanted.values()):
        limits["eval"] = config.eval_tokens
    for option, limit in limits.items():
        if longest + limit > context:
            raise UserError(
                f"{option}.max_tokens {limit} and a prompt of {longest} tokens exceed the model's "
                f"context of {context}: lower it to {context - longest} or less"
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


def updates(config: Config) -> int:
    """Optimizer steps a batch."""
    return config.update.minibatches * config.update.epochs


def restore(run: Run, saved: Saved) -> None:
    """The inverse of `save`. Raises UserError if what was saved is not what this run's models need."""
    if saved.step > run.config.steps:
        raise UserError(
            f"steps is {run.config.steps}, and {saved.step} are done: give {saved.step} or more"
        )
    run.step, run.samples, run.tokens = saved.step, saved.samples, saved.tokens
    run.started -= saved.seconds
    run.cpu, run.meter.flops = saved.cpu, saved.flops
    try:
        run.source.cursor = Cursor.from_state(saved.cursor)
        for role, state in saved.learners.items():
            run.models[role].load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"the newest checkpoint in {run.folder} is not one of this run ({brief(error)}): put it back"
        ) from error
    if run.step:
        run.source.publish(run.models["policy"], run.step)


def check_nothing_is_lost(run: Run) -> None:
    """Raise UserError if a run without a checkpoint recorded more than a crash leaves.

    It had a checkpoint then, and to begin it anew would remove the records.
    """
    before = configs.read_recorded(run.folder)  # how it was trained, not how it is to go on
    recorded = sum(1 for _ in records.read(run.folder / "metrics.jsonl"))
    scored = {(e.get("split"), e["step"]) for e in records.read(run.folder / "eval.jsonl")}
    # a step is recorded, then perhaps an evaluation, then it is saved
    if recorded > (before.checkpoint.every or before.steps) or ("test", before.steps) in scored:
        raise UserError(
            f"{run.folder} recorded {recorded} steps and has no checkpoint left: put it back, begin another run with "
            "--run.dir, or remove its records if they may go"
        )
    run.console.note("there is no checkpoint yet: it begins anew")


def start_folder(run: Run, asked: Config, command: Command) -> None:
    """Make the run's folder with what was asked and what it means, and try whether a checkpoint can be saved there.

    Raises UserError if there is already a run, or no right to write.
    """
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
    lines = [command.line] if command.line else []
    write(run.folder / configs.ASKED, configs.asked_toml(configs.asked(asked), lines))
    write_config(run)
    progress.rehearse(run)


def write_config(run: Run) -> None:
    """Every option that acts; a resumed run may have been given more steps."""
    write(run.folder / configs.MEANT, configs.to_toml(run.config))


def write(path: Path, text: str) -> None:
    """Write one of the run's own files, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; name another folder with --run.dir"
        ) from None
