"""The split that a problem belongs to: its key alone decides, for every source and every seed."""

from __future__ import annotations

import hashlib

from tinyzero.types import Split

SPLIT_SALT = "tinyzero-1"  # a constant of the package, never the seed of a run
BUCKETS = {"dev": range(0, 10), "test": range(10, 20)}  # out of 100; the other buckets are train


def split_by_key(key: str) -> Split:
    """The split of every problem with this `key`: 80 % of keys are train, 10 % dev, 10 % test.

    Example: a key is Countdown's sorted numbers, so no reordering of a test problem is trained on.

    >>> split_by_key("3,5,12")
    'dev'
    """
    digest = hashlib.sha256(f"{SPLIT_SALT}:{key}".encode(errors="surrogatepass")).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100

    if bucket in BUCKETS["dev"]:
        return "dev"
    if bucket in BUCKETS["test"]:
        return "test"
    return "train"
