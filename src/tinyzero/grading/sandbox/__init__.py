"""A sandbox for programs that a model wrote: they compute, and can do nothing else.

`Sandbox` runs a program and returns what its function returned. It needs neither root nor a daemon:
the strongest of several ways that works on this machine is used (see `tiers`). docs/sandbox.md says
what each of them stops, and `tinyzero sandbox` tries it.
"""

from tinyzero.grading.sandbox.runner import FAILURES, Limits, Outcome, Sandbox, use_tier
from tinyzero.grading.sandbox.tiers import Choice, pick_tier
from tinyzero.grading.sandbox.values import canonical, is_near, write_arguments

__all__ = [
    "FAILURES",
    "Choice",
    "Limits",
    "Outcome",
    "Sandbox",
    "canonical",
    "escapes",
    "is_near",
    "pick_tier",
    "tiers",
    "use_tier",
    "write_arguments",
]
