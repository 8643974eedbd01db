"""The four passes of a DPO step and their three schedules.

Reference and policy score the chosen and the rejected image. All schedules give the same loss
and the same gradients; they trade memory for speed.

=================  ==========================================  ==========================
mode               passes (F forward, B backward, per image)   graphs alive at the peak
=================  ==========================================  ==========================
sequential         2 F reference, 3 F policy, 2 B              one image
policy_concurrent  2 F reference, 2 F policy, 2 B              both images
full_concurrent    1 F reference, 1 F + 1 B policy, of 2 rows  both images, in one batch
=================  ==========================================  ==========================
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .batch import PairBatch
from .denoiser import Denoiser, Rows
from .objectives import Objective, ObjectiveLoss, PairErrors


class Policy(Protocol):
    """The trainable part, seen from the passes."""

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the model is the reference: adapter off, or frozen as it was at the start."""


class PassResult(NamedTuple):
    """What one micro-batch gave; every tensor detached, shape (B,), on the model's device.

    Attributes:
        errors: the four errors.
        losses: total and preference loss.
        change: mean |policy - reference|^2 over both images' predictions.
        power: mean |reference|^2 over both images' predictions.
    """

    errors: PairErrors
    losses: ObjectiveLoss
    change: Tensor
    power: Tensor


class _Scored(NamedTuple):
    error: Tensor
    residual: Tensor
    power: Tensor


def _score(denoiser: Denoiser, rows: Rows) -> _Scored:
    residual, power = denoiser.predict(rows)
    return _Scored(residual.square().flatten(1).mean(1), residual, power)


def sequential(
    denoiser: Denoiser, policy: Policy, batch: PairBatch, objective: Objective, scale: float
) -> PassResult:
    """Score first, then backward image by image: the peak is one ordinary LoRA step.

    Any loss of the two errors has a gradient that is two numbers per pair. So the rejected image
    is scored without a graph, then the chosen one with; now both numbers are known, the chosen
    graph is used up and freed, and the rejected image runs once more with a graph of its own.

    Args:
        denoiser: the model.
        policy: the adapter on it.
        batch: B pairs.
        objective: the loss.
        scale: factor on the summed loss's gradients.
    """
    reference_chosen, reference_rejected = _reference_one_by_one(denoiser, policy, batch)
    with torch.no_grad():
        rejected = _score(denoiser, batch.rejected)
    chosen = _score(denoiser, batch.chosen)
    errors = _errors(chosen.error, rejected.error, reference_chosen, reference_rejected)
    probability = _like(batch.chosen_probability, errors.chosen)
    losses, d_chosen, d_rejected = objective.gradients(errors, probability)
    torch.autograd.backward(chosen.error, d_chosen * scale)
    result = _result(errors, losses, chosen, rejected, reference_chosen, reference_rejected)
    del chosen, rejected, errors  # the last holds of the chosen graph
    torch.autograd.backward(_score(denoiser, batch.rejected).error, d_rejected * scale)
    return result


def policy_concurrent(
    denoiser: Denoiser, policy: Policy, batch: PairBatch, objective: Objective, scale: float
) -> PassResult:
    """Both policy graphs are kept until one backward: no pass is repeated. See `sequential`."""
    reference_chosen, reference_rejected = _reference_one_by_one(denoiser, policy, batch)
    chosen = _score(denoiser, batch.chosen)
    rejected = _score(denoiser, batch.rejected)
    return _backward_together(
        chosen, rejected, reference_chosen, reference_rejected, batch, objective, scale
    )


def full_concurrent(
    denoiser: Denoiser, policy: Policy, batch: PairBatch, objective: Objective, scale: float
) -> PassResult:
    """Chosen and rejected as one batch of 2B rows, reference first. See `sequential`."""
    rows = batch.chosen.joined(batch.rejected)
    with torch.no_grad(), policy.reference():
        reference_chosen, reference_rejected = _halves(_score(denoiser, rows))
    chosen, rejected = _halves(_score(denoiser, rows))
    return _backward_together(
        chosen, rejected, reference_chosen, reference_rejected, batch, objective, scale
    )


Schedule = Callable[[Denoiser, Policy, PairBatch, Objective, float], PassResult]

SCHEDULES: dict[str, Schedule] = {
    "sequential": sequential,
    "policy_concurrent": policy_concurrent,
    "full_concurrent": full_concurrent,
}


def _reference_one_by_one(
    denoiser: Denoiser, policy: Policy, batch: PairBatch
) -> tuple[_Scored, _Scored]:
    with torch.no_grad(), policy.reference():
        return _score(denoiser, batch.chosen), _score(denoiser, batch.rejected)


def _halves(scored: _Scored) -> tuple[_Scored, _Scored]:
    first, second = zip(*(tensor.chunk(2) for tensor in scored), strict=True)
    return _Scored(*first), _Scored(*second)


def _backward_together(
    chosen: _Scored,
    rejected: _Scored,
    reference_chosen: _Scored,
    reference_rejected: _Scored,
    batch: PairBatch,
    objective: Objective,
    scale: float,
) -> PassResult:
    errors = _errors(chosen.error, rejected.error, reference_chosen, reference_rejected)
    probability = _like(batch.chosen_probability, errors.chosen)
    losses = objective(errors, probability)
    torch.autograd.backward(losses.total.sum() * scale)
    return _result(errors, losses, chosen, rejected, reference_chosen, reference_rejected)


def _like(values: Tensor, errors: Tensor) -> Tensor:
    return values.to(errors.dtype).to(errors.device)  # in this order: not every device has float64


def _errors(
    chosen: Tensor, rejected: Tensor, reference_chosen: _Scored, reference_rejected: _Scored
) -> PairErrors:
    return PairErrors(chosen, rejected, reference_chosen.error, reference_rejected.error)


def _result(
    errors: PairErrors,
    losses: ObjectiveLoss,
    chosen: _Scored,
    rejected: _Scored,
    reference_chosen: _Scored,
    reference_rejected: _Scored,
) -> PassResult:
    def moved(policy: _Scored, reference: _Scored) -> Tensor:
        # The target cancels: residuals differ exactly by the predictions' difference.
        return (policy.residual.detach() - reference.residual).square().flatten(1).mean(1)

    return PassResult(
        PairErrors(
            errors.chosen.detach(),
            errors.rejected.detach(),
            errors.reference_chosen,
            errors.reference_rejected,
        ),
        ObjectiveLoss(losses.total.detach(), losses.preference.detach()),
        (moved(chosen, reference_chosen) + moved(rejected, reference_rejected)) / 2,
        (reference_chosen.power + reference_rejected.power) / 2,
    )
