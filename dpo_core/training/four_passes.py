"""The passes of a training step and their three schedules.

Reference and policy score every image of a record: the chosen and the rejected one of a pair, all
of a ranked group, or a single one. All schedules give the same loss and the same gradients; they
trade memory for speed. For pairs:

=================  ==========================================  ==========================
mode               passes (F forward, B backward, per image)   graphs alive at the peak
=================  ==========================================  ==========================
sequential         2 F reference, 3 F policy, 2 B              one image
policy_concurrent  2 F reference, 2 F policy, 2 B              both images
full_concurrent    1 F reference, 1 F + 1 B policy, of 2 rows  both images, in one batch
=================  ==========================================  ==========================

An objective that compares with no reference runs no reference pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import reduce
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .batch import Batch
from .denoiser import Denoiser, Rows
from .objectives import (
    FRESH,
    Errors,
    Labels,
    Objective,
    ObjectiveLoss,
    ObjectiveState,
    Slopes,
)
from .objectives.safeguard import safeguard


class Policy(Protocol):
    """The trainable part, seen from the passes."""

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the model is the reference: adapter off, or frozen as it was at the start."""


class PassResult(NamedTuple):
    """What one micro-batch gave; every tensor detached, shape (B,), on the model's device.

    Attributes:
        errors: of all images.
        labels: what was known of the records.
        losses: total and preference loss.
        logit: beta times the margin.
        change: mean |policy - reference|^2 over all images' predictions; NaN without reference.
        power: mean |reference|^2 over all images' predictions; NaN without reference.
    """

    errors: Errors
    labels: Labels
    losses: ObjectiveLoss
    logit: Tensor
    change: Tensor
    power: Tensor


class _Scored(NamedTuple):
    error: Tensor
    residual: Tensor
    power: Tensor


def _score(denoiser: Denoiser, rows: Rows) -> _Scored:
    residual, power = denoiser.predict(rows)
    return _Scored(_mean_square(residual), residual, power)


def sequential(
    denoiser: Denoiser,
    policy: Policy,
    batch: Batch,
    objective: Objective,
    scale: float,
    state: ObjectiveState = FRESH,
) -> PassResult:
    """Score first, then backward image by image: the peak is one ordinary LoRA step.

    Any loss of errors and of changes of predictions has a gradient that is a few numbers per
    image. So all images but the first are scored without a graph, then the first one with; now
    these numbers are known, its graph is used up and freed, and the others run once more, each
    with a graph of its own.

    Args:
        denoiser: the model.
        policy: the adapter on it.
        batch: B records.
        objective: the loss.
        scale: factor on the summed loss's gradients.
        state: what the objective remembers of the steps before.
    """
    reference = _reference_one_by_one(denoiser, policy, batch, objective)
    with torch.no_grad():
        others = [_score(denoiser, rows) for rows in batch.images[1:]]
    scored = [_score(denoiser, batch.images[0]), *others]
    result, slopes = _weigh(scored, reference, batch, objective, state)
    _backward(scored[:1], reference, slopes, scale)
    del scored  # the last hold of the first graph
    for image in range(1, len(batch.images)):
        # Not named, so that it is gone before the next image's.
        _backward([_score(denoiser, batch.images[image])], reference, slopes, scale, image)
    return result


def policy_concurrent(
    denoiser: Denoiser,
    policy: Policy,
    batch: Batch,
    objective: Objective,
    scale: float,
    state: ObjectiveState = FRESH,
) -> PassResult:
    """All policy graphs are kept until one backward: no pass is repeated. See `sequential`."""
    reference = _reference_one_by_one(denoiser, policy, batch, objective)
    scored = [_score(denoiser, rows) for rows in batch.images]
    result, slopes = _weigh(scored, reference, batch, objective, state)
    _backward(scored, reference, slopes, scale)
    return result


def full_concurrent(
    denoiser: Denoiser,
    policy: Policy,
    batch: Batch,
    objective: Objective,
    scale: float,
    state: ObjectiveState = FRESH,
) -> PassResult:
    """All images of B records as one batch of G B rows, reference first. See `sequential`."""
    rows = reduce(Rows.joined, batch.images)
    images = len(batch.images)
    reference = None
    if objective.needs_reference:
        with torch.no_grad(), policy.reference():
            reference = _parts(_score(denoiser, rows), images)
    scored = _parts(_score(denoiser, rows), images)
    result, slopes = _weigh(scored, reference, batch, objective, state)
    _backward(scored, reference, slopes, scale)
    return result


Schedule = Callable[
    [Denoiser, Policy, Batch, Objective, float, ObjectiveState], PassResult
]

SCHEDULES: dict[str, Schedule] = {
    "sequential": sequential,
    "policy_concurrent": policy_concurrent,
    "full_concurrent": full_concurrent,
}


def _reference_one_by_one(
    denoiser: Denoiser, policy: Policy, batch: Batch, objective: Objective
) -> list[_Scored] | None:
    if not objective.needs_reference:
        return None
    with torch.no_grad(), policy.reference():
        return [_score(denoiser, rows) for rows in batch.images]


def _parts(scored: _Scored, images: int) -> list[_Scored]:
    return [_Scored(*part) for part in zip(*(t.chunk(images) for t in scored), strict=True)]


def _weigh(
    scored: Sequence[_Scored],
    reference: Sequence[_Scored] | None,
    batch: Batch,
    objective: Objective,
    state: ObjectiveState,
) -> tuple[PassResult, Slopes]:
    """What came out, and what every image's error and change weigh in the gradient."""
    errors = _errors(scored, reference)
    losses, slopes = objective.slopes(errors, batch.labels, batch.epoch, state)
    if objective.safeguard > 0:
        chosen, rejected = slopes.policy
        held = safeguard(
            scored[0].residual, scored[1].residual, chosen, rejected, objective.safeguard
        )
        slopes = Slopes(torch.stack([chosen, held * rejected]), slopes.change)
    nothing = torch.full_like(errors.chosen, torch.nan)
    power = nothing if reference is None else torch.stack([one.power for one in reference]).mean(0)
    change = nothing if errors.change is None else errors.change.mean(0)
    logit = objective.beta_at(batch.epoch, state) * errors.margin
    return PassResult(errors, batch.labels, losses, logit, change, power), slopes


def _errors(scored: Sequence[_Scored], reference: Sequence[_Scored] | None) -> Errors:
    policy = torch.stack([one.error.detach() for one in scored])
    if reference is None:
        return Errors(policy)
    with torch.no_grad():
        change = [_change(one, other) for one, other in zip(scored, reference, strict=True)]
    return Errors(policy, torch.stack([one.error for one in reference]), torch.stack(change))


def _backward(
    scored: Sequence[_Scored],
    reference: Sequence[_Scored] | None,
    slopes: Slopes,
    scale: float,
    first: int = 0,
) -> None:
    """Backward through the graphs of images ``first``, ``first + 1``, ..."""
    outputs = [one.error for one in scored]
    weights = [slopes.policy[first + i] * scale for i in range(len(scored))]
    if slopes.change is not None and reference is not None:
        for i, one in enumerate(scored):
            outputs.append(_change(one, reference[first + i]))
            weights.append(slopes.change[first + i] * scale)
    torch.autograd.backward(outputs, weights)


def _change(policy: _Scored, reference: _Scored) -> Tensor:
    # The target cancels: residuals differ exactly by the predictions' difference.
    return _mean_square(policy.residual - reference.residual)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(1)
