"""Images to be judged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def noisy_images(count: int, width: int = 20, height: int = 16) -> list[NDArray[np.uint8]]:
    """Of different content, (height, width, 3)."""
    source = np.random.default_rng(0)
    return [source.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]
