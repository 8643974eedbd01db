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

An objective that compares with no reference runs no reference pass, and neither does a batch
whose reference errors are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from .reference_cache import ReferenceCache
from .transfer import sent


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
    """Of R images under D draws each: errors (R,), residuals (R, D, ...), powers (R,)."""

    error: Tensor
    residual: Tensor
    power: Tensor


class _Reference(NamedTuple):
    """Of G images of B records.

    Attributes:
        error: shape (G, B).
        residuals: of every image; None where only the errors were kept.
        power: mean over the images, shape (B,); None likewise.
    """

    error: Tensor
    residuals: Sequence[Tensor] | None = None
    power: Tensor | None = None


def _score(denoiser: Denoiser, rows: Rows, draws: int) -> _Scored:
    residual, power = denoiser.predict(rows)
    # An image's error is the mean over its draws: to everything after, they are one more dimension.
    residual = residual.unflatten(0, (-1, draws))
    return _Scored(_mean_square(residual), residual, power.unflatten(0, (-1, draws)).mean(1))


def sequential(
    denoiser: Denoiser,
    policy: Policy,
    batch: Batch,
    objective: Objective,
    scale: float,
    state: ObjectiveState = FRESH,
    cache: ReferenceCache | None = None,
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
        cache: reference errors known already; those computed are added.
    """
    reference = _reference(denoiser, policy, batch, objective, cache)
    with torch.no_grad():
        others = _one_by_one(denoiser, batch, range(1, len(batch.images)))
    scored = [*_one_by_one(denoiser, batch, range(1)), *others]
    result, slopes = _weigh(scored, reference, batch, objective, state)
    _backward(scored[:1], reference, slopes, scale)
    del scored  # the last hold of the first graph
    for image in range(1, len(batch.images)):
        # Not named, so that it is gone before the next image's.
        _backward(_one_by_one(denoiser, batch, [image]), reference, slopes, scale, image)
    return result


def policy_concurrent(
    denoiser: Denoiser,
    policy: Policy,
    batch: Batch,
    objective: Objective,
    scale: float,
    state: ObjectiveState = FRESH,
    cache: ReferenceCache | None = None,
) -> PassResult:
    """All policy graphs are kept until one backward: no pass is repeated. See `sequential`."""
    reference = _reference(denoiser, policy, batch, objective, cache)
    scored = _one_by_one(denoiser, batch, range(len(batch.images)))
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
    cache: ReferenceCache | None = None,
) -> PassResult:
    """All images of B records as one batch of G B rows, reference first. See `sequential`."""
    reference = _reference(denoiser, policy, batch, objective, cache, together=True)
    scored = _together(denoiser, batch)
    result, slopes = _weigh(scored, reference, batch, objective, state)
    _backward(scored, reference, slopes, scale)
    return result


Schedule = Callable[
    [Denoiser, Policy, Batch, Objective, float, ObjectiveState, ReferenceCache | None],
    PassResult,
]

SCHEDULES: dict[str, Schedule] = {
    "sequential": sequential,
    "policy_concurrent": policy_concurrent,
    "full_concurrent": full_concurrent,
}
AUTO = "auto"
"""Leaves the choice to the host, which knows what memory there is."""


@torch.no_grad()
def measure(
    denoiser: Denoiser,
    policy: Policy,
    batch: Batch,
    objective: Objective,
    state: ObjectiveState = FRESH,
    together: bool = False,
) -> PassResult:
    """What a batch would give, without learning from it; the reference is asked in any case.

    Args:
        together: all images in one call.
    """
    reference = _computed_reference(denoiser, policy, batch, together)
    images = range(len(batch.images))
    scored = _together(denoiser, batch) if together else _one_by_one(denoiser, batch, images)
    errors = _errors(scored, reference)
    losses = objective(errors, batch.labels, batch.epoch, state)
    logit = objective.beta_at(batch.epoch, state) * errors.margin
    assert errors.change is not None and reference.power is not None
    return PassResult(errors, batch.labels, losses, logit, errors.change.mean(0), reference.power)


def _reference(
    denoiser: Denoiser,
    policy: Policy,
    batch: Batch,
    objective: Objective,
    cache: ReferenceCache | None,
    together: bool = False,
) -> _Reference | None:
    if not objective.needs_reference:
        return None
    if cache is not None and (known := cache.known(batch)) is not None:
        return _Reference(known)
    reference = _computed_reference(denoiser, policy, batch, together)
    if cache is not None:
        cache.learn(batch, reference.error)
    return reference


def _computed_reference(
    denoiser: Denoiser, policy: Policy, batch: Batch, together: bool
) -> _Reference:
    with torch.no_grad(), policy.reference():
        images = range(len(batch.images))
        scored = _together(denoiser, batch) if together else _one_by_one(denoiser, batch, images)
    error = torch.stack([one.error for one in scored])
    power = torch.stack([one.power for one in scored]).mean(0)
    return _Reference(error, [one.residual for one in scored], power)


def _one_by_one(denoiser: Denoiser, batch: Batch, images: Iterable[int]) -> list[_Scored]:
    return [_score(denoiser, batch.images[image], batch.draws) for image in images]


def _together(denoiser: Denoiser, batch: Batch) -> list[_Scored]:
    """All images in one call."""
    scored = _score(denoiser, reduce(Rows.joined, batch.images), batch.draws)
    parts = (tensor.chunk(len(batch.images)) for tensor in scored)
    return [_Scored(*part) for part in zip(*parts, strict=True)]


def _weigh(
    scored: Sequence[_Scored],
    reference: _Reference | None,
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
    power = nothing if reference is None or reference.power is None else reference.power
    change = nothing if errors.change is None else errors.change.mean(0)
    logit = objective.beta_at(batch.epoch, state) * errors.margin
    return PassResult(errors, batch.labels, losses, logit, change, power), slopes


def _errors(scored: Sequence[_Scored], reference: _Reference | None) -> Errors:
    policy = torch.stack([one.error.detach() for one in scored])
    if reference is None:
        return Errors(policy)
    known = sent(reference.error.to(policy.dtype), policy.device)
    if reference.residuals is None:
        return Errors(policy, known)
    with torch.no_grad():
        change = [
            _change(one, residual)
            for one, residual in zip(scored, reference.residuals, strict=True)
        ]
    return Errors(policy, known, torch.stack(change))


def _backward(
    scored: Sequence[_Scored],
    reference: _Reference | None,
    slopes: Slopes,
    scale: float,
    first: int = 0,
) -> None:
    """Backward through the graphs of images ``first``, ``first + 1``, ..."""
    outputs = [one.error for one in scored]
    weights = [slopes.policy[first + i] * scale for i in range(len(scored))]
    if slopes.change is not None and reference is not None and reference.residuals is not None:
        for i, one in enumerate(scored):
            outputs.append(_change(one, reference.residuals[first + i]))
            weights.append(slopes.change[first + i] * scale)
    torch.autograd.backward(outputs, weights)


def _change(policy: _Scored, reference_residual: Tensor) -> Tensor:
    # The target cancels: residuals differ exactly by the predictions' difference.
    return _mean_square(policy.residual - reference_residual)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(1)
