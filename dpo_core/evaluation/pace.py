"""How fast training goes, and how long it will still take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median

RECENT = 31
"""Durations of which the median is taken: a hiccup among them does not count."""


class Pace:
    """Times the reports of a training.

    Steps with a validation take longer: they are timed apart, and expected as often as they came.

    Args:
        now: a clock, in seconds; it never goes back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._before = now, now()
        self._durations: tuple[deque[float], ...] = (deque(maxlen=RECENT), deque(maxlen=RECENT))
        self._counts = [0, 0]
        self._first: float | None = None

    def take(self, validated: bool) -> None:
        """A report has come: what it took since the one before."""
        now = self._now()
        took, self._before = now - self._before, now
        if self._first is None:  # the model was loaded in it: better than nothing, for a while
            self._first = took
            return
        self._durations[validated].append(took)
        self._counts[validated] += 1

    @property
    def seconds_per_step(self) -> float | None:
        """Of recent steps without a validation; None before anything was timed."""
        plain, validated = self._durations
        known = plain or validated
        return median(known) if known else self._first

    def seconds_left(self, steps: int) -> float | None:
        """From now until so many more steps are done; None before anything was timed."""
        if (per_step := self.seconds_per_step) is None:
            return None
        plain, validated = self._counts
        if plain and validated:
            share = validated / (plain + validated)
            per_step = (1 - share) * per_step + share * median(self._durations[True])
        under_way = self._now() - self._before
        return max(0.0, steps * per_step - under_way)
