"""A taste as a judge of the judging room, for the panels that online rounds ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..judging.judge import Pixels
from .taste import Taste


@dataclass(frozen=True)
class TasteJudge:
    """Scores pictures as the taste does."""

    taste: Taste

    @property
    def name(self) -> str:
        return f"taste {self.taste.name}"

    def score(self, images: Sequence[Pixels], prompt: str) -> Sequence[float]:
        """No taste reads the prompt."""
        return [self.taste.score(image.astype(np.float32) / 255) for image in images]
