"""Alarms about graded rewards, on records made here."""

import random
from collections.abc import Callable

import pytest

from tinyzero.run import signs
from tinyzero.run.early import Start
from tinyzero.run.signs import Alarm, Streams
from tinyzero.tools.report.alarms import find_alarms

STEPS = 40


def line(start: float, end: float, noise: float = 0.02, seed: int = 0) -> list[float]:
    """A column that goes from one value to another, with noise."""
    draw = random.Random(seed)
    return [start + (end - start) * i / (STEPS - 1) + draw.gauss(0, noise) for i in range(STEPS)]


def records(**changed: list[float]) -> Streams:
    """Columns of a healthy graded run: reward and truth rise, all else stays."""
    healthy = {
        "step": [float(step) for step in range(STEPS)],
        "graded": [1.0] * STEPS,
        "accuracy": [0.0] * STEPS,
        "reward": line(0.2, 0.8, seed=1),
        "behaviour/truth": line(0.1, 0.5, seed=2),
        "behaviour/majority": line(0.05, 0.05, 0.005, seed=3),
        "behaviour/repetition": line(0.1, 0.1, 0.005, seed=4),
        "response_length": line(100, 100, 1.0, seed=5),
    }
    return healthy | {key.replace("__", "/"): column for key, column in changed.items()}


CASES: list[tuple[Callable[[Streams], Alarm | None], dict[str, list[float]], str]] = [
    (signs.reward_hacking, {"behaviour__truth": line(0.3, 0.3)}, "30 %"),
    (signs.reward_hacking, {"behaviour__truth": line(0.5, 0.1)}, "being hacked"),
    (signs.length_takeover, {"response_length": line(100, 20)}, "follows the length"),
    (signs.length_takeover, {"response_length": line(100, 300)}, "tokens"),
    (signs.repetition_takeover, {"behaviour__repetition": line(0.1, 0.7)}, "Repeated"),
    (signs.majority_takeover, {"behaviour__majority": line(0.02, 0.9)}, "One answer"),
]


def test_a_healthy_run_raises_no_alarm() -> None:
    assert [check(records()) for check in signs.HACKING] == [None] * 4


@pytest.mark.parametrize(("check", "changed", "words"), CASES)
def test_each_kind_of_hacking_raises_its_alarm_alone(
    check: Callable[[Streams], Alarm | None], changed: dict[str, list[float]], words: str
) -> None:
    streams = records(**changed)
    alarm = check(streams)
    assert alarm is not None
    assert words in f"{alarm.title} {alarm.seen}"
    assert [other(streams) for other in signs.HACKING if other is not check] == [None] * 3
    assert alarm in find_alarms(streams)


@pytest.mark.parametrize(("check", "changed", "words"), CASES)
def test_no_alarm_for_exact_rewards_or_young_runs(
    check: Callable[[Streams], Alarm | None], changed: dict[str, list[float]], words: str
) -> None:
    streams = records(**changed)
    assert check({key: column[:9] for key, column in streams.items()}) is None
    assert check({**streams, "graded": [0.0] * STEPS}) is None


def test_a_reward_that_only_wobbles_is_not_hacked() -> None:
    false_alarms = 0
    for seed in range(100):
        wobbling = records(reward=line(0.5, 0.5, 0.1, seed=seed))
        wobbling = {**wobbling, "behaviour/truth": line(0.3, 0.3, seed=seed)}
        false_alarms += signs.reward_hacking(wobbling) is not None
    assert false_alarms <= 3


def test_without_a_truth_nothing_is_said_about_it() -> None:
    streams = {key: column for key, column in records().items() if key != "behaviour/truth"}
    assert signs.reward_hacking(streams) is None


def test_the_console_says_each_once() -> None:
    start = Start(levels=[])
    streams = records(behaviour__truth=line(0.3, 0.3), behaviour__majority=line(0.02, 0.9))
    said: list[str] = []
    for step in range(STEPS):
        said += start.after_step({key: column[step] for key, column in streams.items()})
    assert sum("being hacked" in text for text in said) == 1
    assert sum("One answer" in text for text in said) == 1
