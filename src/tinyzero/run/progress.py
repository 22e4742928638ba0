"""What happens around the steps of a run: evaluations, checkpoints, stopping, and what is recorded."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyzero.batching import Batch
from tinyzero.config import MEANT, Config, lasting
from tinyzero.errors import Interrupted, UserError
from tinyzero.evaluate import caution, completion_metrics, evaluate
from tinyzero.run import checkpoint, records
from tinyzero.types import Group, Prompt, Rollout, SamplingParams, Split

if TYPE_CHECKING:
    from tinyzero.run.parts import Run

RAISED_ALARM = 0.01  # share of answers whose grader failed, above which the console says so


def steps(run: Run, stopping: list[int]) -> Iterator[int]:
    """The numbers of the steps still to take, with evaluations and checkpoints before, between and after.

    Raises `Interrupted` after a step if `stopping` has heard a signal; the state is saved first.
    """
    config = run.config
    if run.step == 0:
        score(run, "test", config.eval.test_problems)
        score(run, "dev", config.eval.dev_problems)
    elif run.step < config.steps:
        score_if_due(
            run
        )  # a run that was interrupted in this evaluation has its state, not its score
    run.console.begin(run.step)
    while run.step < config.steps:
        run.clock.start()
        yield run.step
        if run.step < config.steps:
            score_if_due(run)
        # the last checkpoint waits for the last evaluations, so that it vouches for them too
        if stopping or (due(config.checkpoint.every, run.step) and run.step < config.steps):
            run.save()
        if stopping:
            said = (
                f"stopped after step {run.step}: resume with `tinyzero train --resume {run.folder}`"
            )
            run.console.note(said)
            raise Interrupted
    score(run, "dev", config.eval.dev_problems)
    score(run, "test", config.eval.test_problems)
    run.save()


def score_if_due(run: Run) -> None:
    """Evaluate on dev if it is time to."""
    if due(run.config.eval.every, run.step):
        score(run, "dev", run.config.eval.dev_problems)


def due(every: int, step: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens after `step` of them."""
    return bool(every) and step % every == 0


