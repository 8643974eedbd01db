"""The host's rotary kernels have the derivative of what they compute."""

from __future__ import annotations

from typing import Any

import comfy_kitchen
import pytest
import torch
from hostkit.training import pack_module
from torch import Tensor

kernels = pack_module("nodes.host.kernels")
TOKENS, HEADS, WIDTH = 5, 2, 8


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rotations() -> Tensor:
    """Matrices ((cos, -sin), (sin, cos)) for every token and pair."""
    angle = draw(1, TOKENS, 1, WIDTH // 2, seed=9)
    rows = [torch.stack(row, -1) for row in ((angle.cos(), -angle.sin()),
                                             (angle.sin(), angle.cos()))]
    return torch.stack(rows, -2)


def arguments(name: str) -> list[Any]:
    vectors = [draw(2, TOKENS, HEADS, WIDTH, seed=i).requires_grad_() for i in range(2)]
    scales = [1 + 0.3 * draw(WIDTH, seed=i) for i in (5, 6)]
    if name.endswith("1"):
        vectors, scales = vectors[:1], scales[:1]
    return [*vectors, rotations(), *(scales if name.startswith("rms") else [])]


@pytest.mark.parametrize("name", kernels._KERNELS)
def test_backward_is_the_derivative(name: str) -> None:
    kernels.give_kernels_a_gradient()
    kernel = getattr(comfy_kitchen, name)
    given = arguments(name)

    def value(*vectors: Tensor) -> Tensor:
        answer = kernel(*vectors, *given[len(vectors):])
        parts = [answer] if isinstance(answer, Tensor) else list(answer)
        return sum((p.double() * draw(*p.shape, seed=20 + i)).sum() for i, p in enumerate(parts))

    vectors = [tensor for tensor in given if tensor.requires_grad]
    found = torch.autograd.grad(value(*vectors), vectors)
    for i, vector in enumerate(vectors):
        direction = draw(*vector.shape, seed=30)
        moved = [[v + (h * direction if j == i else 0) for j, v in enumerate(vectors)]
                 for h in (1e-2, -1e-2)]
        rise = (value(*moved[0]) - value(*moved[1])).item() / 2e-2
        assert (found[i] * direction).sum().item() == pytest.approx(rise, rel=1e-3)


def test_borrowed_scales_are_not_kept() -> None:
    kernels.give_kernels_a_gradient()
    vector, rotation, scale = arguments("rms_rope1")
    expected = torch.autograd.grad(
        comfy_kitchen.rms_rope1(vector, rotation, scale).square().sum(), vector
    )[0]
    answer = comfy_kitchen.rms_rope1(vector, rotation, scale)
    scale.fill_(7.0)  # the host lends the memory to the next layer
    (found,) = torch.autograd.grad(answer.square().sum(), vector)
    assert torch.equal(found, expected)
