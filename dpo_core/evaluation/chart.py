"""Training curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

CURVES = (
    ("loss/dpo", "loss", (70, 130, 220)),
    ("dpo/accuracy", "accuracy", (60, 170, 90)),
    ("dpo/reward_margin", "reward margin", (200, 120, 40)),
    ("prediction_change", "prediction change", (160, 90, 190)),
)
PANEL = (440, 260)
EDGE = 44
BACKGROUND, INK, GRID = (250, 250, 250), (40, 40, 40), (222, 222, 222)
SMOOTHING = 0.9


def draw_chart(rows: Sequence[Mapping[str, float]], title: str) -> Image.Image:
    """Four panels: each curve as logged, and smoothed on top.

    Args:
        rows: metrics of one step each, with ``step``.
        title: one line above.
    """
    width, height = PANEL
    image = Image.new("RGB", (2 * width, 2 * height + EDGE), BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.text((EDGE, 14), title, INK, ImageFont.load_default(16))
    for i, (name, label, colour) in enumerate(CURVES):
        left, top = (i % 2) * width, EDGE + (i // 2) * height
        points = [
            (row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))
        ]
        _panel(pen, left, top, label, points, colour)
    return image


def _panel(
    pen: ImageDraw.ImageDraw,
    left: int,
    top: int,
    label: str,
    points: Sequence[tuple[float, float]],
    colour: tuple[int, int, int],
) -> None:
    width, height = PANEL
    box = (left + EDGE, top + 24, left + width - 16, top + height - 28)
    font = ImageFont.load_default(12)
    pen.rectangle(box, outline=GRID)
    pen.text((box[0], top + 4), label, INK, font)
    if not points:
        pen.text((box[0] + 8, box[1] + 8), "nothing logged", INK, font)
        return
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    if low == high:  # a constant is a line through the middle
        pad = abs(low) or 1.0
        low, high = low - pad, high + pad
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def place(step: float, value: float) -> tuple[float, float]:
        return (
            box[0] + (step - first) / (last - first) * (box[2] - box[0]),
            box[3] - (value - low) / (high - low) * (box[3] - box[1]),
        )

    faint = tuple((c + 2 * b) // 3 for c, b in zip(colour, BACKGROUND, strict=True))
    _line(pen, [place(s, v) for s, v in points], faint, 1)
    _line(pen, [place(s, v) for s, v in zip(steps, _smoothed(values), strict=True)], colour, 2)
    pen.text((left + 2, box[1] - 6), f"{high:.3g}", INK, font)
    pen.text((left + 2, box[3] - 8), f"{low:.3g}", INK, font)
    pen.text((box[0], box[3] + 6), f"step {first:g}", INK, font)
    pen.text((box[2] - 40, box[3] + 6), f"{steps[-1]:g}", INK, font)


def _line(
    pen: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float]],
    colour: tuple[int, ...],
    width: int,
) -> None:
    if len(points) == 1:
        (x, y), = points
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    else:
        pen.line(points, fill=colour, width=width)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average without the bias towards its first value."""
    smooth, weight, result = 0.0, 0.0, []
    for value in values:
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        result.append(smooth / weight)
    return result
