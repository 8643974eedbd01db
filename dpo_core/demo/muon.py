"""Muon: momentum whose update is made orthogonal, for the weight matrices of the demo's network.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. On this network it reaches a given
loss in less than half the updates AdamW needs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions; convolutions are (out, in * rows * columns)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures
        """Update every parameter from its gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, float]) -> None:
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(mean, group["momentum"])
        matrix = ahead.flatten(1)
        # Tall matrices would otherwise change their output less than wide ones.
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        update = orthogonal(matrix).view_as(parameter)
        parameter.mul_(1 - group["lr"] * group["decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The matrix with all its singular values moved near 1, by Newton-Schulz iteration.

    Args:
        matrix: (M, N).

    Returns:
        (M, N), singular values between about 0.7 and 1.2.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
