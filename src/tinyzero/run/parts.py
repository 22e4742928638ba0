"""A run: its parts, made from a configuration, its folder, and how it is resumed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
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
from tinyzero.curriculum import Curriculum
from tinyzero.errors import Interrupted, NonFiniteError, UserError, brief, short_path
from tinyzero.grading import (
    DispatchGrader,
    Grader,
    LocalGrader,
    TaskReference,
    ThreadedGrader,
    WorkerPool,
)
from tinyzero.grading.sandbox import pick_tier, use_tier
from tinyzero.models import lora
from tinyzero.registry import SESSION
from tinyzero.rollouts import Cursor, Player, Source, UngradedStep
from tinyzero.run import checkpoint, preflight, progress, records, trackers
from tinyzero.run.check import Parts, check, complete, machine_notes
from tinyzero.run.clock import Clock
from tinyzero.run.console import Console
from tinyzero.run.early import Start
from tinyzero.run.forecast import Forecast
from tinyzero.run.learners import ROLES, load, make_learners
from tinyzero.run.meter import Meter, dollars_of
from tinyzero.run.models import Models
from tinyzero.run.progress import Saved
from tinyzero.run.stopping import stop_requested
from tinyzero.tasks.base import Task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import Group, Lesson, Sampler, SamplingParams

MOST_UNGRADED = 0.2  # share of a step's answers that may stay ungraded


@dataclass
class Run:
    """The parts of a run: what the names in the training loop refer to."""

    config: Config
    folder: Path
    task: Task
    algorithm: Algorithm
    models: Models
    sampler: Sampler
    player: Player
    source: Source
    save_model: Callable[[Path], None]
    read_back: Callable[[Path], None]
    """Raises UserError if the model in a folder is not the policy."""
    console: Console
    tracking: trackers.Tracking
    meter: Meter
    clock: Clock
    forecast: Forecast
    start: Start
    step: int = 0
    """Steps finished so far."""
    samples: int = 0
    tokens: int = 0
    cpu: float = 0.0
    """CPU seconds of the processes that trained this run before this one."""
    earlier_peaks: Mapping[str, int] = field(default_factory=dict)
    """Peak memory of those processes, in bytes, by the key of the record."""
    started: float = field(default_factory=time.perf_counter)
    stopping: list[int] = field(default_factory=list)
    """Signals to stop that were received: the run stops after the current step or evaluation."""
    learning: bool = False
    """Whether the models are between two steps (`annotate` to `record`) and cannot be saved."""
    saved: Path = Path()
    """The newest checkpoint."""
    alarmed: bool = False
    """Whether the alarm about a failing grader was raised; once is enough."""
    recorded: dict[str, int] = field(default_factory=dict)
    """Bytes in each file of records after the last step or evaluation that was recorded whole."""
    process: int = field(default_factory=os.getpid)
    """The only process that may write into the folder."""

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to take; evaluates, saves and stops between them."""
        return progress.steps(self, self.stopping)

    def annotate(self, groups: list[Group]) -> tuple[Batch, Lesson]:
        """The groups as a batch with advantages and whatever else the algorithm's losses need.

        If the algorithm refused every group, the batch is only padded and no model learns from it.
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
        """Write and show what the step did; update the reference model if it is time to."""
        if progress.due(self.refresh, step + 1):
            self.models["reference"].load_weights(self.models["policy"].named_weights())
        progress.record(self, step, groups, batch, learned)
        self.learning = False

    def save(self) -> None:
        """Checkpoint the run as it is after `step` steps."""
        progress.save(self)

    @property
    def refresh(self) -> int:
        """Every how many steps the reference becomes a copy of the policy; 0 for never."""
        return self.algorithm.refresh


@contextmanager
def opened(
    config: Config,
    folder: Path,
    resume: bool = False,
    started: float | None = None,
    command: Command | None = None,
) -> Iterator[Run]:
    """A run that is ready to train, in a folder that no other process trains in meanwhile.

    If an error or a signal ends the run between two steps, the state of the last step is saved
    before the error is raised. Raises `Interrupted`, with a message that says how to resume, after
    a signal to stop.
    """
    started = started or time.perf_counter()
    folder = folder.resolve()  # a user's code may change the working directory

    with ExitStack() as stack:
        if resume:
            stack.enter_context(locked(folder))
        # a run that cannot start leaves no folder, so a new one is locked only after it was built
        try:
            run = build(config, folder, resume, started, command or Command(), stack)
        except Interrupted:
            message = progress.stop_message(folder, step=0, learning=False)
            print(message)
            raise Interrupted(message) from None
        if not resume:
            stack.enter_context(locked(folder))

        stack.enter_context(run.tracking)
        stack.enter_context(run.console)
        run.stopping = stack.enter_context(stop_requested("step or evaluation"))
        try:
            yield run
        except NonFiniteError:
            raise
        except Interrupted:
            save_between_steps(run)
            message = progress.stop_message(folder, run.step, run.learning)
            run.console.note(message)
            raise Interrupted(message) from None
        except UngradedStep as error:
            save_between_steps(run)
            raise UserError(f"{error}; then {progress.resume_words(folder)}") from None
        except BaseException:
            save_between_steps(run)
            raise


def save_between_steps(run: Run) -> None:
    """Checkpoint the run if it has taken a step and is not in the middle of another one."""
    if run.step and not run.learning:
        run.save()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process.

    Raises UserError if another process holds it, or the folder cannot be written.
    """
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write {short_path(folder)}: {error.strerror}; make it writable, then resume"
        ) from None

    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {short_path(folder)}: "
                "wait for it, or stop it first"
            ) from None
        yield


