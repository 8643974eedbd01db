"""Reward against drift: what each method gains, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PANEL_WIDTH, PANEL_HEIGHT, EDGE, KEY, LINE = 460, 400, 52, 270, 22
PAPER, INK, GRID, FAINT = (250, 250, 250), (40, 40, 40), (222, 222, 222), (120, 120, 120)
COLOURS = (
    (70, 130, 220), (60, 170, 90), (200, 120, 40), (160, 90, 190), (210, 70, 90), (70, 160, 170),
    (130, 130, 60), (110, 110, 110), (30, 70, 140), (20, 110, 60), (130, 70, 10), (100, 40, 120),
    (140, 30, 50), (20, 100, 110), (80, 80, 30), (60, 60, 60), (230, 110, 150),
)
Row = dict[str, Any]


def plot_methods(rows: Sequence[Row]) -> Image.Image:
    """A panel for each number of pairs (down) and share of wrong picks (across).

    A numbered disc is a method's mean, the dots of its colour are its trials. All panels have the
    same axes; drift is on a logarithmic one.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    across = sorted({row["flipped"] for row in rows})
    down = sorted({row["pairs"] for row in rows}, reverse=True)
    height = max(PANEL_HEIGHT * len(down), 2 * EDGE + LINE * len(methods))
    image = Image.new("RGB", (PANEL_WIDTH * len(across) + KEY, height), PAPER)
    axes = _Axes(rows)
    for y, pairs in enumerate(down):
        for x, flipped in enumerate(across):
            members = [row for row in rows if (row["pairs"], row["flipped"]) == (pairs, flipped)]
            panel = _Panel(image, axes, x * PANEL_WIDTH, y * PANEL_HEIGHT)
            panel.frame(f"{pairs} pairs, {100 * flipped:.0f} % of the picks wrong")
            panel.dots(members, methods)
    _key(image, methods, PANEL_WIDTH * len(across))
    return image


class _Axes:
    """What every panel shares: the range of drift and of reward."""

    def __init__(self, rows: Sequence[Row]) -> None:
        drifts = [row["drift"] for row in rows] + [0.9, 1.2]
        rewards = [row["reward"] for row in rows] + [0.0, 1.0]
        self.drift = math.log(min(drifts)) - 0.02, math.log(max(drifts)) + 0.02
        self.reward = min(rewards) - 0.1, max(rewards) + 0.1

    def place(self, drift: float, reward: float) -> tuple[float, float]:
        """Where in a panel, from 0 to 1: how far right, and how far up."""
        (left, right), (low, high) = self.drift, self.reward
        return (math.log(drift) - left) / (right - left), (reward - low) / (high - low)


class _Panel:
    def __init__(self, image: Image.Image, axes: _Axes, left: int, top: int) -> None:
        self._pen, self._font, self._axes = ImageDraw.Draw(image), ImageFont.load_default(13), axes
        self._left, self._bottom = left + EDGE, top + PANEL_HEIGHT - EDGE
        self._width, self._height = PANEL_WIDTH - EDGE - 16, PANEL_HEIGHT - 2 * EDGE

    def frame(self, title: str) -> None:
        pen, font = self._pen, self._font
        low, high = self._axes.reward
        for reward in _ticks(low, high):
            left, y = self._at(math.exp(self._axes.drift[0]), reward)
            pen.line((left, y, left + self._width, y), fill=FAINT if reward == 0 else GRID)
            pen.text((left - 36, y - 8), f"{reward:.1f}", INK, font)
        first, last = self._axes.drift
        for k in range(4):
            drift = math.exp(first + k * (last - first) / 3)
            x, _ = self._at(drift, 0.0)
            pen.text((x - 14, self._bottom + 6), f"{drift:.2f}", INK, font)
        x, _ = self._at(1.0, 0.0)
        pen.line((x, self._bottom - self._height, x, self._bottom), fill=FAINT)
        pen.text((self._left, self._bottom - self._height - 40), title, INK, font)
        pen.text((self._left - 40, self._bottom - self._height - 20), "reward", FAINT, font)
        right = self._left + self._width
        pen.text((right, self._bottom + 24), "drift (base: 1)", FAINT, font, anchor="ra")

    def dots(self, rows: Sequence[Row], methods: Sequence[str]) -> None:
        pen = self._pen
        for i, method in enumerate(methods):
            members = [row for row in rows if row["method"] == method]
            colour = COLOURS[i % len(COLOURS)]
            for row in members:
                x, y = self._at(row["drift"], row["reward"])
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
            if members:
                drift, reward = (
                    sum(row[axis] for row in members) / len(members) for axis in ("drift", "reward")
                )
                _disc(pen, *self._at(drift, reward), i)

    def _at(self, drift: float, reward: float) -> tuple[float, float]:
        across, up = self._axes.place(drift, reward)
        return self._left + across * self._width, self._bottom - up * self._height


def _key(image: Image.Image, methods: Sequence[str], left: int) -> None:
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for i, method in enumerate(methods):
        top = EDGE + LINE * i
        _disc(pen, left + 20, top + 8, i)
        pen.text((left + 36, top), method, INK, font)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, number: int) -> None:
    pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=COLOURS[number % len(COLOURS)], outline=PAPER)
    pen.text((x, y), str(number + 1), PAPER, ImageFont.load_default(11), anchor="mm")


def _ticks(low: float, high: float) -> list[float]:
    """Multiples of a half, or of a whole number in a long range."""
    step = 0.5 if high - low < 4 else math.ceil((high - low) / 8)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
