"""The loop: sample, judge, learn, publish. The rest of the package is what its names refer to."""

from __future__ import annotations

import fcntl
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tinyzero import checkpoint, lora, metrics, models, samplers
from tinyzero.algorithms import load_algorithm
from tinyzero.batching import Batch, collate
from tinyzero.config import Config, Named, to_toml
from tinyzero.evaluate import completion_metrics, distinct_problems, evaluate
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.plan.meter import Meter
from tinyzero.plan.shapes import read_shape
from tinyzero.rollouts import Collected, Cursor, collect
from tinyzero.samplers.torch_sampler import TorchSampler
from tinyzero.tasks import load_task
from tinyzero.types import (
    Algorithm,
    Group,
    NonFiniteError,
    Problem,
    Prompt,
    Rollout,
    Sampler,
    SamplingParams,
    Split,
    Task,
    UserError,
)

PREFIXES = {"policy": "", "critic": "value/", "prm": "prm/"}
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


def train(config: Config, folder: Path, resume: bool = False, started: float | None = None) -> Path:
    """Train as `config` says in `folder`; returns the final checkpoint.

    `started` is when the command began (time.perf_counter), for the clock. Raises UserError on what the
    user can mend, NonFiniteError where training broke down, KeyboardInterrupt after a clean stop.
    """
    started = started or time.perf_counter()
    with opened(config, folder, resume, started) as run, run.console, stop_requested() as stopping:
        if run.step == 0:
            score(run, "test", config.eval.test_problems)
            score(run, "dev", config.eval.problems if config.eval.every else 0)
        run.console.begin(run.step)
        for step in range(run.step, config.steps):
            clock = Clock()
            groups, run.cursor, collected = gather(run)
            clock.lap("sample")
            batch = collate(
                groups,
                config.rollout.temperature,
                config.rollout.max_tokens,
                config.update.minibatches,
                config.update.epochs,
                run.sampler.version,
            )
            if not collected.refused:
                with saved_if_broken(run, batch):
                    batch = run.algorithm.annotate(batch, run.learners)
            clock.lap("annotate")
            learned = update(run, batch, collected.refused)
            clock.lap("update")
            publish(run, version=step + 1)
            run.step = step + 1
            record(run, groups, batch, collected, learned, clock)
            if config.eval.every and run.step % config.eval.every == 0 and run.step < config.steps:
                score(run, "dev", config.eval.problems)
            if stopping or (config.checkpoint.every and run.step % config.checkpoint.every == 0):
                save(run)
            if stopping:
                run.console.note(f"stopped after step {run.step}: go on with `tinyzero train --resume {folder}`")
                raise KeyboardInterrupt
        score(run, "dev", config.eval.problems if config.eval.every else 0)
        score(run, "test", config.eval.test_problems)
        return save(run)


@contextmanager
def opened(config: Config, folder: Path, resume: bool, started: float) -> Iterator[Run]:
    """`build`, and nobody else trains in the folder meanwhile."""
    if resume:
        with locked(folder):
            yield build(config, folder, resume, started)
    else:
        run = build(config, folder, resume, started)  # a run that cannot start leaves no folder
        with locked(folder):
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
    m = config.model
    model = models.load_model(
        m.name, getattr(torch, m.dtype), models.pick_device(m.device), config.update.pack, m.checkpointing
    )
    if config.lora.rank:
        if role == "reference":
            model.requires_grad_(False)
        else:
            lora.add_adapter(model, config.lora)
        if owner is not None:
            lora.share_frozen(model, owner)
    return model


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


def gather(run: Run) -> tuple[list[Group], Cursor, Collected]:
    """One batch of groups: `collect` under the run's settings."""
    r = run.config.rollout
    # the cursor numbers the groups, so (seed, group, sample) never repeats within a run
    params = SamplingParams(temperature=r.temperature, max_tokens=r.max_tokens, n=r.samples, seed=run.config.seed)
    return collect(
        run.task,
        run.sampler,
        run.cursor,
        encode=run.encode,
        template=run.config.model.prompt,
        prompts=r.prompts,
        params=params,
        keep=run.algorithm.keep,
        refills=r.refills,
    )


def update(run: Run, batch: Batch, refused: bool = False) -> dict[str, float]:
    """Train every trained model on the batch, unless `annotate` did, or none should be; metrics but the policy's are
    prefixed."""
    found: dict[str, float] = {}
    for role, learner in run.learners.items():
        if learner.options is None:
            continue
        if role in batch.updated or refused:
            result = batch.updated.get(role, {})
            if not result:
                learner.skip(updates(run.config))  # its schedule goes on all the same
        else:
            loss, u = partial(run.algorithm.loss, role), run.config.update
            with saved_if_broken(run, batch, f" (the {role}'s)"):
                result = learner.update(batch, loss, u.minibatches, u.epochs)
        found |= {PREFIXES[role] + name: value for name, value in result.items()}
    return found


@contextmanager
def saved_if_broken(run: Run, batch: Batch, whose: str = "") -> Iterator[None]:
    """Where training breaks down inside, the batch is kept for whoever wants to know why."""
    try:
        yield
    except NonFiniteError as error:
        path = run.folder / "broken_batch.pt"
        torch.save(asdict(batch), path)
        raise NonFiniteError(f"{error}{whose}: the batch is in {path}; lower the learning rate") from None


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


