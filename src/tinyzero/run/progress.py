"""What happens around the steps of a run: evaluations, checkpoints, stopping, and records."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tinyzero.batching import Batch
from tinyzero.config import MEANT, Config, lasting
from tinyzero.errors import Interrupted, UserError, short_path, typed_path
from tinyzero.evaluate import caution, completion_metrics, evaluate
from tinyzero.run import checkpoint, early, records
from tinyzero.run.meter import dollars_of
from tinyzero.samplers.torch import TorchSampler
from tinyzero.types import Completion, Group, Prompt, Rollout, SamplingParams, Split

if TYPE_CHECKING:
    from tinyzero.run.parts import Run

SLOW_SAVE = 20.0  # seconds from which the rehearsal of a save is mentioned

MOST_FAILURES = 0.01  # share of a step's answers whose grading may fail without an alarm


def steps(run: Run, stopping: list[int]) -> Iterator[int]:
    """The numbers of the steps still to take, with the evaluations and checkpoints around them.

    Raises `Interrupted` between two steps, or after an evaluation, once `stopping` holds a signal.
    """
    config = run.config

    if run.step == 0:
        score(run, "test", config.eval.test_problems)
        stop_if_asked(stopping)
        score(run, "dev", config.eval.dev_problems)
        judge_start(run)
        stop_if_asked(stopping)
    elif run.step < config.steps:
        # a run that was interrupted during this evaluation has its checkpoint, but not its score
        score_if_due(run)

    while run.step < config.steps:
        run.clock.start()
        yield run.step

        # what was learned is safe before an evaluation, which may fail or be killed
        if run.step < config.steps:
            if due(config.checkpoint.every, run.step):
                run.save()
            score_if_due(run)
        stop_if_asked(stopping)

    run.save()
    score(run, "dev", config.eval.dev_problems)
    score(run, "test", config.eval.test_problems)


def stop_if_asked(stopping: list[int]) -> None:
    """Raise `Interrupted` if a signal to stop was received; `opened` then saves the state."""
    if stopping:
        raise Interrupted


def stop_message(folder: Path, step: int, learning: bool) -> str:
    """What to say when a run was interrupted after `step` steps, and how to continue it."""
    if not (folder / MEANT).is_file():
        return "stopped before the run began: nothing was written"

    command = f"`tinyzero train --resume {typed_path(folder)}`"
    if step == 0:
        return (
            "stopped before the first step was finished: nothing was trained; "
            f"start again with {command}"
        )
    if learning:
        return f"stopped during step {step + 1}: resume from the newest checkpoint with {command}"
    return f"stopped after step {step}: resume with {command}"


def resume_words(folder: Path) -> str:
    """How to continue the run in `folder`."""
    return f"resume with `tinyzero train --resume {typed_path(folder)}`"


def score_if_due(run: Run) -> None:
    """Evaluate on dev if it is time to."""
    if due(run.config.eval.every, run.step):
        score(run, "dev", run.config.eval.dev_problems)


def due(every: int, step: int) -> bool:
    """Whether something that happens every `every` steps (0: never) happens after step `step`."""
    return bool(every) and step % every == 0


def record(
    run: Run, step: int, groups: list[Group], batch: Batch, learned: Mapping[str, float]
) -> None:
    """Write and show the metrics of step `step` and, now and then, write some of its rollouts."""
    end_if_forked(run)
    collected = run.source.collected
    rollouts = [rollout for group in groups for rollout in group]
    trained_tokens = 0 if collected.refused else int(batch.mask.sum())

    run.samples += 0 if collected.refused else len(rollouts)
    run.tokens += trained_tokens
    run.step = step + 1

    flat = [len({rollout.reward.value for rollout in group}) <= 1 for group in groups]
    entry: dict[str, Any] = {"step": step, **completion_metrics(run.task, groups), **learned}
    entry |= {
        "flat_groups": sum(flat) / len(flat),
        "refill_rounds": collected.refill_rounds,
        "dropped_groups": collected.dropped_groups,
        "skipped_prompts": collected.skipped_prompts,
        "refused": float(collected.refused),
        "reward_errors": collected.failed,
        **collected.metrics(),
        **collected.by_task,
        "samples": run.samples,
        "samples/generated": run.source.cursor.next * run.config.rollout.samples,
        "tokens": run.tokens,
        "tokens/generated": collected.generated_tokens,
        "tokens/trained": trained_tokens,
        "version": max(rollout.completion.last_version for rollout in rollouts),
        **run_peaks(run),
        "time/elapsed": time.perf_counter() - run.started,
        "time/cpu": time.process_time() + run.cpu,
        **run.clock.laps(),
        **sampler_metrics(run),
        **run.task.costs(),
    }

    run.forecast.add_step(entry["time/step"])
    seconds_left = run.forecast.seconds_left(run.step)
    entry["time/elapsed_total"] = entry["time/elapsed"] + seconds_left
    entry |= spent(run, batch, entry)

    records.append(run.folder / "metrics.jsonl", entry)
    run.tracking.log(entry)
    warn_of_failures(run)
    if run.config.run.rollouts_every and step % run.config.run.rollouts_every == 0:
        write_rollouts(run, step, rollouts)
    run.recorded = records.lengths(run.folder)
    run.console.show(entry, seconds_left)
    early.say(run.console.note, run.start.after_step(entry))


def write_rollouts(run: Run, step: int, rollouts: list[Rollout]) -> None:
    """Write about `run.rollouts` of a step's rollouts to rollouts.jsonl, evenly spread."""
    stride = max(1, len(rollouts) // run.config.run.rollouts)
    for rollout in rollouts[::stride]:
        records.append(run.folder / "rollouts.jsonl", rollout_of(run, step, "train", rollout))


def warn_of_failures(run: Run) -> None:
    """Raise the alarm, once per run, if the grader fails on more than 1 % of a step's answers."""
    collected = run.source.collected
    if collected.failed > MOST_FAILURES * collected.graded and not run.alarmed:
        run.alarmed = True
        run.console.note(
            f"alarm: the grader failed on {collected.failed} of {collected.graded} answers of "
            f"this step, which count as wrong; the first failure: {collected.first_error}"
        )


def sampler_metrics(run: Run) -> dict[str, float]:
    """What the torch sampler on a GPU says about its speed. Its faults become alarms."""
    if not isinstance(run.sampler, TorchSampler):
        return {}
    for fault in run.sampler.take_faults():
        run.console.note(f"alarm: {fault}")
    return run.sampler.metrics()


def peaks(device: torch.device) -> dict[str, int]:
    """The most memory in bytes that this process has held so far, on the host and on a GPU.

    On a GPU it is what PyTorch has allocated there.
    """
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host *= 1 if sys.platform == "darwin" else 1024
    if device.type != "cuda":
        return {"memory/peak": host}
    return {"memory/peak": host, "memory/gpu_peak": torch.cuda.max_memory_allocated(device)}


def run_peaks(run: Run) -> dict[str, int]:
    """The peaks of the run: the largest of this process and of those before it."""
    now = peaks(run.models["policy"].device)
    return {key: max(held, run.earlier_peaks.get(key, 0)) for key, held in now.items()}


def spent(run: Run, batch: Batch, entry: Mapping[str, Any]) -> dict[str, float]:
    """What the run has cost so far and will have cost at its end, for the record of a step.

    A group's prompt is read only once, and rows without a gradient are not learned from.
    """
    collected = run.source.collected
    mean_length = float(batch.lengths.float().mean())
    prompt_length = mean_length - float(batch.mask.sum(1).float().mean())

    completions = collected.generated_tokens / max(entry["response_length"], 1e-9)
    prompts = completions / run.config.rollout.samples
    shares = bool(getattr(run.models["policy"], "shares", True))
    scored = batch.computed_tokens(skip_idle=False, share=shares)
    learned = batch.computed_tokens(share=shares)

    return run.meter.step(
        sampled=collected.generated_tokens + prompt_length * prompts,
        scored=0.0 if collected.refused else scored,
        learned=0.0 if collected.refused else learned,
        length=mean_length,
        seconds=entry["time/step"],
        grading_dollars=dollars_of(entry),
        elapsed=entry["time/elapsed"],
        left=entry["time/elapsed_total"] - entry["time/elapsed"],
        done=run.step,
    )


def score(run: Run, split: Split, problems: int) -> None:
    """Evaluate the policy on `split`; write the figures and the rollouts of the first problems.

    Nothing is done twice: a resumed run may find that this evaluation was finished.
    """
    evaluations = records.read(run.folder / "eval.jsonl")
    finished = {(evaluation["step"], evaluation["split"]) for evaluation in evaluations}
    if not problems or (run.step, split) in finished:
        return

    options, started = run.config.eval, time.perf_counter()
    title = f"{split} after {run.step} step{'' if run.step == 1 else 's'}"
    expected = run.forecast.evaluation(split)
    params = SamplingParams(
        temperature=run.config.eval_temperature,
        max_tokens=run.config.eval_tokens,
        n=options.samples,
    )
    result = evaluate(
        run.player,
        split=split,
        problems=problems,
        params=params,
        greedy=options.greedy,
        progress=lambda done, total: run.console.evaluating(title, done, total, expected),
    )
    end_if_forked(run)

    seconds = time.perf_counter() - started
    run.forecast.add_evaluation(split, seconds)
    entry = {"step": run.step, **result.metrics, "time/evaluate": seconds}
    for group in result.groups[: run.config.run.rollouts]:
        if group:
            line = rollout_of(run, run.step, split, group[0])
            records.append(run.folder / "rollouts.jsonl", line)
    # last, because an evaluation counts as finished once it is in eval.jsonl
    records.append(run.folder / "eval.jsonl", entry)
    run.recorded = records.lengths(run.folder)
    if run.saved.name == checkpoint.name_of(run.step):
        checkpoint.reseal(run.saved, spent_and_recorded(run))
    run.tracking.log(entry, f"{split}/")

    warning = caution(entry)
    run.console.note(
        f"{title}: pass@1 {entry['pass@1']:.3f} "
        f"[{entry['pass@1/low']:.3f}, {entry['pass@1/high']:.3f}] on {entry['n']} problems"
        + (f"; {warning}" if warning else "")
    )


def judge_start(run: Run) -> None:
    """Say so if the evaluations before training show that it can hardly start."""
    evaluations = [entry for entry in records.read(run.folder / "eval.jsonl") if entry["step"] == 0]
    early.say(run.console.note, run.start.after_evaluation(evaluations))


def rollout_of(run: Run, step: int, split: Split, rollout: Rollout) -> dict[str, Any]:
    """A rollout of this run as a record of rollouts.jsonl."""
    prompt = run.task.prompt(rollout.problem, run.config.model.prompt)
    return rollout_record(step, split, rollout, prompt)


def rollout_record(step: int, split: Split, rollout: Rollout, prompt: Prompt) -> dict[str, Any]:
    """A rollout as a record of rollouts.jsonl: readable, without token ids."""
    completion, reward = rollout.completion, rollout.reward
    failure = {"failure": reward.failure} if reward.failure else {}
    environment = {"environment": environment_spans(completion)} if completion.turns else {}

    return {
        "step": step,
        "split": split,
        "problem": rollout.problem.id,
        "prompt": prompt,
        "fields": dict(rollout.problem.fields),
        "group": rollout.group,
        "text": completion.transcript,
        **environment,
        "finish_reason": completion.finish_reason,
        "response_length": completion.length,
        "reward": reward.value,
        "right": reward.right,
        "parts": dict(reward.parts),
        "version": completion.last_version,
        **failure,
    }


def environment_spans(completion: Completion) -> list[tuple[int, int]]:
    """Where the environment wrote in the transcript: first character, and the one after the last.

    >>> from tinyzero.types import Turn
    >>> turns = (Turn(0, 2, text="6*7="), Turn(2, 3, by_model=False, text="42"))
    >>> environment_spans(Completion((5, 6, 7), (True, True, False), (0, 0, 0), "6*7=", "stop",
    ...                              turns=turns))
    [(4, 6)]
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for turn in completion.turns:
        end = start + len(turn.text)
        if not turn.by_model:
            spans.append((start, end))
        start = end
    return spans


def _as_tuple(value: Any) -> Any:
    """A list as a tuple: JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value


class Saved(BaseModel):
    """The state that a checkpoint holds next to the policy's folder."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    step: int = Field(ge=1)
    cursor: dict[str, Any]
    samples: int = Field(ge=0)
    tokens: int = Field(ge=0)
    seconds: float
    cpu: float
    flops: float
    learners: dict[str, dict[str, Any]]
    config: dict[str, Any]
    """The options that may not change while the run lasts, by dotted key."""
    records: dict[str, Annotated[tuple[int, str], BeforeValidator(_as_tuple)]]
    """For each file of records, its length in bytes and the SHA-256 of that much of it."""


def save(run: Run) -> None:
    """Checkpoint the run after `run.step` steps, together with all that it has recorded."""
    end_if_forked(run)
    saves_frozen_models = bool(run.refresh)
    learners = {
        role: learner.state_dict()
        for role, learner in run.models.items()
        if learner.trained or saves_frozen_models
    }
    state = state_without_learners(run) | {"learners": learners}
    keep = run.config.checkpoint.keep
    run.saved = checkpoint.save(run.folder, run.step, run.save_model, state, keep)


def state_without_learners(run: Run) -> dict[str, Any]:
    """All of a run's state but the learners'. Its records are then safe on the disk."""
    return {
        "step": run.step,
        "cursor": run.source.cursor.state_dict(),
        "samples": run.samples,
        "tokens": run.tokens,
        "flops": run.meter.flops,
        "config": lasting(run.config),
        **spent_and_recorded(run),
    }


def spent_and_recorded(run: Run) -> dict[str, Any]:
    """The part of a run's state that an evaluation changes. Its records are then on the disk."""
    seals = {
        name: records.seal(run.folder / name, run.recorded.get(name, 0)) for name in records.FILES
    }
    return {
        "seconds": time.perf_counter() - run.started,
        "cpu": time.process_time() + run.cpu,
        "records": seals,
    }


def rehearse(run: Run) -> None:
    """Save a checkpoint, load it as a user would, compare it with the policy, and remove it.

    So a disk that cannot be written, or a model that cannot be saved, is found before the first
    step. The learners' state is left out: it is the largest part, and only tensors.
    """
    started = time.perf_counter()
    checkpoint.rehearse(run.folder, run.save_model, state_without_learners(run), run.read_back)

    seconds = time.perf_counter() - started
    if seconds > SLOW_SAVE:
        run.console.note(f"the model was saved and read back once, to be sure: {seconds:.0f} s")


def load_latest(folder: Path, note: Callable[[str], None]) -> Saved | None:
    """The newest undamaged checkpoint of the run in `folder`, or None if nothing was saved.

    Raises UserError if another version of TinyZero wrote it.
    """
    newest = checkpoint.load_latest(folder, note)
    if newest is None:
        return None

    path, state = newest
    try:
        return Saved.model_validate(state)
    except ValidationError as error:
        wrong = error.errors()[0]
        what = ".".join(["state", *map(str, wrong["loc"])])
        raise UserError(
            f"{short_path(path)} cannot be resumed by this version of TinyZero "
            f"({what}: {wrong['msg'].lower()}): "
            "begin another run, or resume with the version that saved it"
        ) from None


def refuse_changes(saved: Saved, config: Config, folder: Path) -> None:
    """Raise UserError, naming the option, if `config` is not what the run was trained with."""
    now = lasting(config)
    for key in sorted(saved.config.keys() | now.keys()):
        if saved.config.get(key) != now.get(key):
            raise UserError(
                f"{key} is {now.get(key)!r}, but the run in {short_path(folder)} was trained "
                f"with {saved.config.get(key)!r}: put it back in {MEANT}, or begin another run"
            )


def end_if_forked(run: Run) -> None:
    """End a process that a user's code forked, before it writes into the run as a second one."""
    if os.getpid() != run.process:
        sys.stderr.write("a process that was forked from the run returned into it, and was ended\n")
        sys.stderr.flush()
        os._exit(1)
