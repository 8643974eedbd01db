"""ImageReward: how well an image fits its prompt and how good it is, by a BLIP and a head.

Xu et al. 2023, "ImageReward: Learning and evaluating human preferences for text-to-image
generation", sec. 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .aesthetic_head import AestheticHead
from .blip_layout import TEXT, VISION, blip_configs, text_weights, vision_weights
from .clip_encoder import BATCH
from .clip_pixels import ClipPixels
from .filled_network import filled_network
from .judge import JudgeError, Pixels
from .network_judge import NetworkJudge
from .prompt_tokens import bert_tokens

MOST_TOKENS = 35
# Of its scores over the training data: a score is how many deviations an image is above the mean.
MEAN = 0.16717362830052426
DEVIATION = 1.0333394966054072

_BLIP = "blip."
_HEAD = "mlp.layers."


def is_image_reward(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of an ImageReward."""
    return any(name.startswith(f"{_BLIP}{VISION}") for name in tensors)


class ImageRewardJudge(NetworkJudge):
    """The head's score of what BERT, looking at the image, makes of the prompt's first token.

    Args:
        name: as of a judge.
        tensors: of the file `ImageReward.pt`. Those of other parts of BLIP, which training used
            and scoring does not, are passed over.
        folders: where to look for BERT's tokenizer.
        source: how messages call it.
        dtype: of the weights; the head's stay float32.

    Raises:
        JudgeError: weights are missing, left over, or of another architecture; no tokenizer.
    """

    def __init__(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        folders: Sequence[Path],
        source: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        blip = _below(tensors, _BLIP)
        vision_config, text_config = blip_configs(blip, source)
        self._tokens = bert_tokens(folders, MOST_TOKENS, text_config["vocab_size"], source)
        self._head = AestheticHead.from_tensors(_below(tensors, _HEAD), f"of {source}")
        if self._head.width != text_config["hidden_size"]:
            raise JudgeError(
                f"The head of {source} takes {self._head.width} numbers and its text encoder gives "
                f"{text_config['hidden_size']}. Get the file again."
            )

        def vision() -> nn.Module:
            return BlipVisionModel(BlipVisionConfig(**vision_config))

        def text() -> nn.Module:
            return BlipTextModel(BlipTextConfig(**text_config), add_pooling_layer=False)

        self._vision: Any = filled_network(
            vision, vision_weights(blip), f"{source} ({_BLIP}{VISION})", dtype
        )
        self._text: Any = filled_network(
            text, text_weights(blip), f"{source} ({_BLIP}{TEXT})", dtype
        )
        self._pixels = ClipPixels(vision_config["image_size"])
        super().__init__(name, nn.ModuleList([self._vision, self._text]))

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """As of a judge."""
        tokens = self._tokens(prompt).to(self.device)
        parts = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        return [score for part in parts for score in self._scores(part, tokens)]

    def _scores(self, images: Sequence[Pixels], tokens: Tensor) -> list[float]:
        with torch.inference_mode():
            seen = self._vision(pixel_values=self._pixels(images).to(self.device))
            read = self._text(
                input_ids=tokens.expand(len(images), -1),
                encoder_hidden_states=seen.last_hidden_state,
            )
            scores = self._head(read.last_hidden_state[:, 0].float())
            return ((scores - MEAN) / DEVIATION).tolist()


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(part): one for name, one in tensors.items() if name.startswith(part)
    }
