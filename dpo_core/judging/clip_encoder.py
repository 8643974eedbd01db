"""A CLIP of `transformers`: images and prompts as vectors whose directions can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .clip_pixels import ClipPixels
from .filled_network import filled_network
from .judge import JudgeError, Pixels

BATCH = 8
"""Images that go through a network at once."""

_LEGACY_END = 2
"""As `eos_token_id`, this stands for the last token of the vocabulary in configurations written
before transformers 4.31."""


class ClipEncoder:
    """Radford et al. 2021, "Learning transferable visual models from natural language
    supervision", fig. 3.

    Args:
        config: a `transformers.CLIPConfig`, as a dictionary.
        tensors: every weight by its name in a `transformers.CLIPModel`.
        source: how messages call it.
        pixels: how images are brought to it; None: as most CLIPs take them.
        dtype: of its weights.

    Raises:
        JudgeError: configuration and weights do not fit each other.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        source: str,
        pixels: ClipPixels | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from transformers import CLIPConfig, CLIPModel

        def build() -> nn.Module:
            return CLIPModel(CLIPConfig.from_dict(dict(config)))

        self.network: Any = filled_network(build, tensors, source, dtype)
        self.pixels = pixels or ClipPixels(self.config.vision_config.image_size)

    @property
    def config(self) -> Any:
        """Its `CLIPConfig`."""
        return self.network.config

    @property
    def width(self) -> int:
        """Numbers of a vector, D."""
        return self.config.projection_dim

    @property
    def scale(self) -> float:
        """What it multiplies cosines by, once exp(logit_scale)."""
        return float(self.network.logit_scale.float().exp())

    @property
    def end(self) -> int:
        """The token at which it reads off what a prompt means."""
        text = self.config.text_config
        return text.vocab_size - 1 if text.eos_token_id == _LEGACY_END else text.eos_token_id

    def images(self, images: Sequence[Pixels]) -> Tensor:
        """Unit vectors of N images, (height, width, 3) each: (N, D), float32."""
        parts = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        return torch.cat([self._images(part) for part in parts])

    def prompt(self, tokens: Tensor) -> Tensor:
        """The unit vector of a prompt, (1, T) token numbers: (D,), float32."""
        with torch.inference_mode():
            read = self.network.text_model(input_ids=tokens.to(self.network.device))
            vector = self.network.text_projection(read.pooler_output)
            return normalize(vector.float(), dim=-1)[0]

    def _images(self, images: Sequence[Pixels]) -> Tensor:
        with torch.inference_mode():
            pixels = self.pixels(images).to(self.network.device)
            seen = self.network.vision_model(pixel_values=pixels)
            vectors = self.network.visual_projection(seen.pooler_output)
            return normalize(vectors.float(), dim=-1)


def clip_pixels(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> ClipPixels:
    """How a model's images are brought to it, by its `config.json` and `preprocessor_config.json`.

    Raises:
        JudgeError: they say what no image can be brought to.
    """
    plain = ClipPixels()
    side = config.get("vision_config", {}).get("image_size", plain.side)
    mean = tuple(preprocessor.get("image_mean", plain.mean))
    deviation = tuple(preprocessor.get("image_std", plain.deviation))
    numbers = all(isinstance(one, (int, float)) for one in (*mean, *deviation, side))
    if not (numbers and len(mean) == len(deviation) == 3 and all(deviation) and side >= 1):
        raise JudgeError(
            f"preprocessor_config.json gives images the size {side}, the mean {mean} and the "
            f"deviation {deviation}. Get it again, or remove it: the usual ones are then taken."
        )
    return ClipPixels(side, mean, deviation)
