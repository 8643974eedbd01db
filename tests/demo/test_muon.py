from __future__ import annotations

import pytest
import torch
from torch import nn

from dpo_core.demo.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_singular_values_move_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.3, 2.0, min(shape))
    result = orthogonal(u * values @ v)
    straightened = u.T @ result @ v.T
    assert 0.6 < straightened.diagonal().min() and straightened.diagonal().max() < 1.3
    assert (straightened - straightened.diagonal().diag()).abs().max() < 1e-4


def test_the_step_length_is_the_rate_whatever_the_gradient_measures() -> None:
    lengths = []
    for size in (1e-3, 1e3):
        weight = nn.Parameter(torch.zeros(4, 4))
        optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
        weight.grad = size * torch.eye(4)
        optimizer.step()
        lengths.append(weight.detach().diagonal().clone())
    assert torch.allclose(lengths[0], lengths[1], atol=1e-3)
    # 0.1 times a singular value near 1, against the gradient.
    assert ((lengths[0] < -0.06) & (lengths[0] > -0.13)).all()


def test_convolutions_are_updated_as_matrices() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(8, 3, 3, 3))
    kernel.grad = torch.randn(8, 3, 3, 3)
    Muon([kernel], lr=1.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals(kernel.detach().reshape(8, 27))
    assert 0.6 < values.min() and values.max() < 1.3
