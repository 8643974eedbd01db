"""Training curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CURVES = (
    ("loss/dpo", "loss", (70, 130, 220)),
    ("dpo/accuracy", "accuracy", (60, 170, 90)),
    ("dpo/reward_margin", "reward margin", (200, 120, 40)),
    ("dpo/chosen_reward", "chosen reward", (40, 150, 150)),
    ("prediction_change", "prediction change", (160, 90, 190)),
    ("rho", "rho, chosen error to the reference's", (120, 120, 60)),
)
"""What each panel is about: metric, label and colour."""
BESIDE = (
    ("dpo/val_loss", "validation", (20, 50, 110)),
    ("dpo/val_accuracy", "validation", (20, 90, 40)),
    ("dpo/val_reward_margin", "validation", (110, 60, 10)),
    ("dpo/rejected_reward", "rejected reward", (190, 70, 70)),
    ("val/prediction_change", "validation", (90, 40, 110)),
    ("val/rho", "validation", (70, 70, 30)),
)
"""What is drawn beside it, to the same scale."""
PANEL = (440, 260)
EDGE = 44
BACKGROUND, INK, GRID = (250, 250, 250), (40, 40, 40), (222, 222, 222)
SMOOTHING = 0.9


def draw_chart(rows: Sequence[Mapping[str, float]], title: str) -> Image.Image:
    """Six panels: each curve as logged, and smoothed on top; what was validated, as it is.

    Args:
        rows: metrics of one step each, with ``step``.
        title: one line above.
    """
    width, height = PANEL
    image = Image.new("RGB", (2 * width, 3 * height + EDGE), BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.text((EDGE, 14), title, INK, ImageFont.load_default(16))
    for i, curves in enumerate(zip(CURVES, BESIDE, strict=True)):
        left, top = (i % 2) * width, EDGE + (i // 2) * height
        _panel(pen, left, top, [_Curve(*curve, _points(rows, curve[0])) for curve in curves])
    return image


class _Curve(NamedTuple):
    metric: str
    label: str
    colour: tuple[int, int, int]
    points: list[tuple[float, float]]


def _points(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]


def _panel(pen: ImageDraw.ImageDraw, left: int, top: int, curves: Sequence[_Curve]) -> None:
    width, height = PANEL
    box = (left + EDGE, top + 24, left + width - 16, top + height - 28)
    font = ImageFont.load_default(12)
    pen.rectangle(box, outline=GRID)
    place: float = box[0]
    for curve in curves:
        if curve is curves[0] or curve.points:
            ink = INK if curve is curves[0] else curve.colour
            pen.text((place, top + 4), curve.label, ink, font)
            place += pen.textlength(curve.label, font) + 14
    points = [point for curve in curves for point in curve.points]
    if not points:
        pen.text((box[0] + 8, box[1] + 8), "nothing logged", INK, font)
        return
    scale = _Scale(box, points)
    for curve in curves:
        if not curve.points:
            continue
        validated = "val" in curve.metric
        steps, values = zip(*curve.points, strict=True)
        drawn = [scale.place(s, v) for s, v in curve.points]
        if validated:  # few and careful: nothing to smooth
            _line(pen, drawn, curve.colour, 1)
            for point in drawn:
                _line(pen, [point], curve.colour, 1)
            continue
        faint = tuple((c + 2 * b) // 3 for c, b in zip(curve.colour, BACKGROUND, strict=True))
        _line(pen, drawn, faint, 1)
        smooth = [scale.place(s, v) for s, v in zip(steps, _smoothed(values), strict=True)]
        _line(pen, smooth, curve.colour, 2)
    pen.text((left + 2, box[1] - 6), f"{scale.high:.3g}", INK, font)
    pen.text((left + 2, box[3] - 8), f"{scale.low:.3g}", INK, font)
    pen.text((box[0], box[3] + 6), f"step {scale.first:g}", INK, font)
    pen.text((box[2] - 40, box[3] + 6), f"{max(step for step, _ in points):g}", INK, font)


class _Scale:
    """Where steps and values lie in a panel."""

    def __init__(
        self, box: tuple[float, float, float, float], points: Sequence[tuple[float, float]]
    ) -> None:
        self._box = box
        steps, values = zip(*points, strict=True)
        self.low, self.high = min(values), max(values)
        if self.low == self.high:  # a constant is a line through the middle
            pad = abs(self.low) or 1.0
            self.low, self.high = self.low - pad, self.high + pad
        self.first = min(steps)
        self._last = max(max(steps), self.first + 1)

    def place(self, step: float, value: float) -> tuple[float, float]:
        left, top, right, bottom = self._box
        return (
            left + (step - self.first) / (self._last - self.first) * (right - left),
            bottom - (value - self.low) / (self.high - self.low) * (bottom - top),
        )


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
