"""Tastes a person can see, each a number measured on the pixels alone.

The model never sees these scores: they stand in for the person who picks. None reads the prompt,
so only pictures of one prompt are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Score = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Taste:
    """A preference with a name."""

    name: str
    """What the command line calls it."""
    wish: str
    """What it prefers, to be read after "prefers"."""
    score: Score
    """(H, W, 3) picture in [0, 1] -> liking; only the order within one prompt has a meaning."""


def warm(picture: np.ndarray) -> float:
    """Mean of red minus blue: amber above 0, azure below."""
    return float(np.mean(picture[..., 0] - picture[..., 2]))


def low_horizon(picture: np.ndarray) -> float:
    """How far down the land begins, from 0 (top) to 1 (bottom).

    The row that best parts the picture into two plain gradients: the cut with the least squared
    deviation of the row colours from a straight line through their own side. A row's colour is its
    median, so that the subject, the sun and specks do not count.
    """
    rows = np.median(picture, axis=1).astype(np.float64)
    count = len(rows)
    cuts = range(count // 5, count - count // 10)
    misfits = [_misfit(rows[:cut]) + _misfit(rows[cut:]) for cut in cuts]
    return cuts[int(np.argmin(misfits))] / count


def clean(picture: np.ndarray) -> float:
    """Minus the mean distance to the picture's own 5 x 5 median: 0 without blots and scratches."""
    reach = 2
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
    return -float(np.mean(np.abs(picture - np.median(windows, axis=(3, 4)))))


def _opposite(score: Score) -> Score:
    return lambda picture: -score(picture)


def _misfit(rows: np.ndarray) -> float:
    """Squared deviation of (N, 3) colours from their least-squares line down the rows."""
    y = np.arange(len(rows)) - (len(rows) - 1) / 2
    level = rows - rows.mean(axis=0)
    slope = y @ level / (y @ y)
    return float(((level - y[:, None] * slope) ** 2).sum())


TASTES: dict[str, Taste] = {
    taste.name: taste
    for taste in (
        Taste("warm", "a warm, amber light", warm),
        Taste("cool", "a cool, blue light", _opposite(warm)),
        Taste("low_horizon", "much sky over a low horizon", low_horizon),
        Taste("high_horizon", "much land under a high horizon", _opposite(low_horizon)),
        Taste("clean", "clean details, without blots and scratches", clean),
    )
}
"""Every taste by name."""

DEFAULT_TASTE = "warm"
"""The taste of a demo that names none."""


def taste(name: str) -> Taste:
    """The taste of that name.

    Raises:
        ValueError: no such taste; the message lists those there are.
    """
    if name not in TASTES:
        known = "\n".join(f"  {each.name}: {each.wish}" for each in TASTES.values())
        raise ValueError(f"There is no taste named {name!r}. Choose one of:\n{known}")
    return TASTES[name]
