"""What a judge is: something that scores images of one prompt, or prefers one of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""One image, (height, width, 3), as a session stores it."""


class JudgeError(ValueError):
    """A judge cannot say anything; the message names it, says why and how to mend it."""


class Judge(Protocol):
    """Scores each image by itself."""

    @property
    def name(self) -> str:
        """Kind, weights and settings, for people and to tell judges apart: the same name stands
        for the same scores."""

    def score(self, images: Sequence[Pixels], prompt: str) -> Sequence[float]:
        """A number for each image; larger is better.

        Args:
            images: K images of any sizes.
            prompt: what they were made with.

        Raises:
            JudgeError: it cannot.
        """


@runtime_checkable
class PairwiseJudge(Protocol):
    """Compares two images; which of them is called first is drawn by who asks."""

    @property
    def name(self) -> str:
        """As of :class:`Judge`."""

    def prefer(self, first: Pixels, second: Pixels, prompt: str) -> float:
        """How sure it is that the first image is better: 1 certain, 0 certain that the second is.

        Raises:
            JudgeError: it cannot tell anything.
        """


AnyJudge = Any
"""A :class:`Judge` or a :class:`PairwiseJudge`."""
