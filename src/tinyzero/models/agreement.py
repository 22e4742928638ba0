"""Whether two ways to compute the same agree, up to rounding."""

from __future__ import annotations

from torch import Tensor


def differs(result: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether the difference is more than `tolerance` of the size of `expected`. A NaN differs.

    >>> import torch
    >>> one = torch.ones(4)
    >>> differs(one + 1e-6, one, 1e-4), differs(one + 1e-3, one, 1e-4), differs(one / 0 * 0, one, 1)
    (False, True, True)
    """
    return not bool((result - expected).norm() <= tolerance * expected.norm())