def record(
    run: Run, groups: list[Group], batch: Batch, collected: Collected, learned: Mapping[str, float], clock: Clock
) -> None:
    """Write the step's metrics and, now and then, some rollouts; show them."""
    rollouts = [r for g in groups for r in g]
    trained = 0 if collected.refused else int(batch.mask.sum())
    run.samples += 0 if collected.refused else len(rollouts)
    run.tokens += trained
    flat = [len({r.reward.value for r in g}) <= 1 for g in groups]
    entry: dict[str, Any] = {"step": run.step - 1, **completion_metrics(groups), **learned}
    entry |= {
        "flat_groups": sum(flat) / len(flat),
        "refill_rounds": collected.refill_rounds,
        "dropped_groups": collected.dropped_groups,
        "refused": float(collected.refused),
        "reward_errors": collected.reward_errors,
        "samples": run.samples,
        "samples/generated": run.cursor.next * run.config.rollout.samples,
        "tokens": run.tokens,
        "tokens/generated": collected.generated_tokens,
        "tokens/trained": trained,
        "version": max(r.completion.last_version for r in rollouts),
        "memory/peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "time/elapsed": time.perf_counter() - run.started,
        "time/cpu": time.process_time() + run.cpu,
        **clock.laps,
    }
    entry |= spent(run, batch, collected, entry)
    metrics.append(run.folder / "metrics.jsonl", entry)
    if collected.reward_errors:
        run.console.note(
            f"the reward function raised on {collected.reward_errors} completions, first: {collected.first_error}"
        )
    every = run.config.run.rollouts_every
    if every and (run.step - 1) % every == 0:
        for rollout in rollouts[:: max(1, len(rollouts) // run.config.run.rollouts)]:
            keep_rollout(run, run.step - 1, "train", rollout)
    run.console.show(entry)


def spent(run: Run, batch: Batch, collected: Collected, entry: Mapping[str, Any]) -> dict[str, float]:
    """What the step cost. A group's prompt is read once; rows without a gradient are not learned from."""
    lengths, length = batch.lengths.float(), float(batch.lengths.float().mean())
    prompt = length - float(batch.mask.sum(1).float().mean())
    answers = collected.generated_tokens / max(entry["response_length"], 1e-9)
    learned = lengths if batch.idle is None else lengths[~batch.idle]
    return run.meter.step(
        sampled=collected.generated_tokens + prompt * answers / run.config.rollout.samples,
        scored=0.0 if collected.refused else float(lengths.sum()),
        learned=0.0 if collected.refused else float(learned.sum()),
        length=length,
        seconds=entry["time/step"],
        elapsed=entry["time/elapsed"],
        left=run.console.left(run.step),
    )


def score(run: Run, split: Split, problems: int) -> None:
    """Evaluate the policy on `split` and write it down, with the rollouts of the first problems.

    Nothing is done twice: a resumed run may find that it died after this evaluation.
    """
    done = ((e["step"], e["split"]) for e in metrics.read(run.folder / "eval.jsonl"))
    if not problems or (run.step, split) in done:
        return
    e, started = run.config.eval, time.perf_counter()
    params = SamplingParams(max_tokens=run.config.eval_tokens, n=e.samples)
    result = evaluate(
        run.task,
        run.sampler,
        run.encode,
        template=run.config.model.prompt,
        split=split,
        problems=problems,
        params=params,
        greedy=e.greedy,
    )
    entry = {"step": run.step, **result.metrics, "time/evaluate": time.perf_counter() - started}
    for group in result.groups[: run.config.run.rollouts]:
        for rollout in group[:1]:
            keep_rollout(run, run.step, split, rollout)
    metrics.append(run.folder / "eval.jsonl", entry)  # last: with it the evaluation is done
    run.console.note(
        f"{split} after {run.step} steps: pass@1 {entry['pass@1']:.3f} "
        f"[{entry['pass@1/low']:.3f}, {entry['pass@1/high']:.3f}] on {problems} problems"
        + f"; the reward function raised on {entry['reward_errors']} completions"
        * bool(entry["reward_errors"])
    )


def keep_rollout(run: Run, step: int, split: Split, rollout: Rollout) -> None:
    """Write one to rollouts.jsonl."""
    prompt = run.task.prompt(rollout.problem, run.config.model.prompt)
    metrics.append(run.folder / "rollouts.jsonl", rollout_record(step, split, rollout, prompt))


def rollout_record(step: int, split: Split, rollout: Rollout, prompt: Prompt) -> dict[str, Any]:
    """A rollout as rollouts.jsonl holds it: readable, without token ids."""
    return {
        "step": step,
        "split": split,
        "problem": rollout.problem.id,
        "prompt": prompt,
        "fields": dict(rollout.problem.fields),
        "group": rollout.group,
        "text": rollout.completion.text,
        "finish_reason": rollout.completion.finish_reason,
        "response_length": len(rollout.completion.token_ids),
        "reward": rollout.reward.value,
        "parts": dict(rollout.reward.parts),
        "version": rollout.completion.last_version,
    }


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


def updates(config: Config) -> int:
    """Optimizer steps a batch."""
    return config.update.minibatches * config.update.epochs


class Clock:
    """Laps of one step, as `time/NAME`, and `time/step` for all so far."""

    def __init__(self) -> None:
        self.begin = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Seconds since the last lap are `time/NAME`."""
        now = time.perf_counter()
        self.laps[f"time/{name}"] = now - self.last
        self.laps["time/step"] = now - self.begin
        self.last = now


@contextmanager
def stop_requested() -> Iterator[list[int]]:
    """A list that stays empty until the first Ctrl-C or SIGTERM; the second one ends the process at once."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        # not the handlers found before: a job started in the background finds the interrupt ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print("\nstopping after this step (once more to stop at once) ...", file=sys.stderr, flush=True)

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
