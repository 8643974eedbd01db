from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from dpo_core.judging.judge import JudgeError, Pixels
from dpo_core.judging.measures import (
    Brightness,
    Colourfulness,
    Contrast,
    Measure,
    SaturationPenalty,
    Sharpness,
    TargetColour,
)


def flat(*colour: int, size: tuple[int, int] = (8, 6)) -> Pixels:
    return np.full((*size, 3), colour, np.uint8)


def halves(one: tuple[int, int, int], other: tuple[int, int, int]) -> Pixels:
    return np.concatenate([flat(*one), flat(*other)], axis=1)


def waves(size: int) -> Pixels:
    """The same picture at any size: fifty waves across."""
    steps = (np.arange(size) + 0.5) / size * 2 * math.pi * 50
    grey = 127.5 + 100 * np.sin(steps)[None] * np.sin(steps)[:, None]
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


def of(measure: Measure, image: Pixels) -> float:
    (score,) = measure.score([image], "a prompt that does not matter")
    return score


def test_brightness_is_mean_luma() -> None:
    assert of(Brightness(), flat(255, 255, 255)) == pytest.approx(1)
    assert of(Brightness(), flat(255, 0, 0)) == pytest.approx(0.2126)
    assert of(Brightness(), halves((0, 0, 0), (0, 255, 0))) == pytest.approx(0.7152 / 2)


def test_contrast_is_the_deviation_of_luma() -> None:
    assert of(Contrast(), flat(90, 20, 200)) == pytest.approx(0, abs=1e-6)
    assert of(Contrast(), halves((0, 0, 0), (255, 255, 255))) == pytest.approx(0.5)
    assert of(Contrast(), halves((51, 51, 51), (102, 102, 102))) == pytest.approx(0.1)


def test_colourfulness_is_that_of_hasler_and_suesstrunk() -> None:
    assert of(Colourfulness(), flat(70, 70, 70)) == 0
    # rg = +-255 and yb = 127.5 -+ 0: spread 255, mean 127.5; 255 + .3 * 127.5 = 293.25.
    both = halves((255, 0, 0), (0, 255, 0))
    assert of(Colourfulness(), both) == pytest.approx(293.25 / 109)
    # One colour has no spread; rg = 100, yb = 100 - 50: .3 * sqrt(100^2 + 50^2).
    assert of(Colourfulness(), flat(150, 50, 50)) == pytest.approx(0.3 * math.hypot(100, 50) / 109)


def test_a_target_colour_is_zero_on_it_and_less_the_further_away() -> None:
    orange = TargetColour("#FF8800")
    assert of(orange, flat(255, 136, 0)) == pytest.approx(0, abs=1e-6)
    assert 0 > of(orange, flat(250, 130, 10)) > of(orange, flat(200, 60, 60))
    assert of(orange, flat(200, 60, 60)) > of(orange, flat(0, 0, 255))
    half = of(orange, halves((255, 136, 0), (0, 0, 255)))
    assert half == pytest.approx(of(orange, flat(0, 0, 255)) / 2)


def test_distances_are_those_of_oklab() -> None:
    assert of(TargetColour("#000000"), flat(255, 255, 255)) == pytest.approx(-1, abs=1e-4)
    # A grey's lightness is the cube root of its light, ((119 / 255 + .055) / 1.055)^2.4 = .18448.
    assert of(TargetColour("#000000"), flat(119, 119, 119)) == pytest.approx(-0.5693, abs=1e-4)
    # Ottosson gives sRGB red as L .62796, a .22486, b .12585; white as 1, 0, 0.
    wanted = math.hypot(1 - 0.62796, 0.22486, 0.12585)
    assert of(TargetColour("#ffffff"), flat(255, 0, 0)) == pytest.approx(-wanted, abs=1e-4)
    blue = math.hypot(1 - 0.45201, 0.03246, 0.31153)
    assert of(TargetColour("#ffffff"), flat(0, 0, 255)) == pytest.approx(-blue, abs=1e-4)


def test_saturation_counts_above_its_limit_only() -> None:
    penalty = SaturationPenalty(0.4)
    assert of(penalty, flat(200, 150, 120)) == 0  # 80 / 255 = .31
    assert of(penalty, flat(255, 0, 0)) == pytest.approx(-0.6)
    assert of(penalty, halves((255, 0, 0), (90, 90, 90))) == pytest.approx(-0.3)
    assert of(penalty, flat(20, 0, 0)) == 0  # almost black


def test_sharpness_is_the_deviation_of_the_laplacian() -> None:
    assert of(Sharpness(), flat(90, 20, 200)) == pytest.approx(0, abs=1e-6)
    # Chequers of black and white: the Laplacian is +-4, as often + as -.
    chequers = np.indices((10, 10)).sum(axis=0) % 2 * 255
    image = np.repeat(chequers.astype(np.uint8)[..., None], 3, axis=2)
    assert of(Sharpness(), image) == pytest.approx(4)


def test_a_blurred_image_is_less_sharp() -> None:
    sharp = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    half = Image.fromarray(sharp).resize((20, 20), Image.Resampling.BOX)
    blurred = np.asarray(half.resize((40, 40), Image.Resampling.BICUBIC))
    assert of(Sharpness(), blurred) < of(Sharpness(), sharp) / 3


def test_a_picture_is_as_sharp_at_twice_the_size() -> None:
    assert of(Sharpness(), waves(1024)) == pytest.approx(of(Sharpness(), waves(512)), rel=0.05)


@pytest.mark.parametrize(
    "measure",
    [Brightness(), Contrast(), Colourfulness(), TargetColour("#336699"), SaturationPenalty(0.1)],
    ids=lambda one: one.name,
)
def test_the_size_of_an_image_does_not_matter(measure: Measure) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    larger = image.repeat(5, axis=0).repeat(5, axis=1)
    assert of(measure, larger) == pytest.approx(of(measure, image), abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (700, 3)])
def test_every_measure_takes_an_image_of_any_size(size: tuple[int, int]) -> None:
    measures = [
        Sharpness(), Brightness(), Contrast(), Colourfulness(), TargetColour("#123456"),
        SaturationPenalty(),
    ]  # fmt: skip
    assert all(math.isfinite(of(measure, flat(10, 20, 30, size=size))) for measure in measures)


def test_names_tell_settings_apart() -> None:
    assert TargetColour(" ff8800 ").name == TargetColour("#FF8800").name == "target colour #ff8800"
    assert SaturationPenalty(0.25).name == "saturation above 0.25"


@pytest.mark.parametrize("colour", ["", "orange", "#ff88", "#ff88000", "#gg8800"])
def test_what_is_no_colour_is_refused(colour: str) -> None:
    with pytest.raises(JudgeError, match="is no colour. Write # and six digits"):
        TargetColour(colour)


@pytest.mark.parametrize("limit", [-0.1, 1.1, math.nan])
def test_a_limit_out_of_range_is_refused(limit: float) -> None:
    with pytest.raises(JudgeError, match="The saturation limit is"):
        SaturationPenalty(limit)
