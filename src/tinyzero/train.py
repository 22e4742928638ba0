"""The loop: sample, judge, learn, publish. The rest of the package is what its names refer to."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tinyzero.batching import Batch, collate
from tinyzero.config import Config
from tinyzero.errors import NonFiniteError, UserError, asking
from tinyzero.evaluate import completion_metrics, evaluate
from tinyzero.rollouts import Collected
from tinyzero.run import records
from tinyzero.run.parts import Run, opened, publish, save, updates
from tinyzero.run.stopping import stop_requested
from tinyzero.types import Group, Prompt, Rollout, SamplingParams, Split

PREFIXES = {"policy": "", "critic": "value/", "prm": "prm/"}


def train(config: Config, folder: Path, resume: bool = False, started: float | None = None) -> Path:
    """Train as `config` says in `folder`; returns the final checkpoint.

    `started` is when the command began (time.perf_counter), for the clock. Raises UserError on what the
    user can mend, NonFiniteError where training broke down, KeyboardInterrupt after a clean stop.
    """
    started = started or time.perf_counter()
    with (
        opened(config, folder, resume, started) as run,
        run.console,
        stop_requested("step") as stopping,
    ):
        if run.step == 0:
            score(run, "test", config.eval.test_problems)
            score(run, "dev", config.eval.dev_problems)
        run.console.begin(run.step)
        r, u = config.rollout, config.update
        for step in range(run.step, config.steps):
            clock = Clock()
            with saved_first(run):
                groups = run.source.take(step)
            collected = run.source.collected
            clock.lap("sample")
            batch = collate(
                groups, r.temperature, r.max_tokens, u.minibatches, u.epochs, run.sampler.version
            )
            if not collected.refused:
                with saved_if_broken(run, batch), asking(run.algorithm):
                    batch = run.algorithm.annotate(batch, run.learners)
            clock.lap("annotate")
            learned = update(run, batch, collected.refused)
            clock.lap("update")
            publish(run, version=step + 1)
            clock.lap("publish")
            run.step = step + 1
            record(run, groups, batch, collected, learned, clock)
            if config.eval.every and run.step % config.eval.every == 0 and run.step < config.steps:
                score(run, "dev", config.eval.dev_problems)
            if stopping or (config.checkpoint.every and run.step % config.checkpoint.every == 0):
                save(run)
            if stopping:
                run.console.note(
                    f"stopped after step {run.step}: go on with `tinyzero train --resume {folder}`"
                )
                raise KeyboardInterrupt
        score(run, "dev", config.eval.dev_problems)
        score(run, "test", config.eval.test_problems)
        return save(run)


def update(run: Run, batch: Batch, refused: bool = False) -> dict[str, float]:
    """Train every trained model on the batch, unless `annotate` did, or it is not to be; metrics but the policy's are
    prefixed."""
    found: dict[str, float] = {}
    for role, learner in run.learners.items():
        if learner.options is None:
            continue
        if refused or role in batch.waits:
            learner.skip(updates(run.config))  # its schedule goes on all the same
            continue
        if role in batch.updated:
            result = batch.updated[role]
        else:
            loss, u = partial(run.algorithm.loss, role), run.config.update
            with saved_if_broken(run, batch, f" (the {role}'s)"), asking(run.algorithm):
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
        raise NonFiniteError(
            f"{error}{whose}: the batch is in {path}; lower the learning rate"
        ) from None


@contextmanager
def saved_first(run: Run) -> Iterator[None]:
    """What a user's own task raises between two steps ends the run, but first what it has learned is saved."""
    try:
        yield
    except UserError:
        if run.step:
            save(run)
        raise


def record(
    run: Run,
    groups: list[Group],
    batch: Batch,
    collected: Collected,
    learned: Mapping[str, float],
    clock: Clock,
) -> None:
    """Write the step's metrics and, now and then, some rollouts; show them."""
    rollouts = [r for g in groups for r in g]
    trained = 0 if collected.refused else int(batch.mask.sum())
    run.samples += 0 if collected.refused else len(rollouts)
    run.tokens += trained
    flat = [len({r.reward.value for r in g}) <= 1 for g in groups]
    entry: dict[str, Any] = {
        "step": run.step - 1,
        **completion_metrics(run.task, groups),
        **learned,
    }
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
        **peaks(run.learners["policy"].device),
        "time/elapsed": time.perf_counter() - run.started,
        "time/cpu": time.process_time() + run.cpu,
        **clock.laps,
    }
    entry |= spent(run, batch, collected, entry)
    records.append(run.folder / "metrics.jsonl", entry)
    run.tracking.log(entry)
    if collected.failed:
        run.console.note(
            f"the reward function raised on {collected.failed} completions, first: {collected.first_error}"
        )
    every = run.config.run.rollouts_every
    if every and (run.step - 1) % every == 0:
        for rollout in rollouts[:: max(1, len(rollouts) // run.config.run.rollouts)]:
            keep_rollout(run, run.step - 1, "train", rollout)
    run.console.show(entry)


def peaks(device: torch.device) -> dict[str, int]:
    """The most memory, in bytes, that this process has held so far, and on a GPU what PyTorch has held there."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    on_gpu = (
        {"memory/gpu_peak": torch.cuda.max_memory_allocated(device)}
        if device.type == "cuda"
        else {}
    )
    return {"memory/peak": host, **on_gpu}


def spent(
    run: Run, batch: Batch, collected: Collected, entry: Mapping[str, Any]
) -> dict[str, float]:
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
        done=run.step,
    )


def score(run: Run, split: Split, problems: int) -> None:
    """Evaluate the policy on `split` and write it down, with the rollouts of the first problems.

    Nothing is done twice: a resumed run may find that it died after this evaluation.
    """
    done = ((e["step"], e["split"]) for e in records.read(run.folder / "eval.jsonl"))
    if not problems or (run.step, split) in done:
        return
    e, started = run.config.eval, time.perf_counter()
    params = SamplingParams(max_tokens=run.config.eval_tokens, n=e.samples)
    with saved_first(run):
        result = evaluate(
            run.player, split=split, problems=problems, params=params, greedy=e.greedy
        )
    entry = {"step": run.step, **result.metrics, "time/evaluate": time.perf_counter() - started}
    for group in result.groups[: run.config.run.rollouts]:
        for rollout in group[:1]:
            keep_rollout(run, run.step, split, rollout)
    records.append(run.folder / "eval.jsonl", entry)  # last: with it the evaluation is done
    run.tracking.log(entry, f"{split}/")
    run.console.note(
        f"{split} after {run.step} steps: pass@1 {entry['pass@1']:.3f} "
        f"[{entry['pass@1/low']:.3f}, {entry['pass@1/high']:.3f}] on {entry['n']} problems"
        + f"; the reward function raised on {entry['reward_errors']} completions"
        * bool(entry["reward_errors"])
    )


def keep_rollout(run: Run, step: int, split: Split, rollout: Rollout) -> None:
    """Write one to rollouts.jsonl."""
    prompt = run.task.prompt(rollout.problem, run.config.model.prompt)
    records.append(run.folder / "rollouts.jsonl", rollout_record(step, split, rollout, prompt))


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
        "response_length": rollout.completion.length,
        "reward": rollout.reward.value,
        "parts": dict(rollout.reward.parts),
        "version": rollout.completion.last_version,
    }


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
