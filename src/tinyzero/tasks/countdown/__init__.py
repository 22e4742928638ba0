"""Countdown: reach a target with every given number exactly once."""

from tinyzero.tasks.countdown.task import Countdown, CountdownOptions

__all__ = ["Countdown", "CountdownOptions", "data"]

TASK = Countdown
