from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from dpo_core.evaluation.chart import BACKGROUND, BESIDE, CURVES, EDGE, PANEL, draw_chart

Row = dict[str, float]


def rows(values: list[float], names: list[str] | None = None) -> list[Row]:
    """One row a step, every curve with the same values."""
    curves = [name for name, _, _ in CURVES] if names is None else names
    return [{"step": i + 1.0} | dict.fromkeys(curves, value) for i, value in enumerate(values)]


def panel(image: Image.Image, curve: int) -> np.ndarray:
    """Pixels inside a panel's frame, (height, width, 3)."""
    width, height = PANEL
    left, top = curve % 2 * width, EDGE + curve // 2 * height
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels[top + 24 + 1 : top + height - 28, left + EDGE + 1 : left + width - 16]


def curve_pixels(image: Image.Image, curve: int) -> np.ndarray:
    """True where a pixel has the smoothed curve's own colour."""
    return (panel(image, curve) == np.array(CURVES[curve][2])).all(-1)


def height_of(image: Image.Image, curve: int, column: int) -> float:
    """Where the curve crosses a column of the panel: 0 at the bottom, 1 at the top."""
    mask = curve_pixels(image, curve)
    (where,) = np.nonzero(mask[:, column])
    assert where.size, "no curve in this column"
    return 1 - where.mean() / (mask.shape[0] - 1)


def test_six_panels_of_curves_in_their_own_colours() -> None:
    image = draw_chart(rows([0.0, 1.0, 0.5, 0.7]), "run")
    assert image.size == (2 * PANEL[0], 3 * PANEL[1] + EDGE)
    for curve in range(6):
        mask = curve_pixels(image, curve)
        assert mask.any(axis=0).all(), "the curve goes from edge to edge"
        others = [colour for i, (_, _, colour) in enumerate(CURVES) if i != curve]
        assert not any((panel(image, curve) == np.array(colour)).all(-1).any() for colour in others)


def test_the_title_is_written() -> None:
    def written(title: str) -> bool:
        top = np.asarray(draw_chart([], title))[:EDGE]
        return bool((top != np.array(BACKGROUND)).any())

    assert written("run abc") and not written("")


def test_no_row_says_so_in_every_panel_and_draws_no_curve() -> None:
    image = draw_chart([], "run")
    for curve in range(6):
        assert not curve_pixels(image, curve).any()
        assert (panel(image, curve).sum(-1) < 300).any(), "dark letters"


def test_a_metric_that_was_not_logged_leaves_only_its_own_panel_empty() -> None:
    image = draw_chart(rows([0.3, 0.6], names=["dpo/accuracy"]), "run")
    assert [bool(curve_pixels(image, curve).any()) for curve in range(6)] == [
        False, True, False, False, False, False,
    ]


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e-12, 1e12])
def test_one_row_is_a_dot_half_way_up(value: float) -> None:
    image = draw_chart(rows([value]), "run")
    for curve in range(6):
        where = np.argwhere(curve_pixels(image, curve))
        assert 4 <= len(where) <= 30, "a small dot"
        assert where[:, 0].mean() / panel(image, curve).shape[0] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e-12, 1e12])
def test_a_constant_is_a_line_through_the_middle(value: float) -> None:
    image = draw_chart(rows([value] * 9), "run")
    for curve in range(6):
        mask = curve_pixels(image, curve)
        assert mask.any(axis=0).all()
        assert np.ptp(np.nonzero(mask)[0]) <= 2, "level"
        assert height_of(image, curve, 100) == pytest.approx(0.5, abs=0.03)


def test_a_rising_curve_rises_from_the_bottom() -> None:
    image = draw_chart(rows([i / 99 for i in range(100)]), "run")
    width = panel(image, 0).shape[1]
    heights = [height_of(image, 0, column) for column in (2, width // 2, width - 3)]
    assert heights[0] == pytest.approx(0, abs=0.03)
    # An average with decay .9 lags a ramp by .9 / .1 = 9 steps.
    assert heights[1] == pytest.approx(0.5 - 9 / 99, abs=0.03)
    assert heights[2] == pytest.approx(1 - 9 / 99, abs=0.03)


def test_the_smoothed_curve_starts_at_the_first_value() -> None:
    image = draw_chart(rows([1.0] + [0.0] * 60), "run")
    assert height_of(image, 0, 0) > 0.9
    assert height_of(image, 0, panel(image, 0).shape[1] - 3) < 0.05


def test_what_was_logged_is_seen_behind_the_smoothed_curve() -> None:
    image = draw_chart(rows([0.0, 1.0] * 30), "run")
    faint = [(c + 2 * b) // 3 for c, b in zip(CURVES[0][2], BACKGROUND, strict=True)]
    (heights, _) = np.nonzero((panel(image, 0) == np.array(faint)).all(-1))
    size = panel(image, 0).shape[0]
    assert heights.min() < 0.05 * size and heights.max() > 0.95 * size


def test_a_resumed_run_begins_at_its_own_first_step() -> None:
    late = [row | {"step": row["step"] + 500} for row in rows([0.5] * 3)]
    image = draw_chart(late, "run")
    assert curve_pixels(image, 0).any(axis=0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_without_a_number_leaves_the_others_drawn(bad: float) -> None:
    good = rows([i / 9 for i in range(10)])
    spoilt = [*good[:4], good[4] | dict.fromkeys((name for name, _, _ in CURVES), bad), *good[5:]]
    left_out = [*good[:4], *good[5:]]
    assert np.array_equal(np.asarray(draw_chart(spoilt, "")), np.asarray(draw_chart(left_out, "")))


def test_only_steps_without_a_number_are_nothing_logged() -> None:
    image = draw_chart(rows([math.nan] * 3), "run")
    assert not any(curve_pixels(image, curve).any() for curve in range(6))


def test_validation_and_the_rejected_reward_share_the_panel_and_its_scale() -> None:
    values = [i / 99 for i in range(100)]
    alone = draw_chart(rows(values), "run")
    both = [
        row | {name: 2.0 for name, _, _ in BESIDE} if i % 25 == 0 else row
        for i, row in enumerate(rows(values))
    ]
    image = draw_chart(both, "run")
    for curve, (_, _, colour) in enumerate(BESIDE):
        beside = (panel(image, curve) == np.array(colour)).all(-1)
        heights = np.nonzero(beside)[0]
        assert heights.size and heights.max() < 6, "the highest of all, at the top edge"
        # Half as high as before: the scale now ends at 2.
        assert height_of(image, curve, 200) == pytest.approx(
            height_of(alone, curve, 200) / 2, abs=0.03
        )


def test_a_run_that_was_only_validated_is_drawn_too() -> None:
    image = draw_chart([{"step": 0.0, "dpo/val_accuracy": 0.5}], "run")
    assert (panel(image, 1) == np.array(BESIDE[1][2])).all(-1).any()
