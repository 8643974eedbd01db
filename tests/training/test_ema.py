from __future__ import annotations

import pytest
import torch
from torch import nn

from dpo_core.training.ema import AdapterAverage


def average(start: float, decay: float) -> tuple[AdapterAverage, nn.Parameter]:
    parameter = nn.Parameter(torch.tensor([start]))
    return AdapterAverage({"a": parameter}, decay), parameter


def mean(one: AdapterAverage) -> float:
    return one.state()["a"].item()


def test_the_mean_follows_slowly_and_at_first_faster() -> None:
    one, parameter = average(0.0, 0.5)
    with torch.no_grad():
        parameter.fill_(1.0)
    one.update(0)  # decay 1/10
    assert mean(one) == pytest.approx(0.9)
    one.update(1)  # decay 2/11: 1 - 0.1 * 2/11
    assert mean(one) == pytest.approx(1 - 0.1 * 2 / 11)
    before = mean(one)
    with torch.no_grad():
        parameter.fill_(3.0)
    one.update(1000)  # decay 0.5
    assert mean(one) == pytest.approx((before + 3) / 2)
    assert parameter.item() == 3.0


def test_it_goes_on_from_its_state() -> None:
    one, parameter = average(0.0, 0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    one.update(50)
    other, same = average(7.0, 0.9)
    other.load(one.state())
    with torch.no_grad():
        same.fill_(1.0)
    one.update(51)
    other.update(51)
    assert mean(other) == mean(one)
