"""Images as CLIP and BLIP take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .judge import Pixels

Channels = tuple[float, float, float]

# OpenAI's own, and those of nearly every CLIP since: means and deviations of its training images.
MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Channels = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipPixels:
    """The transform of OpenAI's CLIP (`clip.py`), which PickScore, HPSv2 and ImageReward share: the
    shorter side is brought to `side` pixels, bicubic and antialiased; the middle is cut out.

    Attributes:
        side: in pixels.
        mean, deviation: of each channel, on the scale 0..1.
    """

    side: int = 224
    mean: Channels = MEAN
    deviation: Channels = DEVIATION

    def __call__(self, images: Sequence[Pixels]) -> Tensor:
        """N images of any sizes, (height, width, 3) each, as (N, 3, side, side), float32."""
        cut = np.stack([self._cut(image) for image in images])
        pixels = torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 255
        mean, deviation = (
            torch.tensor(one).view(1, 3, 1, 1) for one in (self.mean, self.deviation)
        )
        return (pixels - mean) / deviation

    def _cut(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        # The longer side is cut short, not rounded, and the cut rounded to even: torchvision's way.
        wide, high = (self.side * length // min(height, width) for length in (width, height))
        left, top = (round((length - self.side) / 2) for length in (wide, high))
        resized = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + self.side, top + self.side)))
