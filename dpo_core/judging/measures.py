"""Judges that need no weights: each measures one thing of an image, whatever its prompt.

Scores are about 0..1, or -1..0 where less is better, so that they can be weighed against each
other. None depends on an image's size, except that fine detail is measured on images brought to
about the same size.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .judge import JudgeError, Pixels

Values = NDArray[np.floating[Any]]

DETAIL_SIDE = 512
"""Pixels that the shorter side of an image has, about, when its detail is measured."""

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709
_COLOUR = re.compile(r"#?([0-9a-fA-F]{6})")
_EXTREMELY_COLOURFUL = 109

# sRGB to Oklab: Ottosson 2020, "A perceptual color space for image processing".
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)


class Measure(ABC):
    """A judge that measures each image by itself."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What is measured, with its settings."""

    @abstractmethod
    def of(self, image: Pixels) -> float:
        """The measure of one image, (height, width, 3)."""

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """The measure of each image; the prompt does not matter."""
        return [self.of(image) for image in images]


@dataclass(frozen=True)
class Sharpness(Measure):
    """Standard deviation of the Laplacian of luma (Pech-Pacheco et al. 2000, "Diatom autofocusing
    in brightfield microscopy", eq. 5, its root).

    0 is flat or blurred; noise is as sharp as detail, and reaches 1. A large image is averaged down
    by a whole number first.
    """

    name = "sharpness"

    def of(self, image: Pixels) -> float:
        luma = _averaged(_luma(image))
        if min(luma.shape) < 3:
            return 0.0
        around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
        return float(np.std(around - 4 * luma[1:-1, 1:-1], dtype=np.float64))


@dataclass(frozen=True)
class Contrast(Measure):
    """RMS contrast: the standard deviation of luma (Peli 1990, "Contrast in complex images").

    0 for one grey, 1/2 for half black and half white.
    """

    name = "contrast"

    def of(self, image: Pixels) -> float:
        return float(np.std(_luma(image), dtype=np.float64))


@dataclass(frozen=True)
class Brightness(Measure):
    """Mean luma: 0 black, 1 white."""

    name = "brightness"

    def of(self, image: Pixels) -> float:
        return float(np.mean(_luma(image), dtype=np.float64))


@dataclass(frozen=True)
class Colourfulness(Measure):
    """Spread and mean of the opponent colours (Hasler and Suesstrunk 2003, "Measuring
    colourfulness in natural images", eq. for M^(3)).

    In units of what they call extremely colourful, 109: 0 grey, 0.3 moderately colourful, 1
    extremely.
    """

    name = "colourfulness"

    def of(self, image: Pixels) -> float:
        red, green, blue = np.moveaxis(image.astype(np.float32), 2, 0)
        opponents = (red - green, (red + green) / 2 - blue)
        spread = math.hypot(*(float(np.std(one, dtype=np.float64)) for one in opponents))
        mean = math.hypot(*(float(np.mean(one, dtype=np.float64)) for one in opponents))
        return (spread + 0.3 * mean) / _EXTREMELY_COLOURFUL


@dataclass(frozen=True)
class TargetColour(Measure):
    """Minus the mean distance of all pixels to one colour, in Oklab.

    0 if the image is that colour all over; -1 between black and white.

    Attributes:
        colour: sRGB, as ``#rrggbb``.

    Raises:
        JudgeError: it is no colour.
    """

    colour: str

    def __post_init__(self) -> None:
        found = _COLOUR.fullmatch(self.colour.strip())
        if found is None:
            raise JudgeError(
                f"{self.colour[:40]!r} is no colour. Write # and six digits of 0-9 and a-f, two "
                "each for red, green and blue: #ff8800 is orange."
            )
        object.__setattr__(self, "colour", f"#{found[1].lower()}")

    @property
    def name(self) -> str:
        return f"target colour {self.colour}"

    def of(self, image: Pixels) -> float:
        wanted = np.frombuffer(bytes.fromhex(self.colour[1:]), np.uint8).reshape(1, 1, 3)
        distance = np.linalg.norm(_oklab(image) - _oklab(wanted), axis=2)
        return -float(np.mean(distance, dtype=np.float64)) + 0.0


@dataclass(frozen=True)
class SaturationPenalty(Measure):
    """Minus the mean saturation above a limit: 0 if no pixel is above it.

    A pixel's saturation is its largest channel minus its smallest (the chroma of HSV), 0..1: so
    what is almost black, whose hue nobody sees, counts as pale.

    Attributes:
        limit: 0 to 1.

    Raises:
        JudgeError: the limit is out of this range.
    """

    limit: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= 1:
            raise JudgeError(
                f"The saturation limit is {self.limit:g}. Give a number from 0 (any colour is too "
                "much) to 1 (none is)."
            )

    @property
    def name(self) -> str:
        return f"saturation above {self.limit:g}"

    def of(self, image: Pixels) -> float:
        saturation = (image.max(axis=2) - image.min(axis=2)).astype(np.float32) / 255
        excess = np.maximum(saturation - np.float32(self.limit), 0)
        return -float(np.mean(excess, dtype=np.float64)) + 0.0


def _luma(image: Pixels) -> Values:
    return (image.astype(np.float32) / 255) @ _LUMA


def _averaged(luma: Values) -> Values:
    """Means of square blocks, so many that the shorter side comes nearest to DETAIL_SIDE."""
    block = max(1, round(min(luma.shape) / DETAIL_SIDE))
    rows, columns = (length // block for length in luma.shape)
    cut = luma[: rows * block, : columns * block]
    return cut.reshape(rows, block, columns, block).mean(axis=(1, 3))


def _oklab(image: Pixels) -> Values:
    encoded = image.astype(np.float32) / 255
    linear = np.where(  # IEC 61966-2-1
        encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4
    )
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
