"""BLIP's weights as its authors lay them out, brought to the networks of `transformers`.

The vision encoder is named as timm's ViT, the text encoder as BERT. Sizes are read off the shapes;
all heads are 64 wide, as in ViT-B, ViT-L and BERT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .judge import JudgeError

VISION = "visual_encoder."
TEXT = "text_encoder."

_HEAD = 64
_OUTSIDE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_NEEDED = (
    f"{VISION}pos_embed", f"{VISION}patch_embed.proj.weight", f"{VISION}blocks.0.mlp.fc1.weight",
    f"{TEXT}embeddings.word_embeddings.weight", f"{TEXT}embeddings.position_embeddings.weight",
    f"{TEXT}encoder.layer.0.intermediate.dense.weight",
)  # fmt: skip


def blip_configs(
    tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `BlipVisionConfig` and `BlipTextConfig` of such weights, as dictionaries.

    Raises:
        JudgeError: weights are missing from which they are read.
    """
    if missing := [name for name in _NEEDED if name not in tensors]:
        raise JudgeError(
            f"{source} looks like a BLIP, but lacks {', '.join(missing)}. Get the file again."
        )
    width, _, patch, _ = tensors[f"{VISION}patch_embed.proj.weight"].shape
    positions = tensors[f"{VISION}pos_embed"].shape[1]
    words, text_width = tensors[f"{TEXT}embeddings.word_embeddings.weight"].shape
    vision = {
        "hidden_size": width,
        "intermediate_size": tensors[f"{VISION}blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _layers(tensors, f"{VISION}blocks."),
        "num_attention_heads": max(width // _HEAD, 1),
        "image_size": round((positions - 1) ** 0.5) * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,  # timm's
    }
    text = {
        "hidden_size": text_width,
        "encoder_hidden_size": width,
        "intermediate_size": tensors[f"{TEXT}encoder.layer.0.intermediate.dense.weight"].shape[0],
        "num_hidden_layers": _layers(tensors, f"{TEXT}encoder.layer."),
        "num_attention_heads": max(text_width // _HEAD, 1),
        "max_position_embeddings": tensors[f"{TEXT}embeddings.position_embeddings.weight"].shape[0],
        "vocab_size": words,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        # Only who decodes needs these, and their defaults are no tokens of a smaller vocabulary.
        "bos_token_id": None,
        "sep_token_id": None,
        "is_decoder": True,  # or it would have no cross-attention; nothing is decoded
    }
    return vision, text


def vision_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the vision encoder under the names of a `BlipVisionModel`; unknown ones keep
    theirs."""
    return {_vision_name(name): tensor for name, tensor in _below(tensors, VISION).items()}


def text_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the text encoder, whose names are a `BlipTextModel`'s already."""
    return _below(tensors, TEXT)


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(part): one for name, one in tensors.items() if name.startswith(part)
    }


def _vision_name(name: str) -> str:
    found = _BLOCK.fullmatch(name)
    if found and found[2] in _IN_BLOCK:
        return f"encoder.layers.{found[1]}.{_IN_BLOCK[found[2]]}.{found[3]}"
    return _OUTSIDE.get(name, name)


def _layers(tensors: Mapping[str, Tensor], blocks: str) -> int:
    numbered = re.compile(rf"{re.escape(blocks)}(\d+)\.")
    return 1 + max(int(found[1]) for name in tensors if (found := numbered.match(name)))
