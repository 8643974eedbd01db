"""How beautiful images are, by a small trained head on what ComfyUI's CLIP vision model sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from ....dpo_core.judging.aesthetic_head import AestheticHead
from ....dpo_core.judging.judge import JudgeError, Pixels
from ..encoder_identity import clip_vision_identity
from .clip_similarity import image_embeddings, vision_width
from .judge_name import judge_name


class ClipVisionAesthetic:
    """A judge: the head's score of the image embedding, brought to length 1; no prompt counts.

    Args:
        path: of the head.
        clip_vision: the CLIP vision model it was trained on.

    Raises:
        JudgeError: the file holds no head, or one for another model.
    """

    def __init__(self, path: Path, clip_vision: Any) -> None:
        self._head, self._vision = AestheticHead.from_file(path), clip_vision
        width = vision_width(clip_vision)
        if width is None:
            raise JudgeError(
                "clip_vision has no projection, whose embeddings aesthetic heads score. Load the "
                "CLIP vision model the head was trained on, most often CLIP-ViT-L-14."
            )
        self._head(torch.zeros(1, width))
        self.name = judge_name(
            f"aesthetic {path.stem}", self._head.name, clip_vision_identity(clip_vision)
        )

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """A number for each image, about 1 to 10 for LAION's heads. Obeys Stop."""
        with torch.inference_mode():
            seen = image_embeddings(self._vision, images)
            return [self._head(normalize(one, dim=-1)).item() for one in seen]