def build(
    config: Config, folder: Path, resume: bool, started: float, command: Command, stack: ExitStack
) -> Run:
    """Make everything a run needs; with `resume`, as it was at the newest undamaged checkpoint.

    Every mistake that can be found without a model is reported before one is loaded. What has to be
    closed at the end is added to `stack`.
    """
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    torch.manual_seed(config.seed)

    # what needs no model
    asked, parts = config, check(config, command.options)
    config = config.model_copy(update={"model": parts.config.model})  # with the date, kept from now
    preflight.require_sampler(config.sampler.name)
    task = parts.task
    console = Console(config.steps, highlights=task.highlights)
    saved = None
    if resume:
        saved = load_saved(config, folder, console.note)
    else:
        preflight.require_new_folder(folder)
    console.note(opening_line(config, folder, saved.step if saved else 0))
    for note in filter(None, [command.note, *machine_notes(config, parts.algorithm)]):
        console.note(note)
    is_sampler_known = config.sampler.name != "auto"
    if saved and is_sampler_known:
        progress.refuse_changes(saved, parts.config, folder)
    grader = stack.enter_context(closing(make_grader(task, config.grading)))
    problems = preflight.draw_problems(config, task, console.note)
    for note in task.notes():
        console.note(note)
    preflight.check_grading(task, grader, problems, console.note)

    # what needs the tokenizer
    tokenizer = models.load_tokenizer(config.model.name)
    encode = partial(
        models.encode_prompt,
        tokenizer,
        rows=models.known_vocabulary(config.model.name),
        date=config.model.date,
        note=models.once(console.note),
    )
    prompts = [task.prompt(problem, config.model.prompt) for problem in problems]
    lengths = [len(encode(prompt)) for prompt in prompts]
    known_context = models.known_context(config.model.name)
    if known_context is not None:
        preflight.check_lengths(config, lengths, known_context, console.note)

    # what needs the policy
    policy = load(config, "policy", note=console.note)
    if known_context is None:
        preflight.check_lengths(config, lengths, policy.context, console.note)
    config, algorithm = choose_sampler(config, parts, policy, console.note)
    if saved and not is_sampler_known:
        progress.refuse_changes(saved, config, folder)
    origin = models.origin_of(config.model.name)
    ends = models.end_ids(tokenizer, policy, task.stop)
    sampler = make_sampler(config, policy, models.decoder(tokenizer), ends)
    player = Player(
        task,
        sampler,
        encode,
        config.model.prompt,
        grader,
        context=policy.context,
        too_long=config.rollout.too_long,
        encode_reply=partial(models.encode_reply, tokenizer, date=config.model.date),
    )
    player.check_turns(problems[0])

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
        forecast=Forecast(config),
        start=Start(task.difficulty),
        save_model=lambda path: save_policy(config, policy, tokenizer, origin, path),
        read_back=partial(models.compare_loaded, policy, tokenizer),
        console=console,
        tracking=trackers.Tracking(config.run.track, folder, config.model_dump(), console.note),
        meter=make_meter(config, algorithm, policy, console),
        started=started,
    )
    if resume:
        resume_run(run, saved, command)
    else:
        start_folder(run, asked, command)
    return run


def opening_line(config: Config, folder: Path, done: int) -> str:
    """What is trained, on what, how and where; for a run with `done` steps, where it continues."""
    where = short_path(folder)
    if done:
        return f"continuing {where} after step {done} of {config.steps}"
    return (
        f"training {config.model.name} on {config.task.name} with {config.algorithm.name}: "
        f"{config.steps} step{'' if config.steps == 1 else 's'}, in {where}"
    )


