"""Adapters as the host reads them from a file, as weights that can be trained on."""

from __future__ import annotations

from typing import Any

import torch
from comfy.weight_adapter.loha import LoHaAdapter
from comfy.weight_adapter.lokr import LoKrAdapter
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ...dpo_core.training.lora_weights import LoraWeights

_NAMES = {
    "glora": "GLoRA", "oft": "OFT", "boft": "BOFT", "diff": "whole differences",
    "set": "replaced weights",
}


def layer_weights(patch: Any, name: str, shape: tuple[int, ...]) -> LoraWeights:
    """What ``patch`` holds for the layer ``name``, whose weight has this shape; fp32, on the CPU.

    A Tucker core is multiplied into the matrix beside it, which changes neither the rank nor what
    the layer computes.

    Raises:
        ValueError: it cannot be refined, or is for a layer of another size.
    """
    if len(shape) < 2:
        raise ValueError(not_refined("weights of norms", name))
    try:
        weights = _weights(patch, name, shape)
    except (IndexError, RuntimeError) as error:  # matrices that do not go together
        raise ValueError(wrong_size(name)) from error
    if not weights.fits(shape):
        raise ValueError(wrong_size(name))
    return weights


def wrong_size(name: str) -> str:
    return f"The LoRA does not fit this model: at {name} it is made for a layer of another size."


def not_refined(what: str, name: str) -> str:
    return (
        f"The LoRA holds {what} (at {name}), which cannot be refined. Apply it with a LoRA loader "
        "before the trainer, without existing_lora: a new LoRA is then trained on top of it, and "
        "the two are used together."
    )


def _weights(patch: Any, name: str, shape: tuple[int, ...]) -> LoraWeights:
    if isinstance(patch, LoRAAdapter):
        return _lora(patch, name, shape)
    if isinstance(patch, LoHaAdapter):
        return _loha(patch, name)
    if isinstance(patch, LoKrAdapter):
        return _lokr(patch, name)
    kind = patch[0] if isinstance(patch, tuple) else getattr(patch, "name", "")
    raise ValueError(not_refined(_NAMES.get(kind, "weights of another type"), name))


def _lora(adapter: LoRAAdapter, name: str, shape: tuple[int, ...]) -> LoraWeights:
    up, down, alpha, core, lengths, reshaped = adapter.weights
    if reshaped is not None:
        raise ValueError(
            f"The LoRA makes a layer of the model larger ({name}), as those for control pictures "
            "do: it cannot be refined."
        )
    up, down = _plain(up).flatten(1), _plain(down)
    scale = 1.0 if alpha is None else alpha / down.shape[0]
    if core is not None:
        down = torch.einsum("mn...,nj->mj...", _plain(core), down.flatten(1))
    rank = down.shape[0]
    parts = {
        "lora_A.weight": down.reshape(rank, *shape[1:]).contiguous(),
        "lora_B.weight": up.reshape(shape[0], rank, *[1] * (len(shape) - 2)).contiguous(),
    }
    if lengths is not None:
        lengths = _plain(lengths)
        if lengths.ndim < 2 or lengths.shape[0] == shape[0]:
            raise ValueError(not_refined("DoRA with a length for every output", name))
        parts["dora_scale"] = lengths.reshape(1, shape[1], *[1] * (len(shape) - 2))
    return LoraWeights(parts, _alpha(alpha, scale, rank, core))


def _loha(adapter: LoHaAdapter, name: str) -> LoraWeights:
    w1_a, w1_b, alpha, w2_a, w2_b, *cores, lengths = adapter.weights
    if lengths is not None:
        raise ValueError(not_refined("LoHa with lengths (DoRA)", name))
    scale = 1.0 if alpha is None else alpha / w1_b.shape[0]
    parts = {}
    for number, (a, b, core) in enumerate(zip((w1_a, w2_a), (w1_b, w2_b), cores, strict=True), 1):
        parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"] = _factors(a, b, core)
    rank = parts["hada_w1_b"].shape[0]
    return LoraWeights(parts, _alpha(alpha, scale, rank, cores[0]))


def _lokr(adapter: LoKrAdapter, name: str) -> LoraWeights:
    w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, core, lengths = adapter.weights
    if lengths is not None:
        raise ValueError(not_refined("LoKr with lengths (DoRA)", name))
    if w2 is not None and w2.ndim not in (2, 4):
        raise ValueError(not_refined("LoKr with a kernel that is not flat", name))
    whole = {"lokr_w1": w1, "lokr_w2": w2}
    parts = {part: _plain(w).flatten(1).contiguous() for part, w in whole.items() if w is not None}
    if w1 is None:
        parts["lokr_w1_a"], parts["lokr_w1_b"] = _factors(w1_a, w1_b, None)
    if w2 is None:
        parts["lokr_w2_a"], parts["lokr_w2_b"] = _factors(w2_a, w2_b, core)
    rank = LoraWeights(parts, None).rank
    if not rank:
        return LoraWeights(parts, None)  # alpha has no effect
    of_rank = w2_b if w2 is None else w1_b
    scale = 1.0 if alpha is None else alpha / of_rank.shape[0]
    return LoraWeights(parts, _alpha(alpha, scale, rank, core))


def _factors(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """The two matrices, flat; a Tucker core, shape (rank of a, rank of b, *kernel), goes into b."""
    a, b = _plain(a), _plain(b)
    if core is None:
        return a.flatten(1).contiguous(), b.flatten(1).contiguous()
    wide = torch.einsum("ij...,jr->ir...", _plain(core), b)
    return a.t().contiguous(), wide.flatten(1).contiguous()


def _alpha(alpha: float | None, scale: float, rank: int, core: Tensor | None) -> float:
    """What divided by the rank gives the scale; as it stands in the file where it can."""
    return float(alpha) if alpha is not None and core is None else scale * rank


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32)
