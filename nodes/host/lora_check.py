"""What is saved is what was trained: the file is read back as a loader would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.pairs.record import counted
from ...dpo_core.saving.lora_file import lora_layers, read_lora
from .lora_keys import TEXT_ENCODER_PREFIXES, lora_places

ZERO_AT_FIRST = (".lora_B.weight", ".lora_up.weight", ".hada_w2_b", ".lokr_w1")
"""Of each type the matrix that starts at zero; while it stays so, the LoRA changes nothing."""

_Patch = tuple[float, Any, float, Any, Any]
"""As the host lists it for a weight: strength, patch, the weight's own, rows and their order."""


class LoraCheckError(RuntimeError):
    """The saved file is not what was trained."""


def check_saved(
    path: Path,
    written: Mapping[str, Tensor],
    patcher: ModelPatcher | None,
    lora: Mapping[str, Tensor] | None = None,
) -> str:
    """Reads ``path`` back; with a model, also through the host's own LoRA loading.

    Args:
        path: of the file.
        written: what it must hold.
        patcher: the model trained on, if known.
        lora: the same by the host's own names, if ``written`` goes by others.

    Returns:
        one line saying what was checked.

    Raises:
        LoraCheckError: the file differs, changes nothing, or the host would leave weights unused.
    """
    lora = written if lora is None else lora
    saved, _ = read_lora(path)
    names = written.keys() | saved.keys()
    different = [k for k in names if not _equal(written.get(k), saved.get(k))]
    if different:
        raise LoraCheckError(
            f"{path} does not hold what was trained: {len(different)} tensors differ, such as "
            f"{sorted(different)[0]}. Check the disk and save again."
        )
    ups = [t for name, t in lora.items() if name.endswith(ZERO_AT_FIRST)]
    if ups and not any(bool(up.any()) for up in ups):
        raise LoraCheckError(
            f"{path} would change nothing: all its weights are zero. Train more steps, or with a "
            "higher learning rate."
        )
    if patcher is None:
        return f"Read back: {counted(len(saved), 'tensor')} as trained."
    return _through_the_host(path, saved, patcher, lora)


def _through_the_host(
    path: Path, saved: dict[str, Tensor], patcher: ModelPatcher, lora: Mapping[str, Tensor]
) -> str:
    mine = {k: t for k, t in saved.items() if not k.startswith(TEXT_ENCODER_PREFIXES)}
    patches = _patches(patcher, mine)
    layers = lora_layers(lora)
    unused = [layer for layer in layers if f"{layer}.weight" not in patches]
    if unused:
        raise LoraCheckError(
            f"ComfyUI would leave {len(unused)} layers of {path} unused, such as {unused[0]}."
        )
    for layer, parts in sorted(layers.items()):
        _check_layer(path, layer, parts, lora.get(f"{layer}.alpha"), patches[f"{layer}.weight"])
    return f"Read back: {counted(len(layers), 'layer')}, all used by ComfyUI's loader, as trained."


def _patches(patcher: ModelPatcher, saved: dict[str, Tensor]) -> dict[str, list[_Patch]]:
    """What the host's loader would do to each weight."""
    names = lora_places(patcher)
    places = {place.key: place for place in names.values()}
    key_map = {name: place.key for name, place in names.items()}
    converted = comfy.lora_convert.convert_lora(saved)
    found: dict[str, list[_Patch]] = {}
    for key, patch in comfy.lora.load_lora(converted, key_map, log_missing=False).items():
        weight, rows, order = places[key]
        found.setdefault(weight, []).append((1.0, patch, 1.0, rows, order))
    return found


def _check_layer(
    path: Path,
    layer: str,
    parts: Mapping[str, Tensor],
    alpha: Tensor | None,
    patches: list[_Patch],
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
    theirs = comfy.lora.calculate_weight(patches, weight, f"{layer}.weight")
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
    else:
        factors = []
        rank = 0
        for name in ("lokr_w1", "lokr_w2"):
            if name in parts:
                factors.append(parts[name])
                continue
            rank = parts[f"{name}_b"].shape[0]  # the second's, if both have one
            factors.append(parts[f"{name}_a"] @ parts[f"{name}_b"])
        change = torch.kron(*factors)
        alpha = alpha if rank else None
    return change if alpha is None else change * (float(alpha) / rank)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
