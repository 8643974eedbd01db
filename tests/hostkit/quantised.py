"""Files that hold a model's matrices in fewer bits, in every way that ComfyUI reads.

The host's own layouts quantise, so a file has the numbers that a converter would write; what they
stand for is what the host dequantises them to.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from safetensors.torch import save_file
from torch import Tensor

from hostkit.random_weights import StateDict

Write = Callable[[StateDict], StateDict]
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Storage:
    """A way to hold matrices.

    Attributes:
        title: what people call it.
        write: the file's tensors for the fp32 ones of a network.
        options: what the loader is told besides the file.
        in_header: formats of layers stand in the file's header.
    """

    title: str
    write: Write
    options: Mapping[str, Any] = field(default_factory=dict)
    in_header: bool = False

    def save(self, weights: StateDict, path: Path) -> None:
        """Writes the file."""
        held = self.write(weights)
        metadata = None
        if self.in_header:
            marks = [name for name in held if name.endswith(".comfy_quant")]
            formats = {
                mark.removesuffix(".comfy_quant"): json.loads(bytes(held.pop(mark).tolist()))
                for mark in marks
            }
            metadata = {"_quantization_metadata": json.dumps({"layers": formats})}
        save_file(held, path, metadata)


def _cast(dtype: torch.dtype) -> Write:
    return lambda weights: {name: weight.to(dtype) for name, weight in weights.items()}


def _each(write: Callable[[str, Tensor], StateDict]) -> Write:
    """Applies ``write`` to the matrices of the blocks; the rest of the file stays as it is.

    So do small ones, as large models have none: where it pages, the host does not page layers
    below 16 KB, and rounds them once more.
    """

    def whole(weights: StateDict) -> StateDict:
        found: StateDict = {}
        for name, weight in weights.items():
            matrix = "blocks." in name and name.endswith(".weight") and weight.ndim == 2
            layer = name.removesuffix(".weight")
            found |= write(layer, weight) if matrix and weight.numel() > 1 << 15 else {name: weight}
        return found

    return whole


def _layers(
    kind: str, description: Mapping[str, Any] | None = None, inputs: bool = False, **how: Any
) -> Write:
    """Every layer says its format, as in files of today.

    ``how`` goes to the host's quantiser, and what the host must know of it into ``description``.
    With ``inputs`` the file says how inputs are to be scaled, too.
    """

    def write(layer: str, weight: Tensor) -> StateDict:
        smooth = torch.ones(weight.shape[1])
        if inputs and kind == "nvfp4":
            smooth = 1 + 0.5 * torch.rand(smooth.shape, generator=torch.Generator().manual_seed(0))
        layout = QUANT_ALGOS[kind]["comfy_tensor_layout"]
        quantised = QuantizedTensor.from_float(weight / smooth, layout, **how)
        found: StateDict = quantised.state_dict(f"{layer}.weight")
        if kind == "asym_w4a8_int8":  # the host names these otherwise than it writes them
            params = quantised.params
            found = {f"{layer}.weight": quantised._qdata, f"{layer}.weight_s_rel": params.scale,
                     f"{layer}.weight_s_channel": params.s_channel,
                     f"{layer}.weight_codebook": params.codebook}
        mark = json.dumps({"format": kind, **(description or {})})
        found[f"{layer}.comfy_quant"] = torch.tensor(list(mark.encode()), dtype=torch.uint8)
        if inputs:
            found[f"{layer}.input_scale"] = torch.tensor(0.02)
            if kind == "nvfp4":
                found[f"{layer}.pre_quant_scale"] = smooth
        return found

    return _each(write)


def _marked_file(marker: Tensor, inputs: bool) -> Write:
    """The first files with scales: one mark for all, e4m3fn, and other names."""

    def write(layer: str, weight: Tensor) -> StateDict:
        scale = weight.abs().amax() / torch.finfo(FP8).max
        found = {f"{layer}.weight": (weight / scale).to(FP8), f"{layer}.scale_weight": scale}
        return found | ({f"{layer}.scale_input": torch.tensor(0.02)} if inputs else {})

    return lambda weights: _each(write)(weights) | {"scaled_fp8": marker}


_ROTATED = {"convrot": True, "convrot_groupsize": 64}
_GROUPS = {"convrot_groupsize": 64}

STORAGES: dict[str, Storage] = {
    "fp8_e4m3fn": Storage("fp8 (e4m3fn)", _cast(FP8), {"dtype": FP8}),
    "fp8_e4m3fn_fast": Storage(
        "fp8 (e4m3fn), fast", _cast(FP8), {"dtype": FP8, "fp8_optimizations": True}
    ),
    "fp8_e5m2": Storage("fp8 (e5m2)", _cast(torch.float8_e5m2), {"dtype": torch.float8_e5m2}),
    "scaled_fp8": Storage("fp8 scaled, marked file", _marked_file(torch.zeros(0, dtype=FP8), True)),
    "scaled_fp8_precise": Storage(
        "fp8 scaled, marked file, full-precision matrix product",
        _marked_file(torch.zeros(2, dtype=FP8), False),
    ),
    "fp8_layers": Storage(
        "fp8 scaled (e4m3fn), by layer",
        _layers("float8_e4m3fn", inputs=True, scale="recalculate"),
    ),
    "fp8_layers_in_header": Storage(
        "fp8 scaled (e5m2), by layer, in the header",
        _layers("float8_e5m2", scale="recalculate"),
        in_header=True,
    ),
    "mxfp8": Storage("mxfp8", _layers("mxfp8")),
    "nvfp4": Storage("nvfp4", _layers("nvfp4")),
    "nvfp4_smoothed": Storage("nvfp4, inputs smoothed (AWQ)", _layers("nvfp4", inputs=True)),
    "int8": Storage("int8", _layers("int8_tensorwise")),
    "int8_rotated": Storage(
        "int8 by row, rotated (ConvRot)",
        _layers("int8_tensorwise", _ROTATED, per_channel=True, **_ROTATED),
    ),
    "w4a4": Storage("int4, rotated (ConvRot W4A4)", _layers("convrot_w4a4", _GROUPS, **_GROUPS)),
    "w4a8": Storage("int4, 8-bit inputs (W4A8)", _layers("asym_w4a8_int8", _GROUPS, **_GROUPS)),
}


@contextlib.contextmanager
def card_with_kernels() -> Iterator[None]:
    """Models loaded inside compute as on a card with fp8, mxfp8 and nvfp4: with rounded inputs."""
    management = comfy.model_management
    with contextlib.ExitStack() as stack:
        for name in ("supports_fp8_compute", "supports_mxfp8_compute", "supports_nvfp4_compute"):
            stack.enter_context(mock.patch.object(management, name, lambda device=None: True))
        yield


def dequantised(layer: Any) -> Tensor:
    """What a layer's weight stands for, by the host's books; fp32."""
    weight = layer.weight.detach()
    if isinstance(weight, QuantizedTensor):
        weight = weight.dequantize()
    smooth = getattr(layer, "pre_quant_scale", None)
    return weight.float() * (1 if smooth is None else smooth.float())
