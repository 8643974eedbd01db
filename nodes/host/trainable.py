"""Whether a loaded model can be trained, and what of it training does without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import nn

from ...dpo_core.training.adapter import AdapterSettings
from ...dpo_core.training.adapter_layer import LOW_RANK
from ...dpo_core.training.lora_weights import LoraWeights
from .frozen_layer import unreadable_layers
from .injection import adapted_layers

_OTHER_KINDS = {
    "SVD_img2vid": "video", "GenmoMochi": "video", "LTXV": "video", "LTXAV": "video",
    "HunyuanVideo": "video", "CosmosVideo": "video", "WAN21": "video", "CogVideoX": "video",
    "MiniMaxH3": "video", "SeedVR2": "video upscaling", "Kandinsky5": "video",
    "StableAudio1": "audio", "StableAudio3": "audio", "ACEStep": "audio", "ACEStep15": "audio",
    "MiniMaxMusic3": "audio", "Trellis2": "3-D", "Hunyuan3Dv2": "3-D", "Hunyuan3Dv2_1": "3-D",
    "TripoSplat": "3-D", "Stable_Zero123": "3-D view", "SD_X4Upscaler": "upscaling",
    "PiD": "decoding",
    "HunyuanImage21Refiner": "refiner", "IP2P": "instruction editing", "Lotus": "depth",
    "RT_DETR_v4": "detection", "DepthAnything3": "depth", "SAM3": "segmentation",
}


def model_problems(patcher: ModelPatcher) -> list[str]:
    """Why this model cannot be trained; empty if it can."""
    found = []
    model: Any = patcher.model
    kinds = [_OTHER_KINDS.get(cls.__name__) for cls in type(model).__mro__]
    kind = next((k for k in kinds if k), None)
    if getattr(model, "image_to_video", False):
        kind = "video"
    if kind is not None and type(model).__name__ != "Kandinsky5Image":
        found.append(
            f"{type(model).__name__} is a model for {kind}; preferences train image models only."
        )
    unreadable = unreadable_layers(getattr(model, "diffusion_model", None) or nn.Module())
    if unreadable:
        found.append(
            f"An extension loaded the model with weights in a form of its own "
            f"({', '.join(unreadable)}), which cannot be trained through. Load it with ComfyUI's "
            f"own loaders, in whatever format, or as GGUF."
        )
    if patcher.injections:
        found.append(
            "The model carries a LoRA loaded in bypass mode, or another injection. Load it the "
            "ordinary way."
        )
    if patcher.hook_patches:
        found.append("The model carries hooks. Connect it without them.")
    return found


def left_out(patcher: ModelPatcher) -> list[str]:
    """Names of what other nodes put around the model and training does without."""
    wrappers = patcher.wrappers.values()
    found = [str(key) for kind in wrappers for key, members in kind.items() if members]
    if "model_function_wrapper" in patcher.model_options:
        found.append("model function wrapper")
    return sorted(set(found))


def adapter_problems(
    patcher: ModelPatcher,
    adapter: AdapterSettings,
    existing: Mapping[str, LoraWeights] | None,
) -> list[str]:
    """Why this adapter cannot be put on the model; ``existing`` if a LoRA is refined."""
    found = adapter.problems()
    if found:
        return found
    if existing is None:
        try:
            adapted_layers(patcher, adapter)
        except ValueError as error:
            found.append(str(error))
        return found
    kinds = sorted({weights.kind for weights in existing.values()})
    if adapter.kind not in ("lora", *kinds):
        found.append(
            f"The LoRA given as existing_lora is refined as what it is: set type to {kinds[0]} "
            f"instead of {adapter.kind}, or train a new LoRA."
        )
    if adapter.dropout and (other := set(kinds) - set(LOW_RANK)):
        found.append(
            f"dropout cannot go with the LoRA given as existing_lora, which is of type "
            f"{', '.join(sorted(other))} and has no directions to leave out: set dropout to 0."
        )
    return found
