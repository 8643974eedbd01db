"""What a round of online training is measured by, under the names TRL's Online DPO trainer logs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 32
"""Pictures are compared at this size: what counts is how they look from afar."""


def training_metrics(rows: Iterable[Mapping[str, float]], beta: float) -> dict[str, float]:
    """What a round's steps say, each a mean over them.

    ``rewards/*`` are beta times by how much the reference's error exceeds the policy's, the
    implicit reward of DPO; ``logps/*`` minus the policy's error, which stands for a log
    probability; ``objective/kl`` is mean |policy - reference|^2 over the predictions of the
    round's pairs: the divergence of one denoising step, without the weight of its noise level
    (Wallace et al. 2023, Diffusion-DPO); ``objective/non_score_reward`` is beta times that.

    Args:
        rows: metrics of the round's steps.
        beta: of the objective; it multiplies errors directly.
    """
    steps = list(rows)

    def mean(name: str) -> float:
        return _mean(row[name] for row in steps if math.isfinite(row.get(name, math.nan)))

    found = {
        "rewards/chosen": beta * mean("dpo/chosen_reward"),
        "rewards/rejected": beta * mean("dpo/rejected_reward"),
        "rewards/margins": beta * mean("dpo/reward_margin"),
        "rewards/accuracies": mean("dpo/accuracy"),
        "logps/chosen": -mean("errors/chosen"),
        "logps/rejected": -mean("errors/rejected"),
        "objective/kl": mean("kl"),
        "objective/non_score_reward": beta * mean("kl"),
        "beta": beta,
    }
    return _finite(found)


def score_metrics(
    scores: Sequence[Sequence[float]],
    pairs: Sequence[Sequence[tuple[int, int]]],
    non_score_reward: float = math.nan,
) -> dict[str, float]:
    """What a judge says of a round's pictures.

    Args:
        scores: of every picture, by prompt.
        pairs: of every prompt the numbers of the chosen and the rejected picture.
        non_score_reward: what keeping to the reference costs; NaN where it is not known.

    Returns:
        ``objective/scores``, the mean over all pictures; ``objective/scores_margin``, the mean
        over pairs of chosen minus rejected; ``objective/rlhf_reward``, scores minus
        ``non_score_reward``. What is not known is left out.
    """
    mean = _mean(score for group in scores for score in group)
    margins = [
        group[i] - group[j]
        for group, found in zip(scores, pairs, strict=True)
        for i, j in found
    ]
    return _finite({
        "objective/scores": mean,
        "objective/scores_margin": _mean(margins),
        "objective/rlhf_reward": mean - non_score_reward,
    })


def diversity(groups: Sequence[Sequence[NDArray[np.uint8]]]) -> float:
    """How different the pictures of a prompt are from each other, over all prompts.

    The root mean square difference of every two pictures of a prompt, reduced to ``SIDE`` by
    ``SIDE``, in 0..1; 0 where all are alike. It falls where a policy collapses to one picture.

    Args:
        groups: by prompt, pictures of shape (height, width, 3).
    """
    found = []
    for group in groups:
        small = [reduced(picture) for picture in group]
        found += [
            float(np.sqrt(np.mean((one - other) ** 2)))
            for i, one in enumerate(small)
            for other in small[i + 1 :]
        ]
    return _mean(found)


def reduced(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Means over a grid of ``SIDE`` by ``SIDE``, or fewer for smaller pictures; in 0..1."""
    height, width = picture.shape[:2]
    rows = np.arange(min(SIDE, height)) * height // min(SIDE, height)
    columns = np.arange(min(SIDE, width)) * width // min(SIDE, width)
    sums = np.add.reduceat(picture.astype(np.float64), rows, axis=0)
    sums = np.add.reduceat(sums, columns, axis=1)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    return sums / counts[..., None] / 255


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
