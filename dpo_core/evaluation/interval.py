"""How sure a share is."""

from __future__ import annotations

import math
from typing import NamedTuple


class Share(NamedTuple):
    """A share of trials won, with its interval.

    Attributes:
        value: wins / trials, ties counting one half.
        low: lower end of the 95 % Wilson interval.
        high: its upper end.
        trials: how many there were.
    """

    value: float
    low: float
    high: float
    trials: int

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"


def wilson(wins: float, trials: int, z: float = 1.959964) -> Share:
    """Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22), honest for few trials.

    Args:
        wins: trials won, a tie counting one half.
        trials: 1 or more.
        z: standard normal quantile; the default gives 95 %.
    """
    share = wins / trials
    spread = z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return Share(share, max(0.0, centre - half), min(1.0, centre + half), trials)
