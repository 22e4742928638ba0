"""The time left follows the steps' trend, counts the evaluations to come, and survives a resume."""

from typing import Any

import pytest

from tinyzero.config import Config
from tinyzero.run.forecast import Forecast


def forecast(steps: int, every: int = 0, test_problems: int = 0) -> Forecast:
    evaluation = {"every": every, "test_problems": test_problems}
    return Forecast(Config.model_validate({"steps": steps, "eval": evaluation}))


def test_steps_that_take_the_same_time() -> None:
    made = forecast(steps=200)
    made.add_step(2.5)
    made.add_step(2.5)
    assert made.seconds_left(2) == 198 * 2.5


def test_the_trend_of_the_last_steps_continues_by_half_of_what_it_gained() -> None:
    made = forecast(steps=100)
    for seconds in (1000.0, *[4.0] * 5, *[6.0] * 5):  # the first step is left out
        made.add_step(seconds)
    assert made.seconds_left(11) == pytest.approx(89 * (6 + (6 - 4) / 2))


@pytest.mark.parametrize(("earlier", "later", "expected"), [(1.0, 9.0, 13.0), (9.0, 3.0, 2.0)])
def test_a_slow_first_step_does_not_promise_a_fast_last_one(
    earlier: float, later: float, expected: float
) -> None:
    made = forecast(steps=3)
    made.add_step(earlier)
    made.add_step(later)
    assert made.seconds_left(2) == pytest.approx(expected)


def test_evaluations_to_come_are_counted() -> None:
    made = forecast(steps=10, every=4, test_problems=8)
    made.add_evaluation("test", 30.0)
    made.add_evaluation("dev", 7.0)
    for _ in range(3):
        made.add_step(2.0)
    assert made.seconds_left(3) == 7 * 2 + 3 * 7 + 30, "dev after 4, 8 and 10 steps, test after 10"
    for _ in range(7):
        made.add_step(2.0)
    assert made.seconds_left(4) == 6 * 2 + 3 * 7 + 30, "the one after 4 steps is still to come"
    assert made.seconds_left(5) == 5 * 2 + 2 * 7 + 30
    assert made.seconds_left(10) == 7 + 30


def test_an_evaluation_costs_more_when_steps_do() -> None:
    made = forecast(steps=40, every=10, test_problems=8)
    assert made.evaluation("test") == 0.0
    made.add_evaluation("test", 30.0)
    assert made.evaluation("test") == 30.0, "no step was taken yet"
    for seconds in [9.0, 2.0, 2.5, *[5.0] * 10]:  # the first step includes the warm-up
        made.add_step(seconds)
    assert made.evaluation("test") == pytest.approx(30 * 5 / 2)
    made.add_evaluation("dev", 11.0)
    assert made.evaluation("dev") == pytest.approx(11)
    for _ in range(10):
        made.add_step(10.0)
    assert made.evaluation("dev") == pytest.approx(22)


def test_a_resumed_run_expects_what_it_would_have() -> None:
    whole, resumed = (forecast(20, every=5, test_problems=8) for _ in range(2))
    steps: list[dict[str, Any]] = [{"step": s, "time/step": 1.0 + s} for s in range(7)]
    evaluations = [
        {"step": 0, "split": "test", "time/evaluate": 9.0},
        {"step": 0, "split": "dev", "time/evaluate": 3.0},
        {"step": 5, "split": "dev", "time/evaluate": 4.0},
    ]
    whole.add_evaluation("test", 9.0)
    whole.add_evaluation("dev", 3.0)
    for step in steps:
        whole.add_step(step["time/step"])
        if step["step"] == 4:
            whole.add_evaluation("dev", 4.0)
    resumed.add_records(steps, evaluations)
    assert resumed.seconds_left(7) == whole.seconds_left(7) > 0


def test_a_run_that_recorded_no_times_expects_nothing() -> None:
    made = forecast(20, every=5)
    made.add_records([{"step": 0}], [{"step": 0, "split": "dev"}])
    assert made.seconds_left(1) == 0.0
