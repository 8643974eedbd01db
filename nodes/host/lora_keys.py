"""LoRA files of any dialect the host reads, as low-rank weights of the model's own layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ...dpo_core.training.adapter import LoraWeights

TEXT_ENCODER_PREFIXES = ("lora_te", "text_encoder", "te1_", "te2_", "te_", "clip_", "lora_prior_te")


RowOrder = Callable[[Tensor], Tensor]


class _Part(NamedTuple):
    rows: tuple[int, int, int] | None
    order: RowOrder | None
    adapter: LoRAAdapter


class ExistingLora:
    """A LoRA to go on from.

    Attributes:
        weights: per layer of the diffusion model.
        carried: tensors for text encoders, kept for the saved file as they are.
    """

    def __init__(self, weights: dict[str, LoraWeights], carried: dict[str, Tensor]) -> None:
        self.weights = weights
        self.carried = carried


def read_existing(patcher: ModelPatcher, lora: Mapping[str, Tensor]) -> ExistingLora:
    """Understands ``lora`` as the host does.

    Raises:
        ValueError: nothing in it fits the model, or it holds weights DPO cannot continue.
    """
    carried = {k: v.clone() for k, v in lora.items() if k.startswith(TEXT_ENCODER_PREFIXES)}
    rest = {k: v for k, v in lora.items() if k not in carried}
    state = patcher.model_state_dict()
    # The host's tables also name layers that only other sizes of the model have.
    key_map = {
        name: key
        for name, key in comfy.lora.model_lora_keys_unet(patcher.model, {}).items()
        if _place(key)[0] in state
    }
    converted = comfy.lora_convert.convert_lora(dict(rest))
    patches = comfy.lora.load_lora(converted, key_map, log_missing=False)
    if not patches:
        raise ValueError(
            "The LoRA does not fit this model: none of its weights belong to a layer of it. Was "
            "it made for another base model?"
        )
    parts: dict[str, list[_Part]] = {}
    for key, patch in patches.items():
        name, rows, order = _place(key)
        parts.setdefault(_layer(name), []).append(_Part(rows, order, _low_rank(name, patch)))
    if unused := sorted(converted.keys() - _used(patches, converted)):
        raise ValueError(
            f"The LoRA does not fit this model: {len(unused)} of its weights belong to no layer "
            f"of it, such as {', '.join(unused[:3])}. Was it made for another base model?"
        )
    weights = {
        name: _merged(found, tuple(state[f"{name}.weight"].shape), name)
        for name, found in parts.items()
    }
    return ExistingLora(weights, carried)


def refuse_if_upstream(patcher: ModelPatcher, weights: Mapping[str, LoraWeights]) -> None:
    """The same LoRA must not act twice.

    Raises:
        ValueError: it is already applied to the model by a loader before the trainer.
    """
    for name, ours in weights.items():
        for patch in patcher.patches.get(f"{name}.weight", []):
            adapter = patch[1]
            if isinstance(adapter, LoRAAdapter) and _same(adapter, ours):
                raise ValueError(
                    "The LoRA given as existing_lora is already applied to the model by a LoRA "
                    "loader before the trainer, so it would act twice. Connect the model without "
                    "that loader."
                )


def _same(adapter: LoRAAdapter, ours: LoraWeights) -> bool:
    """True if all that ``adapter`` does to the layer is among what ``ours`` does."""
    up, down = (adapter.weights[i].detach().cpu().float().flatten(1) for i in range(2))
    ours_up, ours_down = ours.up.flatten(1), ours.down.flatten(1)
    rank = down.shape[0]
    if down.shape[1] != ours_down.shape[1]:
        return False
    if rank == ours.rank:
        return torch.equal(up, ours_up) and torch.equal(down, ours_down)
    # One slice of a fused layer: the same rank directions, its rows among zeros.
    alpha = rank if adapter.weights[2] is None else adapter.weights[2]
    for start in range(ours.rank - rank + 1):
        columns = ours_up[:, start : start + rank]
        rows = columns[columns.any(1)]
        if torch.equal(down, ours_down[start : start + rank]) and torch.equal(
            rows, up[up.any(1)] * (alpha / rank)
        ):
            return True
    return False


def _place(key: Any) -> tuple[str, tuple[int, int, int] | None, RowOrder | None]:
    """Of a patch: the weight, the slice of it, the order its rows are put in."""
    return (key, None, None) if isinstance(key, str) else (*key, None)[:3]


def _layer(key: str) -> str:
    if not key.endswith(".weight"):
        raise ValueError(f"The LoRA changes {key}, which is not a layer's weight.")
    return key.removesuffix(".weight")


def _used(patches: Mapping[Any, Any], lora: Mapping[str, Tensor]) -> set[str]:
    used: set[str] = set()
    for patch in patches.values():
        used |= set(getattr(patch, "loaded_keys", ()))
    # The scales that go with a layer's weights are read by the host separately.
    stems = {key.rsplit(".", 2)[0] for key in used} | {key.rsplit(".", 1)[0] for key in used}
    return used | {
        key
        for key in lora
        if key.endswith((".alpha", ".dora_scale")) and key.rsplit(".", 1)[0] in stems
    }


def _low_rank(key: str, patch: Any) -> LoRAAdapter:
    if not isinstance(patch, LoRAAdapter):
        kind = getattr(patch, "name", None) or (patch[0] if isinstance(patch, tuple) else "unknown")
        raise ValueError(
            f"This file holds weights of kind {str(kind)!r} (at {key}); only plain LoRA can be "
            "continued. Apply it with a LoRA loader before the trainer instead and train a new one."
        )
    _, _, _, mid, dora, reshape = patch.weights
    if mid is not None or dora is not None or reshape is not None:
        raise ValueError(
            f"This LoRA uses {'DoRA' if dora is not None else 'a Tucker core'} (at {key}); only "
            "plain LoRA can be continued. Apply it with a LoRA loader before the trainer instead "
            "and train a new one."
        )
    return patch


def _merged(parts: list[_Part], shape: tuple[int, ...], name: str) -> LoraWeights:
    """One low-rank pair per layer; slices of a fused layer become one pair of their summed rank."""
    ups, downs, alphas = [], [], []
    for part in parts:
        up, down, alpha = (part.adapter.weights[i] for i in range(3))
        up = up.detach().cpu().float().flatten(1)
        down = down.detach().cpu().float()
        ups.append(up if part.order is None else _ordered(part.order, up, down, name))
        downs.append(down)
        alphas.append(float(alpha) if alpha is not None else float(down.shape[0]))
    if len(parts) == 1 and parts[0].rows is None:
        return _fitting(LoraWeights(downs[0], ups[0], alphas[0]), shape, name)
    rank = sum(down.shape[0] for down in downs)
    merged = torch.zeros(shape[0], rank)
    column = 0
    for part, up, down, alpha in zip(parts, ups, downs, alphas, strict=True):
        first, length = (0, shape[0]) if part.rows is None else _rows(part.rows, name)
        size = down.shape[0]
        outside = first + length > shape[0]  # some names take q, k, v for thirds
        if outside or up.shape != (length, size) or down[0].numel() != downs[0][0].numel():
            raise ValueError(_wrong_size(name))
        merged[first : first + length, column : column + size] = up * (alpha / size)
        column += size
    # The parts' scales are in the weights now; alpha = rank leaves them alone.
    return _fitting(LoraWeights(torch.cat(downs), merged, float(rank)), shape, name)


def _ordered(order: RowOrder, up: Tensor, down: Tensor, name: str) -> Tensor:
    """``up`` in the model's order of rows, which in some dialects differs from the file's."""
    ordered = order(up)
    if not torch.allclose(ordered @ down.flatten(1), order(up @ down.flatten(1))):
        raise ValueError(f"The LoRA changes {name} in a way that cannot be continued.")
    return ordered


def _rows(part: tuple[int, int, int], name: str) -> tuple[int, int]:
    dimension, start, length = part
    if dimension != 0:
        raise ValueError(f"The LoRA changes only some inputs of {name}; that cannot be continued.")
    return start, length


def _fitting(weights: LoraWeights, shape: tuple[int, ...], name: str) -> LoraWeights:
    rank = weights.rank
    down_shape = (rank, *shape[1:])
    up_shape = (shape[0], rank, *[1] * (len(shape) - 2))
    if weights.down.numel() != torch.Size(down_shape).numel() or (
        weights.up.numel() != torch.Size(up_shape).numel()
    ):
        raise ValueError(_wrong_size(name))
    return LoraWeights(
        weights.down.reshape(down_shape).contiguous(),
        weights.up.reshape(up_shape).contiguous(),
        weights.alpha,
    )


def _wrong_size(name: str) -> str:
    return f"The LoRA does not fit this model: at {name} it is made for a layer of another size."
