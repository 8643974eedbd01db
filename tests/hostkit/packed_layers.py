"""Layers as extensions bring them that keep weights in a form of their own, as ComfyUI-GGUF does.

None of it is theirs; what it has in common with them is how the host and the pack meet it. The
weight is a tensor whose numbers are bytes and whose shape is that of the matrix; its class spreads
to what is computed with it, and its copies are none. A layer has a method `cast_bias_weight` that
gives what the weight stands for, and writes placeholders into a state dict.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from hostkit.tiny_models import diffusion_state_dict

SCALE_BYTES = 4


class PackedTensor(torch.Tensor):
    """A matrix with a scale and 8-bit numbers for every row, or any tensor as it is."""

    logical: torch.Size | None

    def __new__(cls, data: Tensor, logical: torch.Size | None = None) -> PackedTensor:
        made: PackedTensor = data.as_subclass(cls)
        made.logical = logical
        return made

    def to(self, *args: Any, **options: Any) -> Any:
        moved = super().to(*args, **options)
        moved.logical = getattr(self, "logical", None)
        return moved

    def clone(self, *args: Any, **options: Any) -> Any:
        return self

    def detach(self, *args: Any, **options: Any) -> Any:
        return self

    @property
    def shape(self) -> torch.Size:
        return getattr(self, "logical", None) or self.size()


def packed(weight: Tensor) -> PackedTensor:
    """The matrix in 8 bits."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    numbers = (weight / scale).round().char()
    rows = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], 1)
    return PackedTensor(rows, weight.shape)


def unpacked(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What it stands for."""
    bare = tensor.as_subclass(Tensor)
    if getattr(tensor, "logical", None) is None:
        return bare.to(dtype)
    scale = bare[:, :SCALE_BYTES].contiguous().view(torch.float32)
    return (scale * bare[:, SCALE_BYTES:].view(torch.int8)).to(dtype)


class PackedOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(
            self, in_features: int, out_features: int, *args: Any, **options: Any
        ) -> None:
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            for part in ("weight", "bias"):
                if prefix + part in state:
                    held = torch.nn.Parameter(state[prefix + part], requires_grad=False)
                    setattr(self, part, held)

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            destination[f"{prefix}weight"] = torch.zeros_like(self.weight, device="meta")
            if self.bias is not None:
                destination[f"{prefix}bias"] = torch.zeros_like(self.bias, device="meta")

        def cast_bias_weight(
            self,
            input: Tensor | None = None,
            dtype: torch.dtype | None = None,
            device: torch.device | None = None,
            bias_dtype: torch.dtype | None = None,
        ) -> tuple[Tensor, Tensor | None]:
            assert input is not None
            weight, bias = self.weight.to(input.device), self.bias
            if bias is not None:
                bias = unpacked(bias.to(input.device), input.dtype)
            return unpacked(weight, input.dtype), bias

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:
            return torch.nn.functional.linear(input, *self.cast_bias_weight(input))


def packed_patcher(kind: str, load_device: torch.device | None = None) -> ModelPatcher:
    """The tiny model with the blocks' matrices packed, as an extension's loader makes it.

    Such loaders keep to the classic patcher, also where the host pages.
    """
    with torch.inference_mode():
        state = {
            name: packed(weight) if "blocks." in name and weight.ndim == 2 else PackedTensor(weight)
            for name, weight in diffusion_state_dict(kind).items()
        }
        device = load_device or comfy.model_management.get_torch_device()
        options = {"custom_operations": PackedOps, "load_device": device}
        paged = comfy.sd.load_diffusion_model_state_dict(state, model_options=options)
        return ModelPatcher(paged.model, device, paged.offload_device)
