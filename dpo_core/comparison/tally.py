"""How often each side was preferred, and what that allows to say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..evaluation.interval import Share, wilson
from ..pairs.record import counted
from .couple import Sides
from .outcome import Outcome

Z = 1.959964
"""Standard normal quantile of a 95 % interval."""
MOST_NEEDED = 1000
"""A difference that needs more comparisons than that is hardly one."""


@dataclass(frozen=True)
class Tally:
    """Couples by what was said of them.

    Attributes:
        a: how often the one side was preferred.
        b: how often the other.
        ties: how often neither, identical pictures left out.
        identical: couples that came out the same: ties as well.
    """

    a: int = 0
    b: int = 0
    ties: int = 0
    identical: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], identical: int = 0) -> Tally:
        found = Counter(outcome.result for outcome in outcomes)
        return cls(found["a"], found["b"], found["tie"], identical)

    @property
    def trials(self) -> int:
        return self.a + self.b + self.ties + self.identical

    @property
    def share(self) -> Share | None:
        """How often B is preferred to A, a tie counting one half; None before the first trial."""
        if not self.trials:
            return None
        return wilson(self.b + (self.ties + self.identical) / 2, self.trials, Z)


def more_needed(share: Share) -> int | None:
    """How many more trials tell the share from one half, if it stays what it is.

    Wilson's interval is that of the score test: one half lies outside of it as soon as
    n > z^2 / (4 (share - 1/2)^2), the test's variance being that of a fair coin.

    Returns:
        0 if it is told apart already; None at exactly one half, which no number tells apart.
    """
    distance = abs(share.value - 0.5)
    if distance < 1e-9:
        return None
    needed = math.floor((Z / (2 * distance)) ** 2) + 1
    return max(0, needed - share.trials)


def verdict(tally: Tally, sides: Sides) -> str:
    """What a tally allows to say, in one sentence, and no more."""
    share = tally.share
    if share is None:
        return "Nothing has been judged yet."
    needed = more_needed(share)
    if needed is None:
        return f"No difference between {sides.a.name} and {sides.b.name} is seen so far."
    if not needed:
        return f"{(sides.b if share.value > 0.5 else sides.a).name} is preferred."
    if needed > MOST_NEEDED:
        return (
            f"Cannot tell yet: the difference is so small that more than {MOST_NEEDED} further "
            "comparisons would be needed."
        )
    return (
        f"Cannot tell yet: about {counted(needed, 'more comparison')} would, if it goes on like "
        "this."
    )
