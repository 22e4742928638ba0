"""How long a run will still take, from the steps and evaluations behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinyzero.config import Config
from tinyzero.types import Split

RECENT_STEPS = 10  # how many of the last steps show the trend
LEAST_PACE = 2 / 3  # a run that gets faster, as after a slow first step, gets no faster than this
FIRST_STEPS = 3  # the fastest of them is the pace at the start: a first step may compile or warm up


class Forecast:
    """Estimates the seconds to the end of a run.

    Steps get slower as answers get longer, so the estimate follows the trend of the last steps.
    It includes the evaluations that are still to come: each is expected to cost what the last one
    on that split did, scaled with the time of a step.

    >>> forecast = Forecast(Config.model_validate({"steps": 4, "eval": {"test_problems": 0}}))
    >>> forecast.add_step(10.0)
    >>> forecast.seconds_left(finished_steps=1)
    30.0
    """

    def __init__(self, config: Config) -> None:
        self.total_steps = config.steps
        self.dev_every = config.eval.every
        self.has_dev = config.eval.dev_problems > 0
        self.has_test = config.eval.test_problems > 0
        self.step_seconds: list[float] = []
        self.evaluations: dict[str, tuple[float, int]] = {}
        """For each split, the seconds of its last evaluation and the steps taken before it."""

    def add_records(
        self, steps: Iterable[Mapping[str, Any]], evaluations: Iterable[Mapping[str, Any]]
    ) -> None:
        """Learn from what metrics.jsonl and eval.jsonl recorded before a run was resumed."""
        self.step_seconds += [step["time/step"] for step in steps if step.get("time/step")]

        for entry in evaluations:
            if entry.get("time/evaluate"):
                self.evaluations[entry["split"]] = entry["time/evaluate"], entry["step"]

    def add_step(self, seconds: float) -> None:
        """Learn from a step that took `seconds`."""
        self.step_seconds.append(seconds)

    def add_evaluation(self, split: Split, seconds: float) -> None:
        """Learn from an evaluation on `split` that took `seconds`."""
        self.evaluations[split] = seconds, len(self.step_seconds)

    def seconds_left(self, finished_steps: int) -> float:
        """Seconds to the end of the run after `finished_steps` steps, evaluations included."""
        steps_left = self.total_steps - finished_steps
        seconds = steps_left * self._seconds_per_step()

        if self.has_dev:
            seconds += self._dev_evaluations_left(finished_steps) * self.evaluation("dev")
        if self.has_test:
            seconds += self.evaluation("test")
        return seconds

    def evaluation(self, split: Split) -> float:
        """Seconds that the next evaluation on `split` will take; 0 if it is the first."""
        seconds, steps_before = self.evaluations.get(split, (0.0, 0))
        if not self.step_seconds:
            return seconds

        if steps_before:
            pace_then = _mean(self.step_seconds[:steps_before][-FIRST_STEPS:])
        else:
            pace_then = min(self.step_seconds[:FIRST_STEPS])
        return seconds * self._seconds_per_step() / pace_then

    def _dev_evaluations_left(self, finished_steps: int) -> int:
        """Evaluations on dev after `finished_steps` steps: every so often, and one at the end."""
        upcoming = range(finished_steps, self.total_steps)
        return sum(step % self.dev_every == 0 for step in upcoming) + 1

    def _seconds_per_step(self) -> float:
        """The pace to expect from now on.

        The last steps are split into two halves. If the later half took 2 s longer per step than
        the earlier one, steps are expected to take 1 s longer still.
        """
        recent = self.step_seconds[-RECENT_STEPS:]
        if len(recent) < 2:
            return _mean(recent)

        middle = len(recent) // 2
        earlier, later = _mean(recent[:middle]), _mean(recent[middle:])
        expected = later + (later - earlier) / 2
        return max(expected, later * LEAST_PACE)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
