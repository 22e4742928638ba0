"""How many completions can be decoded at once, from the memory of the machine.

All memory counts, and not what is free at the moment: a run that is resumed, or that shares the
machine with another program, must decode the same rows together, because rounding depends on that.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tinyzero.models import Backbone

SHARE = 0.25
"""Share of the machine's memory that the rows being decoded may take."""
COPIES = 1.5
"""Most memory per row, in caches: while ended rows are dropped, keys or values exist twice."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 2**62


def rows_that_fit(model: Backbone, length: int) -> int:
    """How many sequences of `length` tokens, prompts included, can be decoded at once; at least 1.

    Each row takes its cache and its logits, with one copy of these while a token is drawn. A
    SmolLM2-135M in float32 has 46,080 bytes of cache per token. A row of 1,000 tokens then takes
    70 MB, so that 61 rows fit on a machine with 16 GiB.
    """
    row = COPIES * length * model.cache_bytes + 2 * 4 * int(model.config.vocab_size)
    return max(1, int(SHARE * machine_memory(model.device) / row))


def machine_memory(device: torch.device) -> int:
    """Bytes of memory that `device` has, or that the container of this process allows."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min(_system_memory(), container_limit())


def _system_memory() -> int:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # Windows
        return 8 * 2**30  # the least that a computer of today has


def container_limit(folder: Path = CONTROL_GROUPS) -> int:
    """Bytes that the container of this process may take; huge if it has no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return NO_LIMIT
