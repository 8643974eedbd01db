"""What a contest found, as a picture: each measure against the number of judged pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .contest_table import by_arm, by_size, win_rate
from .plot import COLOURS, FAINT, GRID, INK, PAPER
from .trial_file import Row

PANEL_WIDTH, PANEL_HEIGHT, EDGE, KEY = 340, 300, 48, 36
APART = 14
"""Pixels between the arms of one size, so that none hides another."""


class _Measure(NamedTuple):
    """What a panel shows.

    Attributes:
        title: above it.
        of: its value for one or more results.
        base: what the base model itself would have.
    """

    title: str
    of: Callable[[Sequence[Row]], float]
    base: float


def _mean(name: str) -> Callable[[Sequence[Row]], float]:
    return lambda rows: statistics.mean(row[name] for row in rows)


MEASURES = (
    _Measure("win rate against the base", lambda rows: win_rate(rows).value, 0.5),
    _Measure("reward (standard deviations)", _mean("reward"), 0.0),
    _Measure("drift (the base's own pictures: 1)", _mean("drift"), 1.0),
)


def plot_contest(rows: Sequence[Row]) -> Image.Image:
    """A panel for each measure; a line joins an arm's results over all seeds, a dot is one seed.

    Bars at the win rate are Wilson's 95 % interval, bars elsewhere the standard error over seeds.
    """
    arms, width = list(by_arm(rows)), PANEL_WIDTH * len(MEASURES)
    image = Image.new("RGB", (width, PANEL_HEIGHT + KEY), PAPER)
    for i, measure in enumerate(MEASURES):
        panel = _Panel(image, rows, measure, i * PANEL_WIDTH)
        panel.frame()
        for number, arm in enumerate(arms):
            panel.draw(by_arm(rows)[arm], COLOURS[number % len(COLOURS)], number, len(arms))
    _key(image, arms)
    return image


class _Panel:
    def __init__(
        self, image: Image.Image, rows: Sequence[Row], measure: _Measure, left: int
    ) -> None:
        self._pen, self._font = ImageDraw.Draw(image), ImageFont.load_default(13)
        self._measure, self._sizes = measure, list(by_size(rows))
        self._left, self._right = left + EDGE, left + PANEL_WIDTH - 16
        self._top, self._bottom = EDGE, PANEL_HEIGHT - EDGE
        values = [measure.of([row]) for row in rows] + [measure.base]
        rim = 0.05 * (max(values) - min(values)) or 0.1
        self._low, self._high = min(values) - rim, max(values) + rim

    def frame(self) -> None:
        pen, font = self._pen, self._font
        pen.text((self._left, self._top - 26), self._measure.title, INK, font)
        for value in _ticks(self._low, self._high):
            y = self._height(value)
            pen.line((self._left, y, self._right, y), fill=GRID)
            pen.text((self._left - 6, y), f"{value:g}", INK, font, anchor="rm")
        y = self._height(self._measure.base)
        pen.line((self._left, y, self._right, y), fill=FAINT)
        for size in self._sizes:
            pen.text((self._across(size), self._bottom + 6), str(size), INK, font, anchor="ma")
        middle = (self._left + self._right) / 2
        pen.text((middle, self._bottom + 24), "judged pictures", FAINT, font, anchor="ma")

    def draw(
        self, rows: Sequence[Row], colour: tuple[int, int, int], number: int, of: int
    ) -> None:
        """One arm's results, the ``number``-th of so many."""
        pen, shift = self._pen, APART * (number - (of - 1) / 2)
        line = []
        for size, members in by_size(rows).items():
            x = self._across(size) + shift
            for row in members:
                y = self._height(self._measure.of([row]))
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
            low, high = self._interval(members)
            pen.line((x, self._height(low), x, self._height(high)), fill=colour)
            line.append((x, self._height(self._measure.of(members))))
        pen.line(line, fill=colour, width=2)
        for x, y in line:
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline=PAPER)

    def _interval(self, rows: Sequence[Row]) -> tuple[float, float]:
        if self._measure is MEASURES[0]:
            share = win_rate(rows)
            return share.low, share.high
        values, middle = [self._measure.of([row]) for row in rows], self._measure.of(rows)
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return middle - error, middle + error

    def _across(self, size: int) -> float:
        place = (self._sizes.index(size) + 0.5) / len(self._sizes)
        return self._left + place * (self._right - self._left)

    def _height(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._bottom - min(max(share, 0.0), 1.0) * (self._bottom - self._top)


def _key(image: Image.Image, arms: Sequence[str]) -> None:
    pen, font, x = ImageDraw.Draw(image), ImageFont.load_default(13), float(EDGE)
    for number, arm in enumerate(arms):
        colour = COLOURS[number % len(COLOURS)]
        pen.ellipse((x, PANEL_HEIGHT + 6, x + 10, PANEL_HEIGHT + 16), fill=colour)
        pen.text((x + 16, PANEL_HEIGHT + 3), arm, INK, font)
        x += 16 + pen.textlength(arm, font) + 24


def _ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers."""
    step = next(
        part * 10.0**power for power in range(-3, 6) for part in (1, 2, 5)
        if (high - low) / (part * 10.0**power) <= 8
    )
    return [round(k * step, 6) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
