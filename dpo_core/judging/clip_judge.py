"""How well an image fits its prompt, by a CLIP trained on what people preferred."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .clip_encoder import ClipEncoder
from .judge import Pixels
from .network_judge import NetworkJudge
from .prompt_tokens import PromptTokens

HPS_SCALE = 100.0
"""HPSv2 is the bare cosine; people speak of hundredths of it, 27.9 for .279."""


class ClipJudge(NetworkJudge):
    """Scale times the cosine of image and prompt.

    PickScore (Kirstain et al. 2023, "Pick-a-Pic", eq. 1), as any CLIP's own logit, takes the scale
    that was trained; HPSv2 (Wu et al. 2023, "Human Preference Score v2", eq. 1) takes HPS_SCALE.
    """

    def __init__(
        self, name: str, encoder: ClipEncoder, tokens: PromptTokens, scale: float
    ) -> None:
        super().__init__(name, encoder.network)
        self._encoder, self._tokens, self._scale = encoder, tokens, scale

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """As of a judge."""
        prompted = self._encoder.prompt(self._tokens(prompt))
        with torch.inference_mode():
            return (self._scale * (self._encoder.images(images) @ prompted)).tolist()
