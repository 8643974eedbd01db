"""Small random models that judge, of ComfyUI's own classes: CLIPs and a language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import comfy.clip_vision
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.text_encoders.qwen3vl
import torch
from comfy.supported_models_base import ClipTarget

from hostkit.random_weights import StateDict, random_state_dict

SIZE = 32
"""Of the vision models' images, in pixels."""


def text_config(width: int, layers: int = 1) -> dict[str, Any]:
    """What of a CLIP text model's configuration differs from the real one."""
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2,
        "num_hidden_layers": layers,
    }  # fmt: skip


def vision_config(width: int) -> dict[str, Any]:
    """A CLIP vision model that projects to `width` numbers."""
    return {
        "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2,
        "num_hidden_layers": 2, "hidden_act": "quick_gelu", "image_size": SIZE, "patch_size": 8,
        "num_channels": 3, "model_type": "clip_vision_model", "projection_dim": width,
    }  # fmt: skip


def tiny_clip(width: int = 16, projection: bool = True, seed: int = 0) -> comfy.sd.CLIP:
    """CLIP-L by itself, as Load CLIP makes it."""
    options = {"clip_l_model_config": text_config(width)}
    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    return _filled(target, options, {"clip_l": projection}, seed)


def tiny_sdxl_clip(l_width: int, g_width: int, seed: int = 0) -> comfy.sd.CLIP:
    """CLIP-L without its projection and CLIP-G with it, as an SDXL checkpoint has them."""
    options = {
        "clip_l_model_config": text_config(l_width, 3),
        "clip_g_model_config": text_config(g_width, 3),
    }
    target = ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    return _filled(target, options, {"clip_l": False, "clip_g": True}, seed)


def _filled(
    target: ClipTarget, options: dict[str, Any], projections: Mapping[str, bool], seed: int
) -> comfy.sd.CLIP:
    with torch.inference_mode():
        clip = comfy.sd.CLIP(target, model_options=options)
        for name, projection in projections.items():
            text_model = getattr(clip.cond_stage_model, name).transformer
            weights = random_state_dict(text_model.state_dict(), seed)
            if not projection:
                weights["text_projection.weight"].zero_()
            text_model.load_state_dict(weights)
    return clip


def tiny_clip_vision(
    width: int = 16, projection: bool = True, seed: int = 0
) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP vision model, as Load CLIP Vision makes it."""
    with torch.inference_mode():
        vision = comfy.clip_vision.ClipVisionModel(vision_config(width))
        weights: StateDict = random_state_dict(vision.model.state_dict(), seed)
        if not projection:
            del weights["visual_projection.weight"]
        vision.load_sd(weights)
    return vision


_LANGUAGE = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
_SIGHT = {"hidden_size": 32, "intermediate_size": 32, "depth": 1, "deepstack_visual_indexes": [0]}


@contextmanager
def tiny_language_model(seed: int = 0) -> Iterator[comfy.sd.CLIP]:
    """Qwen3-VL with its real tokenizer, as Load CLIP makes it; sizes alone are made smaller."""
    qwen = comfy.text_encoders.qwen3vl
    sizes = {"qwen3vl_4b": _SIGHT}
    with (
        mock.patch.dict(qwen.QWEN3VL_VISION, sizes),
        mock.patch.dict(qwen.QWEN3VL_VISION_COMMON, {"num_heads": 2}),
        torch.inference_mode(),
    ):
        target = ClipTarget(qwen.tokenizer("qwen3vl_4b"), qwen.te(model_type="qwen3vl_4b"))
        clip = comfy.sd.CLIP(target, model_options={"qwen3vl_4b_model_config": _LANGUAGE})
        model = clip.cond_stage_model.qwen3vl_4b.transformer
        model.load_state_dict(random_state_dict(model.state_dict(), seed))
        yield clip
