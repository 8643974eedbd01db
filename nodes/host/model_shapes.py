"""The host's model without its numbers: what it would compute, at no cost of memory.

Every tensor is replaced by one on torch's ``meta`` device, which has a shape, a dtype and no
content; the modules' code stays the host's own. Running it moves and changes nothing, whatever
state the real model is in.
"""

from __future__ import annotations

from functools import cache
from types import MethodType
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from .frozen_layer import is_host_layer

META = torch.device("meta")
_LOADING = (
    "_v", "_v_signature", "_v_block", "_pin_state", "_pins", "_prefetch", "forward",
    "prev_comfy_cast_weights", "comfy_patched_weights", "weight_function", "bias_function",
    "weight_lowvram_function", "bias_lowvram_function", "layout_type",
)  # fmt: skip
"""What says where a layer's weights are, and how they are brought."""


class ModelShapes:
    """Stands in for the host's patcher where a model is trained; it is loaded at all times.

    Patches that the user has put on the model's calls are left out: they may remember what they
    were called with.

    Args:
        patcher: the model; neither changed nor kept from being loaded, unloaded or trained.
    """

    def __init__(self, patcher: ModelPatcher) -> None:
        fuse_attention()
        self._real = patcher
        self._injections: list[PatcherInjection] = []
        known: dict[int, nn.Module] = {}
        self.model: Any = _shapes(patcher.model, known)
        self.model.device = self.load_device = META
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        for name, value in patcher.object_patches.items():
            comfy.utils.set_attr(self.model, name, _shapes(value, known))

    def clone(self) -> ModelShapes:
        return self

    def get_model_object(self, name: str) -> Any:
        return self._real.get_model_object(name)

    def set_injections(self, key: str, injections: list[PatcherInjection]) -> None:
        self._injections = injections
        for one in injections:
            one.inject(self)

    def eject_model(self) -> None:
        for one in self._injections:
            one.eject(self)

    def remove_injections(self, key: str) -> None:
        self._injections = []


def _shapes(value: Any, known: dict[int, nn.Module]) -> Any:
    """``value`` with every module and tensor in it replaced."""
    if isinstance(value, nn.Module):
        return known[id(value)] if id(value) in known else _module(value, known)
    if isinstance(value, Tensor):
        return _tensor(value)
    if type(value) in (list, tuple):
        return type(value)(_shapes(one, known) for one in value)
    if type(value) is dict:
        return {key: _shapes(one, known) for key, one in value.items()}
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, _shapes(value.__self__, known))
    return value


def _module(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    found = object.__new__(type(module))
    known[id(module)] = found
    left_out = _LOADING if is_host_layer(module) else ()
    # Not its own way of copying, which some classes forbid, and which would take hooks and all.
    for name, value in vars(module).items():
        if name not in left_out:
            vars(found)[name] = _shapes(value, known)
    return found


def _tensor(tensor: Tensor) -> Tensor:
    # A quantised weight is brought to the dtype of the computation wherever it is used.
    dtype = torch.float8_e4m3fn if isinstance(tensor, QuantizedTensor) else tensor.dtype
    found = torch.empty(tensor.shape, dtype=dtype, device=META)
    return nn.Parameter(found, requires_grad=False) if isinstance(tensor, nn.Parameter) else found


class _Attention(torch.autograd.Function):
    """What a fused kernel keeps: inputs, output, and one number per query; no matrix of scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        heads, queries = q.shape[-3:-1]
        # Laid out as fused kernels give it, so that joining the heads is a view.
        out = q.new_empty(*q.shape[:-3], queries, heads, v.shape[-1]).transpose(-2, -3)
        weights = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, weights, *([] if mask is None else [mask]))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    return _Attention.apply(q, k, v, attn_mask)


@cache
def fuse_attention() -> torch.library.Library:
    """Attention of tensors without numbers, which torch would else write out in full."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("scaled_dot_product_attention", _attention, "AutogradMeta")
    return library
