"""Muon (Jordan et al., 2024): an optimizer that orthogonalises the momentum of each matrix.

torch.optim.Muon orthogonalises in bf16, which is ten times slower than fp32 on CPUs without bf16
units. This is the same rule in the precision of the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix of the same shape whose singular values are close to 1.

    It approximates the nearest semi-orthogonal matrix by `steps` Newton-Schulz iterations of a
    polynomial of degree 5, with the coefficients of Jordan et al.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    is_wide = x.shape[0] <= x.shape[1]
    x = x if is_wide else x.T

    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x

    result: Tensor = x if is_wide else x.T
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised and scaled to the size of Adam's updates for each shape.

    It is for matrices only. Example: `Muon([layer.weight], lr=0.01)`.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix once. All of them need a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(momentum, group["momentum"]))

                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)
