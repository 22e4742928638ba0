"""What a run writes about itself: one JSON object a line, the meaning of every key, and the console."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TextIO

import rich.console
from rich.live import Live
from rich.table import Table

from tinyzero.types import UserError

GLOSSARY: dict[str, str] = {
    # Where a record stands
    "step": "Batch trained on, counted from 0; of evaluations and of dev and test rollouts, the batches before it.",
    "split": "Split the problems come from: train, dev or test.",
    "version": "Policy version that made the completions: the number of times the weights were published.",
    "samples": "Completions trained on since the run began.",
    "samples/generated": "Completions sampled for training since the run began, dropped groups included.",
    "tokens": "Completion tokens trained on since the run began.",
    # What the policy earned
    "reward": "Mean reward of the step's completions.",
    "reward/*": "Mean of the named part of the reward over the step's completions.",
    "accuracy": "Share of the step's completions whose answer is right.",
    "reward_errors": "Completions of this step whose reward function raised an exception.",
    "malformed": "Share of completions that ended by themselves without an answer that can be judged.",
    "truncated": "Share of completions cut off at the token limit.",
    "response_length": "Mean tokens a completion, its stop token included.",
    "response_length/right": "Mean tokens of the completions whose answer is right.",
    "response_length/wrong": "Mean tokens of the completions whose answer is wrong.",
    "flat_groups": "Share of groups whose completions all earned the same: no lesson under a group baseline.",
    "refill_rounds": "Extra rounds of sampling it took to fill the batch.",
    "dropped_groups": "Groups sampled for this step and not kept by the algorithm.",
    "refused": "One where the algorithm kept no group at all, so that nothing was learned in this step, else zero.",
    # What the update did
    "loss": "The scalar that the policy minimised, averaged over the step's updates.",
    "entropy": "Mean entropy in nats of the next-token distribution, over tokens with a gradient: no flat groups.",
    "kl": "Mean estimated KL divergence from the reference model in nats, over tokens with a gradient.",
    "clip_fraction": "Share of the tokens with a gradient whose probability ratio was clipped.",
    "grad_norm": "L2 norm of the policy's gradient before clipping.",
    "learning_rate": "The policy's learning rate in this step.",
    "skipped": "Updates of this step that were left out because the gradient was not finite.",
    "correction": "Mean weight of trained tokens for a sampler that differs from the learner.",
    "mismatch": "Mean distance, in nats, of a trained token's log-probability as the sampler saw it from the learner's "
    "own before the update; rows that waited for this batch left out.",
    "prm/*": "The named figure of the process reward model, averaged over the step's updates.",
    "prm/accuracy": "Share of trained responses whose summed process reward has the sign of right or wrong.",
    "value/*": "The named figure of the critic, averaged over the step's updates.",
    # What it cost
    "tokens/generated": "Completion tokens sampled in this step, dropped groups included.",
    "tokens/trained": "Completion tokens that carried loss in this step.",
    "time/step": "Seconds of wall time of the whole step, without evaluating and saving.",
    "time/elapsed": "Seconds of wall time since the run began, evaluations included, pauses not.",
    "time/cpu": "Seconds of CPU time of all threads since the run began.",
    "time/gpu_hours": "Hours of the GPU since the run began.",
    "time/gpu_hours_total": "Hours of the GPU that the run will have taken at its end, at the pace so far.",
    "time/flops_total": "What flops will be at the run's end, at the pace so far.",
    "time/dollars": "What the run has cost, at run.price an hour of time/elapsed.",
    "time/dollars_total": "What the run will have cost at its end, at the pace so far.",
    "time/utilisation": "The step's FLOPs over what the GPU's data sheet allows in time/step, in the weights' type.",
    "flops": "Floating-point operations since the run began, evaluations aside, by the formulas of `tinyzero plan`: 2 "
    "a weight and token read, 6 learned from. What is computed a second time to save memory is not counted.",
    "time/*": "Seconds of wall time spent in the named part.",
    "memory/*": "Memory held by the named part at its peak, in bytes.",
    "memory/gpu_peak": "The most memory, in bytes, that PyTorch had allocated on the GPU since the process began; "
    "vLLM's is not in it.",
    # How it thought (docs/behaviours.md defines every word; a line is one of the compact grammar)
    "behaviour/attempts": "Mean full attempts a completion: results that use exactly the given numbers.",
    "behaviour/distinct_attempts": "Mean attempts a completion that differ by more than the order of terms or factors.",
    "behaviour/repeat_rate": "Share of attempts that were already made in the same completion.",
    "behaviour/legal_rate": "Share of lines of steps that are full attempts. Compact grammar only.",
    "behaviour/arithmetic_accuracy": "Share of the steps stated that are exactly true.",
    "behaviour/verifications": "Mean verdicts a completion: a result is said to be the target, or not.",
    "behaviour/verification_precision": "Share of yes verdicts on a full attempt that truly hits the target.",
    "behaviour/verification_recall": "Share of the attempts that truly hit the target that get a yes.",
    "behaviour/misjudged": "Share of verdicts that are false: yes to what misses the target, no to what hits it.",
    "behaviour/verdict_rate": "Share of lines of steps that end in a verdict, yes or no. Compact grammar only.",
    "behaviour/target_restated": "Share of verdicts that restate the target rightly. Compact grammar only.",
    "behaviour/recognition_recall": "Share of the stated results equal to the target that get yes, among those judged. "
    "Compact grammar only.",
    "behaviour/false_claim_rate": "Share of the stated results unlike the target that get yes, among those judged. "
    "Compact grammar only.",
    "behaviour/backtracks": "Mean times a completion gives up a line of work for another.",
    "behaviour/backtracks_said": "Mean such turns that words announce, a completion (lexical backtracking).",
    "behaviour/backtracks_silent": "Mean such turns a completion that no word announces: the arithmetic does not go on "
    "from what missed (structural backtracking). All are in the compact grammar.",
    "behaviour/subgoals": "Mean intermediate goals a completion. Free text only.",
    "behaviour/subgoals_made": "Share of the intermediate goals that are made from the given numbers later on.",
    "behaviour/backward": "Mean sentences a completion that reason from the target. Free text only.",
    "behaviour/self_checked": "Share of completions that work out their solution once more.",
    "behaviour/found_rate": "Share of completions in which some attempt truly hits the target.",
    "behaviour/first_hit": "Mean number of the first attempt that truly hits, counted from 1, where one does.",
    "behaviour/first_hit_characters": "Mean characters up to the first attempt that truly hits, where one does.",
    "behaviour/characters_per_attempt": "Characters of thinking for each full attempt, over all completions; "
    "`response_length` over `behaviour/attempts` is the same in tokens, the answer's included.",
    "behaviour/continued_characters": "Mean characters of thinking after the first yes to an attempt that truly hits, "
    "where there is one.",
    "behaviour/early_hit_rate": "Share of the first three attempts of each completion that truly hit the target.",
    "behaviour/gave_up": "Share of completions that search, take nothing for a solution, and say so or answer.",
    "behaviour/direct": "Share of completions that answer without any arithmetic.",
    "behaviour/faithful": "Share of the answers that are an attempt taken for a solution, where one was.",
    "behaviour/decomposed": "Share of products of more than one pair of digits that are broken down by the "
    "distributive rule: products of parts are stated for every pair.",
    "behaviour/decomposed_partly": "Share of those products of which some pairs of digits are multiplied, not all.",
    # Rollouts
    "problem": "The problem's name.",
    "prompt": "The text, or the chat messages, that posed it.",
    "fields": "What the problem is made of.",
    "group": "Number of the draw: the rollouts of one draw of a problem share it.",
    "text": "The completion, up to and including its stop string.",
    "finish_reason": "How it ended: stop, length (cut at the token limit) or abort.",
    "parts": "The parts of its reward by name.",
    # Evaluations
    "n": "Problems evaluated.",
    "k": "Completions sampled for each problem.",
    "temperature": "Temperature the completions were sampled at.",
    "pass@*": "Chance that at least one of so many completions is right, estimated without bias.",
    "pass@*/*=*": "The same over the problems described so: how many numbers, or which operators are needed.",
    "greedy": "Share of problems answered rightly by the single most likely completion.",
    "greedy/*=*": "The same over the problems described so: how many numbers, or which operators are needed.",
    "pass@*/low": "Lower end of the 95 % confidence interval; the problems of one number set are one cluster.",
    "pass@*/high": "Upper end of the 95 % confidence interval; the problems of one number set are one cluster.",
    "greedy*/low": "Lower end of the 95 % confidence interval; the problems of one number set are one cluster.",
    "greedy*/high": "Upper end of the 95 % confidence interval; the problems of one number set are one cluster.",
}
"""What each key means and its unit; `*` stands for any text. The entry that spells out most of a key defines it."""


def define(key: str) -> str | None:
    """What `key` means, or None for a key that the glossary lacks."""
    patterns = [pattern for pattern in GLOSSARY if fnmatchcase(key, pattern)]
    return GLOSSARY[max(patterns, key=lambda pattern: len(pattern.replace("*", "")))] if patterns else None


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add `record` to a JSONL file as one line; a number that is not finite is written as null."""
    line = json.dumps(_finite(record), allow_nan=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; make room or make it writable, then resume") from error


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file, without a last line torn by a crash. No file, no records.

    Raises UserError naming the line where another one is damaged.
    """
    return (record for _, record in _lines(path))


def follow(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a growing JSONL file from byte `offset` on: (the offset after it, the record).

    A last line that is not whole yet is left for the next time. Raises UserError as `read` does.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            record = _record(line)
            if record is None:
                if file.read(1):  # not the last line, so no crash tore it
                    raise UserError(f"the line at byte {offset} of {path} is not a JSON object: mend or remove it")
                return
            offset += len(line)
            yield offset, record


def retain(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Leave only the records that `keep` accepts, all at once or not at all; a torn last line goes too."""
    if not path.exists():
        return
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.writelines(line + b"\n" for line, record in _lines(path) if keep(record))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; make room or make it writable, then resume") from error
    finally:
        temporary.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line as it stands in the file, without its newline, and its record."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            record = _record(line)
            if record is not None:
                if not isinstance(record.get("step"), int):
                    raise UserError(f"line {number} of {path} has no step: mend or remove it")
                yield line.rstrip(b"\n"), record
            elif file.read(1):  # not the last line, so no crash tore it
                raise UserError(f"line {number} of {path} is not a JSON object: mend or remove it")


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _finite(value: Any) -> Any:
    """`value` as strict JSON can hold it: no number in it is infinite or NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


COLUMNS: dict[str, tuple[str, str]] = {
    "reward": ("reward", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "response_length": ("length", ".1f"),
    "behaviour/attempts": ("attempts", ".2f"),
}
"""Keys of a step's record that the console shows: its heading and how to write the number."""
SPENT: dict[str, tuple[str, str]] = {
    "flops": ("FLOP", "{:.1e}"),
    "time/gpu_hours": ("GPU-hours", "{:.2f}"),
    "time/dollars": ("cost", "${:.2f}"),
}
"""The same for what a run spends; each has a time/*_total, for its end. Shown where there is a GPU or a price."""


class Console:
    """The run as it goes: a live table of the last steps on a terminal, one plain line a step elsewhere.

    Use it as a context; `show` takes a step's record, `note` says something that stays.
    """

    ROWS = 10

    def __init__(self, steps: int, file: TextIO | None = None) -> None:
        """`steps` is the run's length."""
        self.steps = steps
        self.begin(0)
        self.rows: deque[dict[str, str]] = deque(maxlen=self.ROWS)
        self.console = rich.console.Console(file=file or sys.stdout, highlight=False, markup=False)
        redraws = self.console.is_terminal and not self.console.is_dumb_terminal
        # Drawn when there is something new, not by a thread that would take time from training.
        self.live = Live(console=self.console, auto_refresh=False) if redraws else None

    def __enter__(self) -> Console:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def begin(self, done: int) -> None:
        """Start the clock: `done` steps lie behind, of this run or the one it resumes."""
        self.done, self.started = done, time.monotonic()

    def show(self, record: Mapping[str, Any]) -> None:
        """Show the metrics of one step."""
        row = self._row(record)
        if self.live:
            self.rows.append(row)
            self.live.update(self._table(), refresh=True)
        else:
            self.note("  ".join(f"{heading} {text}" for heading, text in row.items()))

    def note(self, text: str) -> None:
        """Print a line that stays, above the table."""
        self.console.print(text, soft_wrap=True)

    def _row(self, record: Mapping[str, Any]) -> dict[str, str]:
        finished = record["step"] + 1
        row = {"step": f"{finished}/{self.steps}"}
        for key, (heading, form) in COLUMNS.items():
            if record.get(key) is not None:
                row[heading] = format(record[key], form)
        if record.get("time/step"):
            row["tokens/s"] = f"{record['tokens/generated'] / record['time/step']:,.0f}"
        if record.get("time/utilisation"):
            row["of peak"] = f"{record['time/utilisation']:.0%}"
        if "time/gpu_hours" in record or "time/dollars" in record:
            for key, (heading, form) in SPENT.items():
                if key in record:
                    row[heading] = f"{form} of {form}".format(
                        record[key], record[f"time/{key.removeprefix('time/')}_total"]
                    )
        row["left"] = _clock(self.left(finished))
        return row

    def left(self, finished: int) -> float:
        """Seconds to the end after so many steps, at the pace since `begin`."""
        pace = (time.monotonic() - self.started) / max(finished - self.done, 1)
        return pace * (self.steps - finished)

    def _table(self) -> Table:
        headings = dict.fromkeys(heading for row in self.rows for heading in row)
        table = Table(*headings, box=None, padding=(0, 2, 0, 0))
        for row in self.rows:
            table.add_row(*(row.get(heading, "") for heading in headings))
        return table


def _clock(seconds: float) -> str:
    """Hours (if any), minutes and seconds: `1:02:05`, `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
