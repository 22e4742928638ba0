"""How many completions can be decoded at once, from the memory that is free."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tinyzero.models import Backbone

SHARE = 0.5
"""Share of the free memory that the rows being decoded may take."""
COPIES = 1.5
"""Most memory per row, in caches: while ended rows are dropped, keys or values exist twice."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def rows_that_fit(model: Backbone, length: int) -> int:
    """How many sequences of `length` tokens, prompts included, can be decoded at once; at least 1.

    Each row takes its cache and its logits, with one copy of these while a token is drawn. A
    SmolLM2-135M in float32 has 46,080 bytes of cache per token. A row of 1,000 tokens then takes
    70 MB, so that 64 rows fit if 9 GB are free.
    """
    row = COPIES * length * model.cache_bytes + 2 * 4 * int(model.config.vocab_size)
    return max(1, int(SHARE * free_memory(model.device) / row))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`, by what the system and a container allow."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return min(_free_in_system(), free_in_container())


def _free_in_system() -> int:
    """Bytes of memory that are free, or hold files that can be read again."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        values = dict(line.split(":") for line in lines)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass  # not a Linux

    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError, AttributeError):
        return 4 * 2**30  # the least that a computer of today has free


def free_in_container(folder: Path = CONTROL_GROUPS) -> int:
    """Bytes that the container of this process may still take; huge if it has no limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int((folder / limit).read_text()) - int((folder / used).read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return 2**62
