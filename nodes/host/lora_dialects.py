"""A LoRA under the names that other tools give the model's layers: the host's tables, backwards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.saving.lora_file import lora_layers
from .lora_keys import Place, layer_shape, lora_places

KEY_NAMES = ("comfyui", "kohya", "diffusers")

_LDM_IN_KOHYA = (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner)
"""UNets whose layers kohya's tools name as the original code does, not as diffusers."""
_MATRICES = {
    "kohya": {"lora_A.weight": ".lora_down.weight", "lora_B.weight": ".lora_up.weight"},
    "diffusers": {"lora_A.weight": ".lora_A.weight", "lora_B.weight": ".lora_B.weight"},
    # PEFT's own names of a UNet's attention are none of ComfyUI's; these are both tools'.
    "diffusers unet": {"lora_A.weight": ".lora.down.weight", "lora_B.weight": ".lora.up.weight"},
}
_FLUX_2 = re.compile(r"\.linear_(in|out)$|single_.*\.attn\.(to_qkv_mlp_proj|to_out)$")
_FLUX_1 = re.compile(r"\.ff(_context)?\.net\.|single_.*\.(proj_mlp|proj_out|attn\.to_[qkv])$")


def renamed(
    patcher: ModelPatcher, lora: Mapping[str, Tensor], key_names: str
) -> dict[str, Tensor]:
    """``lora``, which goes by the host's own names, under those of ``KEY_NAMES``.

    Layers that the other tool has in pieces are cut; their down matrix is the same in each. Other
    tensors, such as a text encoder's, stay as they are.

    Raises:
        ValueError: there are no such names for a layer, or for the LoRA's type.
    """
    layers = lora_layers(lora)
    if key_names == "comfyui" or not layers:
        return dict(lora)
    own = {f"{layer}.{part}" for layer, parts in layers.items() for part in (*parts, "alpha")}
    found = {name: tensor for name, tensor in lora.items() if name not in own}
    if key_names == "diffusers" and any("lora_A.weight" not in p or "dora_scale" in p
                                        for p in layers.values()):
        raise ValueError(
            "diffusers and ComfyUI share names for plain LoRA only, and this LoRA is of another "
            "type. Set key_names to comfyui or kohya."
        )
    names = _names(patcher, key_names)
    if missing := [layer for layer in layers if not names.get(layer)]:
        raise ValueError(_nameless(patcher, key_names, missing, len(layers)))
    for layer, parts in layers.items():
        alpha = lora.get(f"{layer}.alpha")
        for name, place in names[layer]:
            found |= _named(name, place, parts, alpha, key_names)
    return found


def _nameless(patcher: ModelPatcher, key_names: str, missing: list[str], count: int) -> str:
    if len(missing) == count:
        return (
            f"ComfyUI knows no {key_names} names for {type(patcher.model).__name__}. Set key_names "
            f"to comfyui{' or kohya' if key_names == 'diffusers' else ''}."
        )
    listed = ", ".join(sorted(layer.removeprefix("diffusion_model.") for layer in missing))
    return (
        f"{len(missing)} of {count} layers have no {key_names} names: {listed}. Set key_names to "
        "comfyui, or train without these layers."
    )


def _names(patcher: ModelPatcher, key_names: str) -> dict[str, list[tuple[str, Place]]]:
    """For each layer its name in the dialect, or those of its pieces from the first row on."""
    found: dict[str, list[tuple[str, Place]]] = {}
    for name, place in lora_places(patcher).items():
        if place.weight.endswith(".weight") and _belongs(name, place, patcher.model, key_names):
            found.setdefault(place.weight.removesuffix(".weight"), []).append((name, place))
    return {
        layer: _complete(names, layer_shape(patcher, layer)[0])
        for layer, names in found.items()
    }


def _complete(
    names: Iterable[tuple[str, Place]], rows: int
) -> list[tuple[str, Place]]:
    """A name for all of a layer, else names for pieces that are all of it, else none."""
    # In alphabetical order: some of the host's tables have none.
    names = sorted(names, key=lambda one: one[0])
    for one in names:
        if one[1].rows is None:
            return [one]
    pieces = sorted(names, key=lambda one: one[1].rows or ())
    row = 0
    for _, place in pieces:
        dimension, first, length = place.rows or (0, 0, 0)
        if dimension != 0 or first != row:
            return []
        row += length
    return pieces if row == rows else []


def _belongs(name: str, place: Place, model: Any, key_names: str) -> bool:
    """True if the dialect calls a layer of this model so."""
    plain = place.weight.removeprefix("diffusion_model.").removesuffix(".weight")
    unet = "num_res_blocks" in model.model_config.unet_config
    if key_names == "kohya":
        own = name == f"lora_unet_{plain.replace('.', '_')}"
        if unet and not isinstance(model, _LDM_IN_KOHYA):
            return name.startswith("lora_unet_") and not own and _one_of_a_pair(name, model)
        return own
    if unet:
        return name.startswith("unet.") and _one_of_a_pair(name, model)
    return name.startswith("transformer.") and not _of_another_model(name, model)


def _one_of_a_pair(name: str, model: Any) -> bool:
    """The host lists the embedding of sizes under the names of two kinds of model."""
    other = "class_embedding" if isinstance(model, _LDM_IN_KOHYA) else "add_embedding"
    return other not in name


def _of_another_model(name: str, model: Any) -> bool:
    """The host's tables stand for relatives of a model, too."""
    if isinstance(model, comfy.model_base.Flux):
        two = isinstance(model, comfy.model_base.Flux2)
        return (_FLUX_1 if two else _FLUX_2).search(name) is not None
    if isinstance(model, comfy.model_base.Krea2):
        return name.endswith(".to_out")
    if isinstance(model, comfy.model_base.Lumina2):
        # They are Z-Image's.
        return not model.model_config.unet_config.get("z_image_modulation", False)
    return False


def _named(
    name: str, place: Place, parts: Mapping[str, Tensor], alpha: Tensor | None, key_names: str
) -> dict[str, Tensor]:
    """One name's tensors."""
    unet = name.startswith("unet.")
    endings = _MATRICES["diffusers unet" if unet else key_names]
    found = {}
    for part, tensor in parts.items():
        if part == "lora_B.weight":
            tensor = _rows(tensor, place)
            if key_names == "diffusers" and alpha is not None:
                # diffusers reads no alpha of most models: the scale goes into the weights.
                scale = float(alpha) / parts["lora_A.weight"].shape[0]
                tensor = (tensor.float() * scale).to(tensor.dtype)
        ending = endings.get(part, f".{part}")
        # The host and diffusers' older files have to_q_lora.up beside proj_in.lora.up.
        if unet and ".processor.to_" in name:
            ending = ending.replace(".lora.", "_lora.", 1)
        found[name + ending] = tensor.clone()
    if key_names == "kohya" and alpha is not None:
        found[f"{name}.alpha"] = alpha
    return found


def _rows(up: Tensor, place: Place) -> Tensor:
    """The rows of ``up`` that a name stands for, in its own order."""
    if place.rows is not None:
        up = up.narrow(*place.rows)
    if place.order is None:
        return up
    # Row i of the model's is row moved[i] of the file's.
    moved = place.order(torch.arange(len(up)))
    back = torch.empty_like(up)
    back[moved] = up
    return back