def resume_run(run: Run, saved: Saved | None, command: Command) -> None:
    """Bring the run, its records and its configuration to the state of the checkpoint `saved`.

    Without a checkpoint the run starts again, and its records are emptied.
    """
    if saved:
        restore(run, saved)

    for name in records.FILES:
        prefix = saved.records[name] if saved else records.NOTHING
        records.cut(run.folder / name, *prefix)
    run.recorded = records.lengths(run.folder)
    learn_from_records(run)

    if (asked := configs.asked_again(run.folder, command)) is not None:
        write(run.folder / configs.ASKED, asked)
    write_config(run)


def learn_from_records(run: Run) -> None:
    """Take times and peak memory of the processes before this one from what they recorded."""
    steps = list(records.read(run.folder / "metrics.jsonl"))
    for step in steps:  # what they say was said before the run was interrupted
        run.start.after_step(step)
    run.forecast.add_records(steps, records.read(run.folder / "eval.jsonl"))

    last = steps[-1] if steps else {}
    run.meter.grading_dollars = sum(map(dollars_of, steps))
    run.earlier_peaks = {
        key: peak for key, peak in last.items() if key.startswith("memory/") and peak is not None
    }


def make_grader(task: GuardedTask, grading: GradingSection) -> Grader:
    """Where the rewards of `task` are computed: worker processes, unless the task is a bundled one.

    A bundled task that runs programs has workers too, and threads grade if grading is a wait. Make
    it before a model is loaded: a task that other processes cannot load by its name is graded in
    forks of this process. Raises UserError if the task needs a sandbox, and the one that is
    configured does not work here.
    """
    if task.mixture:
        parts = task.mixture.items()
        return DispatchGrader({name: make_grader(part.task, grading) for name, part in parts})
    if task.needs_sandbox:
        use_tier(pick_tier(grading.sandbox))
    elif task.trusted:
        task.connect(models.load_scorer)
        return ThreadedGrader(task, task.concurrency) if task.concurrency else LocalGrader(task)

    module, colon, _ = task.name.rpartition(":")
    can_be_loaded = task.name in tasks.TASKS or (colon and module not in ("__main__", SESSION))
    reference = None
    if can_be_loaded:
        reference = TaskReference("tinyzero.tasks:load_task", task.name, task.given)

    return WorkerPool(
        task,
        reference,
        workers=grading.workers,
        timeout=grading.timeout,
        memory=grading.memory,
        sandbox=grading.sandbox,
    )


def save_policy(
    config: Config, policy: models.Backbone, tokenizer: Any, origin: models.Origin, path: Path
) -> None:
    """Write the model as a Hugging Face folder; adapters are merged, and also kept apart."""
    models.save_model(policy, tokenizer, path)
    models.write_origin(origin, path)
    if config.lora.rank:
        lora.save_adapter(policy, config.lora, path / lora.FOLDER, config.model.name)


def choose_sampler(
    config: Config, parts: Parts, policy: models.Backbone, note: Callable[[str], None]
) -> tuple[Config, Algorithm]:
    """The configuration with its sampler chosen for the policy, and the algorithm to train with.

    A sampler whose probabilities differ from the learner's is corrected for, unless `config` says
    how to correct or not to.
    """
    name, reason = samplers.choose(config.sampler.name, policy)
    on_gpu = policy.device.type == "cuda"
    if config.sampler.name == "auto" and on_gpu:  # on a CPU there is nothing to choose from
        note(f"completions are sampled with {name}: {reason}")

    algorithm, options = parts.algorithm, config.algorithm.options
    correction = algorithm.for_other_samplers
    shares_weights = samplers.REGISTRY.find(name).shares_weights
    if correction and not correction.keys() & options and not shares_weights:
        chosen = " ".join(f"--algorithm.{key} {value}" for key, value in correction.items())
        note(f"probabilities of the sampler {name} differ slightly from the learner's: {chosen}")
        algorithm = algorithms.load_algorithm(config.algorithm.name, {**options, **correction})

    sampler = config.sampler.model_copy(update={"name": name})
    resolved = complete(config, parts.task, algorithm)
    return resolved.model_copy(update={"sampler": sampler}), algorithm


def make_sampler(
    config: Config,
    policy: models.Backbone,
    decode: Callable[[Sequence[int]], str],
    end_ids: frozenset[int],
) -> Sampler:
    """The sampler that `config` names, which must no longer be auto."""
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
    rollout = config.rollout
    params = SamplingParams(
        temperature=rollout.temperature,
        max_tokens=rollout.max_tokens,
        n=rollout.samples,
        seed=config.seed,
    )
    return Source(
        player,
        algorithm.keep,
        prompts=rollout.prompts,
        params=params,
        refills=rollout.refills,
        most_ungraded=MOST_UNGRADED,
        clock=clock,
        curriculum=Curriculum(**config.curriculum.model_dump()),
    )


