"""How well images fit their prompt, by ComfyUI's own CLIP text and vision models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SDClipModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ....dpo_core.judging.judge import JudgeError, Pixels
from ..encoder_identity import clip_identity, clip_vision_identity
from .judge_name import judge_name

SCALE = 100.0
"""A cosine of 0.3 is 30 points."""
_PARTS = ("l", "g", "h")
"""CLIP text models by the names ComfyUI has for them: ViT-L, ViT-bigG, ViT-H."""
_LARGEST = 1e3
"""No trained projection has a number like that; memory that was never written often does."""
_LOAD_TEXT = {
    768: "Load clip_l.safetensors (with its text projection) by Load CLIP.",
    1024: "Load the text model of OpenCLIP ViT-H, with its projection, by Load CLIP.",
    1280: "Load clip_g.safetensors by Load CLIP, or take the CLIP of an SDXL checkpoint.",
}
"""What brings a text model of a width, by that width."""


@dataclass(frozen=True)
class TextPart:
    """A CLIP text model inside of a CLIP.

    Attributes:
        key: what its tokens are found under.
        model: the text model.
        width: of the embedding it projects to.
    """

    key: str
    model: SDClipModel
    width: int


class ClipSimilarity:
    """A judge: cosine between the embeddings of prompt and image, times 100.

    Both are projected into the space CLIP was trained to compare in (Radford et al., 2021). The
    prompt counts as far as CLIP reads, 75 tokens, and of an image the square in its middle.

    Raises:
        JudgeError: the two do not belong together, or cannot be compared.
    """

    def __init__(self, clip: Any, clip_vision: Any) -> None:
        self._clip, self._vision = clip, clip_vision
        self._part = matching_part(clip, clip_vision)
        self.name = judge_name(
            "clip_similarity", clip_identity(clip), clip_vision_identity(clip_vision)
        )

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """A number from -100 to 100 for each image. Obeys Stop."""
        with torch.inference_mode():
            text = _text_embedding(self._clip, self._part, prompt)
            seen = image_embeddings(self._vision, images)
            return [SCALE * cosine_similarity(text, one, dim=-1).item() for one in seen]


def matching_part(clip: Any, clip_vision: Any) -> TextPart:
    """The text model of a CLIP whose embeddings a CLIP vision model's can be compared with.

    Raises:
        JudgeError: there is none, with what to load.
    """
    width = vision_width(clip_vision)
    if width is None:
        raise JudgeError(
            "clip_vision has no projection into CLIP's common space, so it cannot be compared with "
            "a text. Load a CLIP vision model with one, such as CLIP-ViT-L-14 or CLIP-ViT-bigG; "
            "SigLIP and DINO have none."
        )
    load = _LOAD_TEXT.get(width, "Load the text model that was trained with this vision model.")
    parts = text_parts(clip)
    if not parts:
        raise JudgeError(f"clip holds no CLIP text model. {load}")
    part = next((one for one in parts if one.width == width), None)
    if part is None:
        widths = " and ".join(str(one.width) for one in parts)
        raise JudgeError(
            f"clip and clip_vision do not belong together: the text embedding is {widths} numbers "
            f"wide, the image embedding {width}. {load}"
        )
    if not has_projection(clip, part):
        raise JudgeError(
            "clip lacks the text projection, which checkpoints leave out of CLIP-L: without it its "
            f"embeddings cannot be compared with images. {load}"
        )
    return part


def vision_width(clip_vision: Any) -> int | None:
    """Width of the projected image embedding; None if the model has no projection."""
    weight = getattr(getattr(clip_vision.model, "visual_projection", None), "weight", None)
    return None if weight is None else int(weight.shape[0])


def image_embeddings(clip_vision: Any, images: Sequence[Pixels]) -> Iterator[Tensor]:
    """The projected embedding of each image, (1, width), in fp32 on the CPU. Obeys Stop."""
    for image in images:  # one by one, as they may have several sizes
        pixels = torch.from_numpy(image).float().div(255)[None]
        yield clip_vision.encode_image(pixels)["image_embeds"].float().cpu()


def text_parts(clip: Any) -> list[TextPart]:
    """The CLIP text models that a CLIP is made of; none in one of T5 or a language model."""
    found = []
    for key in _PARTS:
        model = getattr(clip.cond_stage_model, f"clip_{key}", None)
        if isinstance(model, SDClipModel) and isinstance(model.transformer, CLIPTextModel):
            found.append(TextPart(key, model, model.transformer.text_projection.out_features))
    return found


def has_projection(clip: Any, part: TextPart) -> bool:
    """Whether the projection was in a file. Where not, ComfyUI leaves zeros or unwritten memory."""
    weight = part.model.transformer.text_projection.weight
    if weight is None or weight.is_meta:
        return False
    weight = weight.detach().float().cpu()
    if not torch.isfinite(weight).all() or weight.abs().max() > _LARGEST:
        return False
    if (weight == weight[0, 0]).all() or torch.equal(weight, torch.eye(len(weight))):
        return False
    return any(_may_hold_projection(path, part.width) for path in _files(clip) or [Path()])


def _files(clip: Any) -> list[Path]:
    """The files a CLIP was loaded from, as far as that is known."""
    source = getattr(clip.patcher, "cached_patcher_init", None)
    first = source[1][0] if source and source[1] else []
    return [Path(one) for one in ([first] if isinstance(first, str) else first)]


def _may_hold_projection(path: Path, width: int) -> bool:
    """False only of a file that can be looked into, and has none of that width."""
    if path.suffix != ".safetensors":
        return True
    try:
        with safe_open(path, framework="pt") as file:
            named = [key for key in file.keys() if "text_projection" in key]
            return any(file.get_slice(key).get_shape() == [width, width] for key in named)
    except (OSError, SafetensorError):  # replaced meanwhile: the weights alone decide
        return True


def _text_embedding(clip: Any, part: TextPart, prompt: str) -> Tensor:
    """The projected embedding of a prompt, (1, width), in fp32 on the CPU.

    Not by the CLIP as a whole: of several text models it gives one embedding or a mixture, and
    that of SD 1.5 without its projection.
    """
    tokens = clip.tokenize(prompt)
    clip.load_model(tokens)
    device, model = clip.patcher.load_device, clip.cond_stage_model
    model.reset_clip_options()
    part.model.set_clip_options({"projected_pooled": True, "execution_device": device})
    try:
        with comfy.model_management.cuda_device_context(device):
            _, pooled = part.model.encode_token_weights(tokens[part.key])[:2]
    finally:
        model.reset_clip_options()
    return pooled.float().cpu()
