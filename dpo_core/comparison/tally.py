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
LEVEL = 0.05
"""How often two sides that are equal may be told apart, by chance."""
LEAST_DECIDED = 6
"""So many of one mind are the fewest that a sign test at `LEVEL` tells from chance."""
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
    def decided(self) -> int:
        """Couples without ties."""
        return self.a + self.b

    @property
    def trials(self) -> int:
        return self.a + self.b + self.ties + self.identical

    @property
    def share(self) -> Share | None:
        """How often B is preferred to A, a tie counting one half; None before the first trial."""
        if not self.trials:
            return None
        return wilson(self.b + (self.ties + self.identical) / 2, self.trials, Z)


def sign_test(wins: int, losses: int) -> float:
    """How likely a fair coin is to fall at least so unevenly: two-sided and exact.

    The sign test (Dixon and Mood 1946, J. Am. Stat. Assoc. 41); ties are left out of it.
    """
    tosses = wins + losses
    ways, tail = 1, 0
    # From all tosses alike, which comes about in one way, to as uneven as these are.
    for heads in range(tosses, max(wins, losses) - 1, -1):
        tail += ways
        ways = ways * heads // (tosses - heads + 1)
    return min(1.0, 2 * tail / 2**tosses)


def more_needed(tally: Tally) -> int | None:
    """About how many more comparisons tell the sides apart, if wins and ties go on as they do.

    Returns:
        0 if they are told apart already; None if both won as often, which no number tells apart,
        and if more than `MOST_NEEDED` are.
    """
    decided, ahead = tally.decided, max(tally.a, tally.b)
    if 2 * ahead == decided:
        return None
    if sign_test(tally.a, tally.b) <= LEVEL:
        return 0
    # The exact test never asks for fewer than the normal one: distance > z / (2 sqrt(n)).
    least = math.floor((Z / (2 * (ahead / decided - 0.5))) ** 2)
    most = decided + math.floor(MOST_NEEDED * decided / tally.trials)
    for number in range(max(decided + 1, LEAST_DECIDED, least), most + 1):
        wins = number * ahead // decided
        if sign_test(wins, number - wins) <= LEVEL:
            return math.ceil((number - decided) * tally.trials / decided)
    return None


def verdict(tally: Tally, sides: Sides) -> str:
    """What a tally allows to say, in one sentence, and no more."""
    if not tally.trials:
        return "Nothing has been judged yet."
    if tally.a == tally.b:
        none = f"o difference between {sides.a.name} and {sides.b.name} is seen so far."
        return f"Cannot tell yet: n{none}" if tally.decided < LEAST_DECIDED else f"N{none}"
    needed = more_needed(tally)
    if needed == 0:
        return f"{(sides.b if tally.b > tally.a else sides.a).name} is preferred."
    if needed is None:
        return (
            f"Cannot tell yet: the difference is so small that more than {MOST_NEEDED} further "
            "comparisons would be needed."
        )
    return (
        f"Cannot tell yet: about {counted(needed, 'more comparison')} would, if it goes on like "
        "this."
    )