def make_meter(
    config: Config, algorithm: Algorithm, policy: models.Backbone, console: Console
) -> Meter:
    """What counts the run's cost; FLOPs are counted only for models whose shape is known."""
    shape = None
    try:
        shape = read_shape(policy.config.to_dict(), config.model.name)
    except UserError as error:
        console.note(f"no FLOPs are counted: {error}")

    gpu_name = None
    if policy.device.type == "cuda":
        gpu_name = torch.cuda.get_device_name(policy.device)
    return Meter(config, algorithm, shape, gpu_name)


def restore(run: Run, saved: Saved) -> None:
    """Bring a run to the state that `progress.save` saved.

    Raises UserError if that state is not one of this run's models.
    """
    run.step, run.samples, run.tokens = saved.step, saved.samples, saved.tokens
    run.started -= saved.seconds
    run.cpu, run.meter.flops = saved.cpu, saved.flops
    try:
        run.source.cursor = Cursor.from_state(saved.cursor)
        for role, state in saved.learners.items():
            run.models[role].load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"the newest checkpoint in {short_path(run.folder)} does not belong to this run "
            f"({brief(error)}): put the right one back"
        ) from error

    if run.step:
        run.source.publish(run.models["policy"], run.step)


def load_saved(config: Config, folder: Path, note: Callable[[str], None]) -> Saved | None:
    """The state to resume the run in `folder` from, or None if it has no checkpoint yet.

    Raises UserError if the checkpoints are damaged or lost, or `config` has fewer steps than were
    taken.
    """
    saved = progress.load_latest(folder, note)
    if saved is None:
        check_nothing_is_lost(folder)
        note("there is no checkpoint yet: the run starts from the beginning")
    elif saved.step > config.steps:
        raise UserError(
            f"steps is {config.steps}, but {saved.step} are done: give {saved.step} or more"
        )
    return saved


def check_nothing_is_lost(folder: Path) -> None:
    """Raise UserError if a run without a checkpoint has recorded more than a crash can explain.

    Such a run had a checkpoint once, and starting it again would remove its records.
    """
    before = configs.read_recorded(folder)  # how it was trained, not how it is to continue
    recorded_steps = sum(1 for _ in records.read(folder / "metrics.jsonl"))
    evaluations = records.read(folder / "eval.jsonl")
    scored = {(evaluation.get("split"), evaluation["step"]) for evaluation in evaluations}

    # a step is recorded, then perhaps an evaluation, and only then the step is saved
    most_without_checkpoint = before.checkpoint.every or before.steps
    if recorded_steps > most_without_checkpoint or ("test", before.steps) in scored:
        raise UserError(
            f"{short_path(folder)} recorded {recorded_steps} steps but has no checkpoint left: "
            "put one back, begin another run with --run.dir, "
            "or delete its records if you do not need them"
        )


def start_folder(run: Run, asked: Config, command: Command) -> None:
    """Make the run's folder with its configuration, and try to save a checkpoint there.

    Raises UserError if there is already something, no right to write, or a model that cannot be
    saved. The folder is then removed again, so that its name is free for another try.
    """
    preflight.require_new_folder(run.folder)  # again: another process may have made it meanwhile
    existed = run.folder.exists()
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {short_path(run.folder)}: {error.strerror}; "
            "name another folder with --run.dir"
        ) from None

    lines = [command.line] if command.line else []
    options = list(command.options)
    text = configs.asked_toml(configs.asked(asked), lines, command.recipe, options)
    try:
        write(run.folder / configs.ASKED, text)
        write_config(run)
        progress.rehearse(run)
    except BaseException:
        remove_start(run.folder, existed)
        raise


def remove_start(folder: Path, keep_folder: bool) -> None:
    """Remove what `start_folder` wrote into `folder` before anything was trained."""
    for name in (configs.ASKED, configs.MEANT):
        (folder / name).unlink(missing_ok=True)

    with suppress(OSError):  # something else is in it
        (folder / checkpoint.FOLDER).rmdir()
        if not keep_folder:
            folder.rmdir()


def write_config(run: Run) -> None:
    """Write every option that acts to config.toml; a resumed run may have been given more steps."""
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
            f"cannot write {short_path(path)}: {error.strerror}; name another folder with --run.dir"
        ) from None
