"""LoRA files with random weights, in every dialect the host reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

Lora = dict[str, Tensor]
RANK = 3
PREFIXES = {
    "unet.base_model.model.": "PEFT",
    "base_model.model.": "PEFT",
    "lora_unet_": "kohya",
    "lora_transformer_": "OneTrainer",
    "lora_prior_unet_": "OneTrainer",
    "lycoris_": "LyCORIS",
    "transformer.": "diffusers",
    "unet.": "diffusers",
    "diffusion_model.": "ComfyUI",
    "": "bare",
}
"""Whose names begin so. Bare ones have no prefix, as DiffSynth writes them."""
ENDINGS = {
    "ComfyUI": (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    "kohya": (".lora_up.weight", ".lora_down.weight"),
    "OneTrainer": (".lora_up.weight", ".lora_down.weight"),
    "LyCORIS": (".lora_up.weight", ".lora_down.weight"),
    "PEFT": (".lora_B.weight", ".lora_A.weight"),
    "diffusers": (".lora_B.weight", ".lora_A.weight"),
    "bare": (".lora_B.default.weight", ".lora_A.default.weight"),
}


class Named:
    """What a name of the host's table stands for: a weight, or some rows of it."""

    def __init__(self, key: Any, state: Mapping[str, Tensor], layer: Any) -> None:
        self.key = key
        self.weight, self.rows = (key, None) if isinstance(key, str) else key[:2]
        shape = state[self.weight].shape
        self.shape = (shape[0] if self.rows is None else self.rows[2], *shape[1:])
        # Some of the tables' slices are not this model's.
        # Not embeddings, and not the bare matrices that some modules have.
        convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.groups == 1
        self.trains = convolution or isinstance(layer, nn.Linear)
        self.inside = self.rows is None or self.rows[1] + self.rows[2] <= shape[0]


def dialects(patcher: ModelPatcher) -> dict[str, dict[str, Named]]:
    """For each dialect its names of the model's matrices and kernels, one for each place.

    Names of kohya's and the host's own that are not the model's modules' are dialects apart.
    """
    state = patcher.model_state_dict()
    found: dict[str, dict[str, Named]] = {}
    for name, key in comfy.lora.model_lora_keys_unet(patcher.model, {}).items():
        weight = key if isinstance(key, str) else key[0]
        if weight not in state or not weight.endswith(".weight") or state[weight].ndim < 2:
            continue
        prefix = next(p for p in PREFIXES if name.startswith(p))
        dialect = PREFIXES[prefix]
        module = weight.removeprefix("diffusion_model.").removesuffix(".weight")
        rest = name.removeprefix(prefix)
        if dialect in ("ComfyUI", "kohya") and rest not in (module, module.replace(".", "_")):
            dialect += ", other names"
        names = found.setdefault(dialect, {})
        if key not in [named.key for named in names.values()]:
            layer = patcher.model.get_submodule(weight.removesuffix(".weight"))
            names[name] = Named(key, state, layer)
    return found


def random_lora(dialect: str, names: Mapping[str, Named], alpha: float | None = 5.0) -> Lora:
    """A plain LoRA with these names."""
    generator = torch.Generator().manual_seed(0)
    up_end, down_end = ENDINGS[dialect.partition(",")[0]]
    lora: Lora = {}
    for name, named in names.items():
        rows, *columns = named.shape
        ones = [1] * (len(columns) - 1)
        up = 0.3 * torch.randn(rows, RANK, *ones, generator=generator)
        down = 0.3 * torch.randn(RANK, *columns, generator=generator) / columns[0] ** 0.5
        if re.search(r"\.processor\.to_\w+$", name):
            lora |= {f"{name}_lora.up.weight": up, f"{name}_lora.down.weight": down}
        else:
            lora |= {name + up_end: up, name + down_end: down}
        if alpha is not None:
            lora[f"{name}.alpha"] = torch.tensor(alpha)
    return lora


def host_change(patcher: ModelPatcher, lora: Lora) -> dict[str, Tensor]:
    """What the host's loader adds to each weight, for LoRAs that only add."""
    patched = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0)[0]
    state = patcher.model_state_dict()
    return {
        weight: comfy.lora.calculate_weight(patches, torch.zeros(state[weight].shape), weight)
        for weight, patches in patched.patches.items()
    }


def change(parts: Mapping[str, Tensor], alpha: float) -> Tensor:
    """What the two matrices of a layer add to its weight."""
    up, down = parts["lora_B.weight"], parts["lora_A.weight"]
    product = up.flatten(1) @ down.flatten(1) * (alpha / len(down))
    return product.reshape(len(up), *down.shape[1:])
