"""What is saved is what was trained: the file is read back as a loader would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.saving.lora_file import read_lora
from .lora_keys import TEXT_ENCODER_PREFIXES


class LoraCheckError(RuntimeError):
    """The saved file is not what was trained."""


def check_saved(path: Path, lora: Mapping[str, Tensor], patcher: ModelPatcher | None) -> str:
    """Reads ``path`` back; with a model, also through the host's own LoRA loading.

    Returns:
        one line saying what was checked.

    Raises:
        LoraCheckError: the file differs, changes nothing, or the host would leave weights unused.
    """
    saved, _ = read_lora(path)
    different = [k for k in lora.keys() | saved.keys() if not _equal(lora.get(k), saved.get(k))]
    if different:
        raise LoraCheckError(
            f"{path} does not hold what was trained: {len(different)} tensors differ, such as "
            f"{sorted(different)[0]}. Check the disk and save again."
        )
    ups = [t for name, t in saved.items() if name.endswith((".lora_B.weight", ".lora_up.weight"))]
    if ups and not any(bool(up.any()) for up in ups):
        raise LoraCheckError(
            f"{path} would change nothing: all its weights are zero. Train more steps, or with a "
            "higher learning rate."
        )
    if patcher is None:
        return f"Read back: {len(saved)} tensors as trained."
    return _through_the_host(path, saved, patcher)


def _through_the_host(path: Path, saved: dict[str, Tensor], patcher: ModelPatcher) -> str:
    mine = {k: t for k, t in saved.items() if not k.startswith(TEXT_ENCODER_PREFIXES)}
    key_map = comfy.lora.model_lora_keys_unet(patcher.model, {})
    converted = comfy.lora_convert.convert_lora(mine)
    patches = comfy.lora.load_lora(converted, key_map, log_missing=False)
    suffix = ".lora_B.weight"
    layers = {name.removesuffix(suffix) for name in mine if name.endswith(suffix)}
    unused = [layer for layer in layers if f"{layer}.weight" not in patches]
    if unused:
        raise LoraCheckError(
            f"ComfyUI would leave {len(unused)} layers of {path} unused, such as {unused[0]}."
        )
    for layer in sorted(layers):
        _check_delta(path, layer, mine, patches[f"{layer}.weight"])
    return f"Read back: {len(layers)} layers, all used by ComfyUI's loader, as trained."


def _check_delta(path: Path, layer: str, saved: Mapping[str, Tensor], patch: object) -> None:
    """The host's own arithmetic gives alpha / rank * up @ down."""
    down = saved[f"{layer}.lora_A.weight"].float()
    up = saved[f"{layer}.lora_B.weight"].float()
    scale = float(saved[f"{layer}.alpha"]) / down.shape[0]
    ours = scale * (up.flatten(1) @ down.flatten(1))
    shape = (up.shape[0], *down.shape[1:])
    zero = torch.zeros(shape)
    theirs = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], zero, f"{layer}.weight")
    if not torch.allclose(ours.reshape(shape), theirs, rtol=1e-4, atol=1e-6):
        raise LoraCheckError(f"ComfyUI would apply {layer} of {path} differently from training.")


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