def record(
    run: Run, step: int, groups: list[Group], batch: Batch, learned: Mapping[str, float]
) -> None:
    """Write the step's metrics and, now and then, some rollouts; show them."""
    end_if_forked(run)
    collected = run.source.collected
    rollouts = [r for g in groups for r in g]
    trained = 0 if collected.refused else int(batch.mask.sum())
    run.samples += 0 if collected.refused else len(rollouts)
    run.tokens += trained
    run.step = step + 1

    flat = [len({r.reward.value for r in g}) <= 1 for g in groups]
    entry: dict[str, Any] = {"step": step, **completion_metrics(run.task, groups), **learned}
    entry |= {
        "flat_groups": sum(flat) / len(flat),
        "refill_rounds": collected.refill_rounds,
        "dropped_groups": collected.dropped_groups,
        "skipped_prompts": collected.skipped_prompts,
        "refused": float(collected.refused),
        "reward_errors": collected.failed,
        **collected.metrics(),
        "samples": run.samples,
        "samples/generated": run.source.cursor.next * run.config.rollout.samples,
        "tokens": run.tokens,
        "tokens/generated": collected.generated_tokens,
        "tokens/trained": trained,
        "version": max(r.completion.last_version for r in rollouts),
        **peaks(run.models["policy"].device),
        "time/elapsed": time.perf_counter() - run.started,
        "time/cpu": time.process_time() + run.cpu,
        **run.clock.laps(),
    }
    entry |= spent(run, batch, entry)
    records.append(run.folder / "metrics.jsonl", entry)
    run.tracking.log(entry)
    warn_of_failures(run)
    every = run.config.run.rollouts_every
    if every and step % every == 0:
        for rollout in rollouts[:: max(1, len(rollouts) // run.config.run.rollouts)]:
            line = rollout_of(run, step, "train", rollout)
            records.append(run.folder / "rollouts.jsonl", line)
    run.recorded = records.lengths(run.folder)
    run.console.show(entry)


def warn_of_failures(run: Run) -> None:
    """Raise the alarm, once per run, if the grader fails on more than 1 % of a step's answers."""
    collected = run.source.collected
    if collected.failed > RAISED_ALARM * collected.graded and not run.alarmed:
        run.alarmed = True
        run.console.note(
            f"alarm: the grader failed on {collected.failed} of {collected.graded} answers of this step, "
            f"which count as wrong, first: {collected.first_error}"
        )


def peaks(device: torch.device) -> dict[str, int]:
    """The most memory, in bytes, that this process has held so far, and on a GPU what PyTorch has held there."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host *= 1 if sys.platform == "darwin" else 1024
    if device.type != "cuda":
        return {"memory/peak": host}
    return {"memory/peak": host, "memory/gpu_peak": torch.cuda.max_memory_allocated(device)}


def spent(run: Run, batch: Batch, entry: Mapping[str, Any]) -> dict[str, float]:
    """What the step cost. A group's prompt is read once; rows without a gradient are not learned from."""
    collected = run.source.collected
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
        done=run.step,
    )


def score(run: Run, split: Split, problems: int) -> None:
    """Evaluate the policy on `split` and write it down, with the rollouts of the first problems.

    Nothing is done twice: a resumed run may find that it died after this evaluation.
    """
    done = ((e["step"], e["split"]) for e in records.read(run.folder / "eval.jsonl"))
    if not problems or (run.step, split) in done:
        return
    options, started = run.config.eval, time.perf_counter()
    params = SamplingParams(max_tokens=run.config.eval_tokens, n=options.samples)
    result = evaluate(
        run.player, split=split, problems=problems, params=params, greedy=options.greedy
    )
    end_if_forked(run)
    entry = {"step": run.step, **result.metrics, "time/evaluate": time.perf_counter() - started}
    shown = [group[0] for group in result.groups[: run.config.run.rollouts] if group]
    for line in [rollout_of(run, run.step, split, rollout) for rollout in shown]:
        records.append(run.folder / "rollouts.jsonl", line)
    records.append(run.folder / "eval.jsonl", entry)  # last: with it the evaluation is done
    run.recorded = records.lengths(run.folder)
    run.tracking.log(entry, f"{split}/")
    run.console.note(
        f"{split} after {run.step} steps: pass@1 {entry['pass@1']:.3f} "
        f"[{entry['pass@1/low']:.3f}, {entry['pass@1/high']:.3f}] on {entry['n']} problems"
        + (f"; {said}" if (said := caution(entry)) else "")
    )


def rollout_of(run: Run, step: int, split: Split, rollout: Rollout) -> dict[str, Any]:
    """A rollout of this run as rollouts.jsonl holds it."""
    prompt = run.task.prompt(rollout.problem, run.config.model.prompt)
    return rollout_record(step, split, rollout, prompt)


def rollout_record(step: int, split: Split, rollout: Rollout, prompt: Prompt) -> dict[str, Any]:
    """A rollout as rollouts.jsonl holds it: readable, without token ids."""
    completion, reward = rollout.completion, rollout.reward
    failure = {"failure": reward.failure} if reward.failure else {}
    return {
        "step": step,
        "split": split,
        "problem": rollout.problem.id,
        "prompt": prompt,
        "fields": dict(rollout.problem.fields),
        "group": rollout.group,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "response_length": completion.length,
        "reward": reward.value,
        "right": reward.right,
        "parts": dict(reward.parts),
        "version": completion.last_version,
        **failure,
    }


class Saved(BaseModel):
    """What a checkpoint holds beside the policy's folder, and vouches for."""

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
    """By dotted key, what may not change while the run lasts."""
    records: dict[str, tuple[int, str]]
    """By file, the length and the SHA-256 of what had been recorded."""


def save(run: Run) -> None:
    """Checkpoint the run as it stands after `run.step` steps, with all that it recorded until then."""
    end_if_forked(run)
    refresh = run.refresh
    state = standing(run) | {
        "learners": {
            role: learner.state_dict()
            for role, learner in run.models.items()
            if learner.trained or refresh
        },
    }
    keep = run.config.checkpoint.keep
    run.saved = checkpoint.save(run.folder, run.step, run.save_model, state, keep)


def standing(run: Run) -> dict[str, Any]:
    """Where the run stands: all of its state but the learners'. Its records are then safe on the disk."""
    return {
        "step": run.step,
        "cursor": run.source.cursor.state_dict(),
        "samples": run.samples,
        "tokens": run.tokens,
        "seconds": time.perf_counter() - run.started,
        "cpu": time.process_time() + run.cpu,
        "flops": run.meter.flops,
        "config": lasting(run.config),
        "records": {n: records.seal(run.folder / n, run.recorded.get(n, 0)) for n in records.FILES},
    }


def rehearse(run: Run) -> None:
    """Save and remove a checkpoint, so that a disk or a model that refuses is known before the first step.

    The learners' state is left out: it is the largest part, and tensors alone.
    """
    checkpoint.rehearse(run.folder, run.save_model, standing(run))


def load_latest(folder: Path, note: Callable[[str], None]) -> Saved | None:
    """The newest whole checkpoint of the run in `folder`, or None if nothing was saved.

    Raises UserError if it is none of this version's.
    """
    found = checkpoint.load_latest(folder, note)
    if found is None:
        return None
    path, state = found
    try:
        return Saved.model_validate(state)
    except ValidationError as error:
        wrong = error.errors()[0]
        what = ".".join(["state", *map(str, wrong["loc"])])
        raise UserError(
            f"{path} cannot be resumed by this version of TinyZero ({what}: {wrong['msg'].lower()}): "
            "begin another run, or resume with the version that saved it"
        ) from None


def refuse_changes(saved: Saved, config: Config, folder: Path) -> None:
    """Raise UserError naming the first option in which `config` is not what the run was trained with."""
    now = lasting(config)
    for key in sorted(saved.config.keys() | now.keys()):
        if saved.config.get(key) != now.get(key):
            raise UserError(
                f"{key} is {now.get(key)!r}, and the run in {folder} was trained with "
                f"{saved.config.get(key)!r}: put it back in {MEANT}, or begin another run"
            )


def end_if_forked(run: Run) -> None:
    """A process that a user's code forked ends here, before it writes into the run as a second one."""
    if os.getpid() != run.process:
        sys.stderr.write("a process that was forked from the run came back into it: it ends here\n")
        sys.stderr.flush()
        os._exit(1)
