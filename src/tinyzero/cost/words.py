"""What a plan says about memory: a page of `tinyzero plan` and the start of a run share it."""

from __future__ import annotations

from collections.abc import Mapping

from tinyzero.cost.simulator import USABLE, Plan


def usable_text(plan: Plan) -> str:
    """The memory to plan with on the plan's device."""
    total = plan.device.memory
    return f"the usable {size_text(USABLE * total)} of {size_text(total)}"


def remedy_line(changes: Mapping[str, object]) -> str:
    """The options with which a plan that does not fit would fit."""
    options = " ".join(f"--{key} {str(value).lower()}" for key, value in changes.items())
    if options:
        return f"this plan fits with {options}"
    return "no option makes this plan fit: use a smaller model or a device with more memory"


def size_text(size: float) -> str:
    """Bytes as "12.3 GB", "933 MB" or "54 KB"."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"
