"""Weights as `open_clip` lays them out, brought to the CLIP of `transformers`.

The file says nothing of its architecture; it is read off the shapes. What they leave open:

- Heads: the text encoder's are 64 wide, and so are the vision encoder's up to ViT-L; the larger
  ones (ViT-H, g, bigG) have 16 heads of 80, 88 and 104. Thus width / 64, but at most 16.
- The activation: GELU in all models that open_clip trained itself under plain names, ViT-H among
  them, from which HPSv2 was made. OpenAI's sizes exist with GELU and with its approximation
  x sigmoid(1.702 x), and the weights do not say which: those are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .judge import JudgeError

_HEAD = 64
_MOST_VISION_HEADS = 16
_AMBIGUOUS_WIDTHS = (768, 1024)
"""Of the vision encoders of ViT-B and ViT-L."""

_FIRST = "visual.conv1.weight"
_NEEDED = (
    _FIRST, "visual.positional_embedding", "visual.proj", "positional_embedding",
    "text_projection", "token_embedding.weight", "transformer.resblocks.0.mlp.c_fc.weight",
    "visual.transformer.resblocks.0.mlp.c_fc.weight",
)  # fmt: skip
_MASK = "attn_mask"  # of the text encoder: no weight

_OUTSIDE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "logit_scale": "logit_scale",
    **{
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in (
            ("visual.ln_pre", "vision_model.pre_layrnorm"),
            ("visual.ln_post", "vision_model.post_layernorm"),
            ("ln_final", "text_model.final_layer_norm"),
        )
        for kind in ("weight", "bias")
    },
}
_TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Multiplied from the right there: x W, not x W^T."""

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_FUSED = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def is_open_clip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights are laid out as open_clip's."""
    return _FIRST in tensors


def open_clip_config(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The `transformers.CLIPConfig` of such weights, as a dictionary.

    Raises:
        JudgeError: weights are missing from which it is read, or leave it open.
    """
    if missing := [name for name in _NEEDED if name not in tensors]:
        raise JudgeError(
            f"{source} looks like a CLIP of open_clip, but lacks {', '.join(missing)}. Get the "
            "file again."
        )
    width, _, patch, _ = tensors[_FIRST].shape
    if width in _AMBIGUOUS_WIDTHS:
        raise JudgeError(
            f"{source} is a CLIP of {width} channels, which exists with two activations, and the "
            "file does not say which. Use it as a folder with a config.json (transformers' way)."
        )
    positions = tensors["visual.positional_embedding"].shape[0]
    words, text_width = tensors["token_embedding.weight"].shape
    return {
        "projection_dim": tensors["visual.proj"].shape[1],
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": _hidden(tensors, "visual.transformer."),
            "num_hidden_layers": _layers(tensors, "visual.transformer."),
            "num_attention_heads": min(max(width // _HEAD, 1), _MOST_VISION_HEADS),
            "image_size": round((positions - 1) ** 0.5) * patch,
            "patch_size": patch,
            "hidden_act": "gelu",
        },
        "text_config": {
            "hidden_size": text_width,
            "intermediate_size": _hidden(tensors, "transformer."),
            "num_hidden_layers": _layers(tensors, "transformer."),
            "num_attention_heads": max(text_width // _HEAD, 1),
            "max_position_embeddings": tensors["positional_embedding"].shape[0],
            "vocab_size": words,
            "hidden_act": "gelu",
            # The last of the vocabulary ends a prompt, and begins it the one before.
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
        },
    }


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of a `transformers.CLIPModel`; unknown ones keep theirs."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _TURNED:
            named[_TURNED[name]] = tensor.T.contiguous()
        elif found := _FUSED.fullmatch(name):
            thirds = zip("qkv", tensor.chunk(3), strict=True)
            block = _block(found[1], found[2])
            # Their own memory: a view would keep all three alive on any device.
            named |= {f"{block}.self_attn.{one}_proj.{found[3]}": t.clone() for one, t in thirds}
        elif (found := _BLOCK.fullmatch(name)) and found[3] in _IN_BLOCK:
            named[f"{_block(found[1], found[2])}.{_IN_BLOCK[found[3]]}.{found[4]}"] = tensor
        elif name != _MASK:
            named[_OUTSIDE.get(name, name)] = tensor
    return named


def _block(visual: str | None, number: str) -> str:
    return f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"


def _hidden(tensors: Mapping[str, Tensor], encoder: str) -> int:
    return tensors[f"{encoder}resblocks.0.mlp.c_fc.weight"].shape[0]


def _layers(tensors: Mapping[str, Tensor], encoder: str) -> int:
    blocks = re.compile(rf"{re.escape(encoder)}resblocks\.(\d+)\.")
    return 1 + max(int(found[1]) for name in tensors if (found := blocks.match(name)))
