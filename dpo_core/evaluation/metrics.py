"""Metrics of a training step, over the whole accumulated batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..training.four_passes import PassResult

NAMES = (
    "loss/dpo",
    "dpo/raw_loss",
    "dpo/chosen_reward",
    "dpo/rejected_reward",
    "dpo/reward_margin",
    "dpo/accuracy",
    "errors/chosen",
    "errors/rejected",
    "errors/reference_chosen",
    "errors/reference_rejected",
    "prediction_change",
    "grad_norm",
)
"""In the order of :func:`step_metrics`. Rewards and margin are differences of mean squared errors,
not multiplied by beta; ``prediction_change`` is mean |policy - reference|^2 over
mean |reference|^2.
"""


def step_metrics(results: Sequence[PassResult], grad_norm: Tensor) -> Tensor:
    """All metrics in one tensor, so that reading them is one synchronisation with the device.

    Args:
        results: the micro-batches of one step.
        grad_norm: scalar.

    Returns:
        shape (len(NAMES),), in the errors' dtype on the device; not every device has float64.
    """

    def mean(name: str) -> Tensor:
        return torch.cat([getattr(result.errors, name) for result in results]).mean()

    margin = torch.cat([result.errors.margin for result in results])
    # A tie says nothing either way: one half.
    accuracy = (margin > 0).to(margin) + (margin == 0).to(margin) / 2
    change = torch.cat([result.change for result in results]).mean()
    power = torch.cat([result.power for result in results]).mean()
    return torch.stack([
        torch.cat([result.losses.total for result in results]).mean(),
        torch.cat([result.losses.preference for result in results]).mean(),
        mean("chosen_reward"),
        mean("rejected_reward"),
        margin.mean(),
        accuracy.mean(),
        mean("chosen"),
        mean("rejected"),
        mean("reference_chosen"),
        mean("reference_rejected"),
        change / power.clamp_min(torch.finfo(power.dtype).tiny),
        grad_norm.to(margin),
    ])
