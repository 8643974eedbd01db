"""Time as ratios of one run, and memory counted exactly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dpo_core.training.live_bytes import LiveBytes

Step = Callable[[], object]


def peak_bytes(step: Step) -> int:
    """What a step needs at its peak beyond what is there before it."""
    with LiveBytes() as memory:
        step()
    return memory.peak


class Ratio(NamedTuple):
    """How many times as long one thing takes as another: median and quartiles of the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


class Times:
    """Seconds of several things that were done in turn, round after round."""

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        self._seconds = dict(seconds)

    def __getitem__(self, name: str) -> float:
        """The median."""
        return statistics.median(self._seconds[name])

    def ratio(self, name: str, base: str) -> Ratio:
        """Round by round, so that what slows the machine for a while slows both."""
        pairs = zip(self._seconds[name], self._seconds[base], strict=True)
        ratios = [one / other for one, other in pairs]
        if len(ratios) < 2:
            return Ratio(ratios[0], ratios[0], ratios[0])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(median, low, high)


def in_turn(steps: Mapping[str, Step], rounds: int, warm_up: int = 2) -> Times:
    """Times all ``steps`` once a round, forwards and backwards in turn."""
    for _ in range(warm_up):
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        names = list(steps) if number % 2 == 0 else list(reversed(steps))
        for name in names:
            began = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - began)
    return Times(seconds)


def megabytes(size: float) -> str:
    return f"{size / 2**20:.1f} MB"
