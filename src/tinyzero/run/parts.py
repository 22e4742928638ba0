"""A run: its parts, made from a configuration; its folder; its checkpoints, and how it goes on from one."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tinyzero import algorithms, models, samplers, tasks
from tinyzero import config as configs
from tinyzero.algorithms import Algorithm
from tinyzero.batching import Batch, collate
from tinyzero.config import Command, Config, GradingSection, trust
from tinyzero.cost.shapes import read_shape
from tinyzero.errors import NonFiniteError, UserError, brief
from tinyzero.evaluate import distinct_problems
from tinyzero.grading import Grader, LocalGrader, TaskReference, WorkerPool
from tinyzero.models import lora
from tinyzero.registry import SESSION
from tinyzero.rollouts import Cursor, Player, Source
from tinyzero.run import progress, records, trackers
from tinyzero.run.check import Parts, check, complete, unused_gpu
from tinyzero.run.clock import Clock
from tinyzero.run.console import Console
from tinyzero.run.learners import ROLES, load, make_learners
from tinyzero.run.meter import Meter
from tinyzero.run.models import Models
from tinyzero.run.progress import Saved
from tinyzero.run.stopping import stop_requested
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import Group, Lesson, Problem, Sampler, SamplingParams, Split

SOLVED = 8  # problems whose own solutions are graded before the first step


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
    alarmed: bool = False
    """It was said that the grader fails; once is enough."""
    recorded: dict[str, int] = field(default_factory=dict)
    """Bytes in each file of records after the last step or evaluation that was recorded whole."""
    process: int = field(default_factory=os.getpid)
    """The one process that may write into the folder."""

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to take; evaluates, saves and stops between them."""
        return progress.steps(self, self.stopping)

    def annotate(self, groups: list[Group]) -> tuple[Batch, Lesson]:
        """The groups as a batch with advantages and whatever else the algorithm's losses need.

        A batch whose every group the algorithm refused is only padded, and no model learns from it.
        """
        self.learning = True
        with self.clock("annotate"):
            version = self.source.player.sampler.version
            batch = collate(groups, self.config.rollout.max_tokens, version)
            if self.source.collected.refused:
                return batch, Lesson(skip=ROLES)
            with self.models.saved_if_broken(batch):
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
        return self.algorithm.refresh


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
        run = build(config, folder, resume, started, command or Command(), stack)
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


def build(
    config: Config, folder: Path, resume: bool, started: float, command: Command, stack: ExitStack
) -> Run:
    """Load or make everything a run needs; with `resume`, as it was after the newest whole checkpoint.

    `stack` closes what has to be closed at the end.
    """
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    torch.manual_seed(config.seed)
    asked, parts = config, check(config, command.options)
    task = parts.task
    console = Console(config.steps, highlights=task.highlights)
    if note := unused_gpu(config):
        console.note(note)
    grader = stack.enter_context(closing(make_grader(task, config.grading)))
    found = progress.load_latest(folder, console.note) if resume else None
    policy = load(config, "policy")
    tokenizer = models.load_tokenizer(config.model.name)
    config, algorithm = choose_sampler(config, parts, policy, console.note)
    if found:
        progress.refuse_changes(found, config, folder)
    ends = models.end_ids(tokenizer, policy, task.stop)
    sampler = make_sampler(config, policy, models.decoder(tokenizer), ends)
    player = Player(
        task,
        sampler,
        partial(models.encode_prompt, tokenizer),
        config.model.prompt,
        grader,
        context=policy.context,
        too_long=config.rollout.too_long,
    )
    clock = Clock()
    run = Run(
        config=config,
        folder=folder,
        task=task,
        algorithm=algorithm,
        models=Models(make_learners(config, algorithm, policy), folder, clock),
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
    if (asked := configs.asked_again(run.folder, command)) is not None:
        write(run.folder / configs.ASKED, asked)
    write_config(run)


def make_grader(task: GuardedTask, grading: GradingSection) -> Grader:
    """Where the rewards of `task` are computed: in workers, unless it is one of ours.

    Make it before a model is loaded: a task that cannot be named is graded in forks of this process.
    """
    if task.trusted:
        return LocalGrader(task)
    place, colon, _ = task.name.rpartition(":")
    named = task.name in tasks.TASKS or (colon and place not in ("__main__", SESSION))
    reference = TaskReference("tinyzero.tasks:load_task", task.name, task.given) if named else None
    return WorkerPool(
        task,
        reference,
        workers=grading.workers,
        timeout=grading.timeout,
        memory=grading.memory,
    )


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
    more = algorithm.for_other_samplers
    if more and not more.keys() & options and not samplers.REGISTRY.find(name).shares_weights:
        chosen = " ".join(f"--algorithm.{key} {value}" for key, value in more.items())
        note(f"probabilities of the sampler {name} are not quite the learner's: {chosen}")
        algorithm = algorithms.load_algorithm(config.algorithm.name, {**options, **more})
    sampler = config.sampler.model_copy(update={"name": name})
    meant = complete(config, parts.task, algorithm)
    return meant.model_copy(update={"sampler": sampler}), algorithm


def make_sampler(
    config: Config,
    policy: models.Backbone,
    decode: Callable[[Sequence[int]], str],
    end_ids: frozenset[int],
) -> Sampler:
    """The sampler that a settled `config` names."""
    spec = samplers.SamplerSpec(
        decode=decode,
        end_ids=end_ids,
        model_name=config.model.name,
        rows=config.rollout.rows,
        max_tokens=max(config.rollout.max_tokens, config.eval_tokens),
        cache_gb=config.sampler.cache_gb,
    )
    return samplers.load_sampler(config.sampler.name, policy, spec)


def make_source(config: Config, player: Player, algorithm: Algorithm, clock: Clock) -> Source:
    """What fills the batches of a run."""
    r = config.rollout

    params = SamplingParams(
        temperature=r.temperature, max_tokens=r.max_tokens, n=r.samples, seed=config.seed
    )
    return Source(
        player, algorithm.keep, prompts=r.prompts, params=params, refills=r.refills, clock=clock
    )


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
    options = list(command.options)
    text = configs.asked_toml(configs.asked(asked), lines, command.recipe, options)
    write(run.folder / configs.ASKED, text)
    write_config(run)
    progress.rehearse(run)


def write_config(run: Run) -> None:
    """Every option that acts; a resumed run may have been given more steps."""
    text = configs.documented_toml(run.config, configs.read_asked_tables(run.folder))
    write(run.folder / configs.MEANT, text)
    trust.remember(run.config)


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
