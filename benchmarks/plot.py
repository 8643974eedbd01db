"""Curves over a logarithmic axis, a panel for each thing that grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, EDGE = 360, 260, 56
PAPER, INK, GRID = (250, 250, 250), (40, 40, 40), (222, 222, 222)
COLOURS = ((70, 130, 220), (200, 120, 40))


class Curve(NamedTuple):
    """A name with its unit, and a value above 0 at each place of the panel."""

    name: str
    values: tuple[float, ...]


class Panel(NamedTuple):
    """Curves over one thing that grows, each relative to its first value."""

    title: str
    places: tuple[float, ...]
    curves: tuple[Curve, ...]


def draw(panels: Sequence[Panel]) -> Image.Image:
    """The panels side by side, two in a row."""
    rows = math.ceil(len(panels) / 2)
    image = Image.new("RGB", (2 * WIDTH, rows * HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for number, panel in enumerate(panels):
        _panel(pen, font, panel, number % 2 * WIDTH, number // 2 * HEIGHT)
    return image


def _panel(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, panel: Panel, left: int, top: int
) -> None:
    grown = [[value / curve.values[0] for value in curve.values] for curve in panel.curves]
    highest = max(2.0, *(max(values) for values in grown))
    lowest = min(1.0, *(min(values) for values in grown))
    first, last = math.log(panel.places[0]), math.log(panel.places[-1])
    low, high = math.log(lowest), math.log(highest)

    def at(place: float, value: float) -> tuple[float, float]:
        across = (math.log(place) - first) / (last - first)
        up = (math.log(value) - low) / (high - low)
        return (
            left + EDGE + across * (WIDTH - 2 * EDGE),
            top + HEIGHT - EDGE - up * (HEIGHT - 2 * EDGE),
        )

    for power in range(math.ceil(math.log2(lowest)), math.floor(math.log2(highest)) + 1):
        x, y = at(panel.places[0], 2.0**power)
        pen.line((x, y, left + WIDTH - EDGE, y), fill=GRID)
        pen.text((x - 8, y), f"{2.0**power:g} x", INK, font, anchor="rm")
    for place in panel.places:
        x, _ = at(place, 1.0)
        pen.text((x, top + HEIGHT - EDGE + 8), f"{place:g}", INK, font, anchor="ma")
    pen.text((left + WIDTH / 2, top + HEIGHT - EDGE + 26), panel.title, INK, font, anchor="ma")
    for number, (curve, values) in enumerate(zip(panel.curves, grown, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        points = [at(*point) for point in zip(panel.places, values, strict=True)]
        pen.line(points, fill=colour, width=2)
        for x, y in points:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        start = f"{curve.name}, at first {curve.values[0]:.3g}"
        pen.text((left + EDGE, top + 10 + 16 * number), start, colour, font)
