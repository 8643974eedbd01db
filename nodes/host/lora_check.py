"""What is saved is what was trained: the file is read back as a loader would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.saving.lora_file import lora_layers, read_lora
from .lora_keys import TEXT_ENCODER_PREFIXES

ZERO_AT_FIRST = (".lora_B.weight", ".lora_up.weight", ".hada_w2_b", ".lokr_w1")
"""Of each type the matrix that starts at zero; while it stays so, the LoRA changes nothing."""


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
    ups = [t for name, t in saved.items() if name.endswith(ZERO_AT_FIRST)]
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
    layers = lora_layers(mine)
    unused = [layer for layer in layers if f"{layer}.weight" not in patches]
    if unused:
        raise LoraCheckError(
            f"ComfyUI would leave {len(unused)} layers of {path} unused, such as {unused[0]}."
        )
    for layer, parts in sorted(layers.items()):
        _check_layer(path, layer, parts, mine.get(f"{layer}.alpha"), patches[f"{layer}.weight"])
    return f"Read back: {len(layers)} layers, all used by ComfyUI's loader, as trained."


def _check_layer(
    path: Path, layer: str, parts: Mapping[str, Tensor], alpha: Tensor | None, patch: object
) -> None:
    """The host's own arithmetic gives what was trained, with nothing left out."""
    change = _change({name: part.float() for name, part in parts.items()}, alpha)
    if "dora_scale" in parts:
        # On a weight whose columns have the lengths trained, so that no change is drowned.
        lengths = parts["dora_scale"].float()
        weight = (lengths / (change.numel() / lengths.numel()) ** 0.5).expand_as(change).clone()
        ours = weight + change
        norm = ours.transpose(0, 1).flatten(1).norm(dim=1).reshape(lengths.shape)
        ours *= lengths / (norm + torch.finfo(torch.float32).eps)
    else:
        weight, ours = torch.zeros_like(change), change
    bare = weight.clone()
    theirs = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight, f"{layer}.weight")
    off = (ours - theirs).abs().max()
    if not off <= 1e-4 * (ours - bare).abs().max() + 1e-6:
        raise LoraCheckError(f"ComfyUI would apply {layer} of {path} differently from training.")


def _change(parts: Mapping[str, Tensor], alpha: Tensor | None) -> Tensor:
    """What the tensors of a layer add to its weight; kernels of all but LoRA are flat."""
    if "lora_A.weight" in parts:
        up, down = parts["lora_B.weight"], parts["lora_A.weight"]
        change = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        rank = down.shape[0]
    elif "hada_w1_a" in parts:
        change = parts["hada_w1_a"] @ parts["hada_w1_b"]
        change = change * (parts["hada_w2_a"] @ parts["hada_w2_b"])
        rank = parts["hada_w1_b"].shape[0]
    elif "lokr_w2" in parts:
        return torch.kron(parts["lokr_w1"], parts["lokr_w2"])
    else:
        change = torch.kron(parts["lokr_w1"], parts["lokr_w2_a"] @ parts["lokr_w2_b"])
        rank = parts["lokr_w2_b"].shape[0]
    return change if alpha is None else change * (float(alpha) / rank)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
