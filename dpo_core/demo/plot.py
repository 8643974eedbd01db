"""Win rate against drift: what each method gains, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, EDGE, KEY = 720, 460, 60, 250
PAPER, INK, GRID = (250, 250, 250), (40, 40, 40), (222, 222, 222)
COLOURS = (
    (70, 130, 220), (60, 170, 90), (200, 120, 40), (160, 90, 190), (210, 70, 90), (90, 160, 170),
    (130, 130, 60), (110, 110, 110),
)


def plot_methods(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """One dot per trial, one colour per method, and the method's mean as a ring."""
    image = Image.new("RGB", (WIDTH + KEY, HEIGHT), PAPER)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    most = max(max((row["drift"] for row in rows), default=1.0), 1.2)
    least = min(min((row["drift"] for row in rows), default=1.0), 1.0)

    def place(drift: float, win_rate: float) -> tuple[float, float]:
        return (
            EDGE + (drift - least) / (most - least) * (WIDTH - 2 * EDGE),
            HEIGHT - EDGE - win_rate * (HEIGHT - 2 * EDGE),
        )

    for tenth in range(0, 11, 2):
        x, y = place(least, tenth / 10)
        pen.line((x, y, WIDTH - EDGE, y), fill=GRID)
        pen.text((14, y - 8), f"{10 * tenth} %", INK, font)
    for k in range(5):
        drift = least + k * (most - least) / 4
        x, y = place(drift, 0.0)
        pen.text((x - 12, y + 8), f"{drift:.2f}", INK, font)
    pen.text((EDGE, 16), "win rate against the base model", INK, font)
    pen.text((WIDTH - EDGE - 200, HEIGHT - 26), "drift (the base's own: 1)", INK, font)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for i, method in enumerate(methods):
        colour = COLOURS[i % len(COLOURS)]
        members = [row for row in rows if row["method"] == method]
        for row in members:
            x, y = place(row["drift"], row["win_rate"])
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        axes = ("drift", "win_rate")
        x, y = place(*(sum(row[axis] for row in members) / len(members) for axis in axes))
        pen.ellipse((x - 8, y - 8, x + 8, y + 8), outline=colour, width=3)
        top = EDGE + 24 * i
        pen.ellipse((WIDTH, top + 3, WIDTH + 10, top + 13), fill=colour)
        pen.text((WIDTH + 18, top), method, INK, font)
    return image
