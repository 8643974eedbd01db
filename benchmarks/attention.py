"""The host's kinds of attention that have a gradient, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.modules import attention

from .measure import in_turn, megabytes, peak_bytes
from .table import Table

KERNELS = {
    "pytorch": attention.attention_pytorch,
    "split": attention.attention_split,
    "sub_quad": attention.attention_sub_quad,
}
SHAPES = ((1, 1024, 8, 64), (1, 4096, 8, 64))
"""Batch, tokens, heads, width of a head."""


def tables(rounds: int = 5) -> list[Table]:
    columns = ("tokens", "attention", "forward and backward", "over pytorch", "peak")
    table = Table("attention", columns)
    for shape in SHAPES:
        steps = {name: _step(kernel, shape) for name, kernel in KERNELS.items()}
        times = in_turn(steps, rounds, warm_up=1)
        for name, step in steps.items():
            table.add(
                shape[1], name, f"{times[name]:.3f} s", times.ratio(name, "pytorch"),
                megabytes(peak_bytes(step)),
            )
    return [table]


def _step(kernel: Any, shape: tuple[int, int, int, int]) -> Callable[[], None]:
    batch, tokens, heads, width = shape
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(batch, tokens, heads * width, generator=generator).requires_grad_()
        for _ in range(3)
    ]

    def run() -> None:
        torch.autograd.grad(kernel(*given, heads).square().mean(), given)

    return run
