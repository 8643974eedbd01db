"""Which earlier pairs a round trains on again, beside its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def replayed(new: int, earlier: Sequence[T], share: float, seed: int) -> list[T]:
    """Pairs of earlier rounds to train on with a round's own, drawn without bias.

    Every epoch visits each pair once, so the share of pairs is the share of training.

    Args:
        new: pairs of the round itself.
        earlier: those of the rounds before, in any order that is always the same.
        share: of all pairs of the round that are to be earlier ones, 0 to below 1.
        seed: of the draw; the same arguments give the same pairs.

    Raises:
        ValueError: a share out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"replay is {share:g}: use 0 to below 1, 0.5 is usual.")
    # A round without pairs of its own learns nothing new: there is nothing to mix replay into.
    wanted = min(len(earlier), round(new * share / (1 - share)))
    chosen = random.Random(f"replay {seed}").sample(range(len(earlier)), wanted)
    return [earlier[i] for i in sorted(chosen)]
