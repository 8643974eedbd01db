"""What an adapter computes at one layer, for every type of adapter.

The frozen layer's weight W stays with its owner, who computes with it. PEFT makes the trainable
matrices and their initial values over a stand-in that has W's shape and none of its numbers. How
they act is written here: in the precision of the activations, with what is kept for backward no
larger than the activations themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("lora", "rslora", "dora", "loha", "lokr")
LOW_RANK = ("lora", "rslora", "dora")
"""Those that go through a few directions, which dropout can leave out."""

_PEFT = "default"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MOST_NUMBERS = 2**24
"""How much of a frozen weight is taken into fp32 at once."""

Forward = Callable[[Tensor], Tensor]
BorrowedWeight = Callable[[], AbstractContextManager[Tensor]]
Parts = Mapping[str, nn.Parameter]


@dataclass
class Draw:
    """What holds for one layer during one micro-batch, in whichever pass.

    Attributes:
        kept: of a dropout, shape (rank,): 0 for directions left out, the others enlarged.
        norm: of the adapted weight's columns, once it is known.
    """

    kept: Tensor | None = None
    norm: Tensor | None = None


class AdapterLayer(ABC):
    """The trainable part of one layer.

    Attributes:
        parts: parameters by their names in a LoRA file, fp32.
        rank: of the matrices; 0 if none of them has one.
        alpha: what a LoRA loader divides by the rank; None if it would not look at it.
    """

    parts: Parts
    rank: int
    alpha: float | None

    @abstractmethod
    def forward(self, frozen: Forward, x: Tensor, draw: Draw) -> Tensor:
        """The adapted layer's output for ``x``; ``frozen`` gives the frozen layer's."""

    def initialise(self) -> None:  # noqa: B027 (most have nothing to do)
        """Sets what starts from the frozen weight, which must be loaded by now."""


class LoraLayer(AdapterLayer):
    """W + alpha / rank * B A. Hu et al. 2021 (arXiv:2106.09685), eq. 3.

    Also for rsLoRA, Kalajdzievski 2023 (arXiv:2312.03732): alpha is then its own times sqrt(rank).
    """

    def __init__(self, layer: nn.Module, parts: Parts, alpha: float) -> None:
        self._down, self._up = parts["lora_A.weight"], parts["lora_B.weight"]
        self.parts = parts
        self.rank, self.alpha = self._down.shape[0], alpha
        self._scale = alpha / self.rank
        self._operation = _Operation(layer)

    def forward(self, frozen: Forward, x: Tensor, draw: Draw) -> Tensor:
        return self._added(frozen(x), x, self._down, draw)

    def _added(self, y: Tensor, x: Tensor, down: Tensor, draw: Draw) -> Tensor:
        if draw.kept is not None:
            down = down * draw.kept.reshape(-1, *[1] * (down.ndim - 1))
        # Weights are cast down. Casting activations up would keep them in twice the size.
        inner, up = self._operation(x, down.to(x.dtype)), self._up.to(x.dtype)
        if not self._operation.kernel and y.dtype == x.dtype:
            # One kernel, where three would go over values of the output's size.
            rows, mixed = y.reshape(-1, y.shape[-1]), inner.reshape(-1, self.rank)
            return torch.addmm(rows, mixed, up.t(), alpha=self._scale).view(y.shape)
        return (y + self._operation.mixed(inner * self._scale, up)).to(y.dtype)


class DoraLayer(LoraLayer):
    """(W + s B A) r with r_j = m_j / |(W + s B A)_j|: directions by a LoRA, lengths by m.

    Liu et al. 2024 (arXiv:2402.09353): eq. 5, with the norm a constant to the gradient as in
    section 4.3. Column j holds all weights of input j, which is why r can act on the input.
    """

    def __init__(
        self, layer: nn.Module, parts: Parts, alpha: float, weight: BorrowedWeight
    ) -> None:
        super().__init__(layer, parts, alpha)
        self._weight = weight
        self._magnitude = parts["dora_scale"]

    def forward(self, frozen: Forward, x: Tensor, draw: Draw) -> Tensor:
        if draw.norm is None:
            draw.norm = self._norm()
        ratio = self._magnitude / draw.norm
        # B A (x r) = B (A r) x, so that x alone is kept for both.
        return self._added(frozen(_Scaled.apply(x, ratio[0])), x, self._down * ratio, draw)

    @torch.no_grad()
    def initialise(self) -> None:
        if bool(self._magnitude.isnan().any()):
            self._magnitude.copy_(self._norm())

    @torch.no_grad()
    def _norm(self) -> Tensor:
        """Lengths of the columns of W + s B A, shape (1, in, *ones), fp32.

        LoRA loaders add fp32's epsilon, so it belongs to what is trained.
        """
        down = self._down.flatten(1)
        squares = torch.zeros_like(self._magnitude)
        with self._weight() as weight:
            rows = max(1, _MOST_NUMBERS // weight[0].numel())
            for start in range(0, weight.shape[0], rows):
                part = weight[start : start + rows].to(squares.dtype)
                change = self._up[start : start + rows].flatten(1) @ down
                part = part + self._scale * change.reshape(part.shape)
                squares += part.square().sum_to_size(squares.shape)
        return squares.sqrt() + torch.finfo(torch.float32).eps


class LohaLayer(AdapterLayer):
    """W + alpha / rank * (W1a W1b) * (W2a W2b), a product of numbers, not of matrices.

    Hyeon-Woo et al. 2022 (arXiv:2108.06098), proposition 1.
    """

    def __init__(self, layer: nn.Module, parts: Parts, alpha: float) -> None:
        self.parts = parts
        self.rank, self.alpha = parts["hada_w1_b"].shape[0], alpha
        self._scale = alpha / self.rank
        self._operation = _Operation(layer)

    def forward(self, frozen: Forward, x: Tensor, draw: Draw) -> Tensor:
        y = frozen(x)
        return (y + _Recomputed.apply(self._change, x, *self.parts.values())).to(y.dtype)

    def _change(self, x: Tensor, *parts: Tensor) -> Tensor:
        w1_a, w1_b, w2_a, w2_b = parts
        weight = (w1_a @ w1_b) * (w2_a @ w2_b) * self._scale
        return self._operation(x, weight.reshape(self._operation.shape).to(x.dtype))


class LokrLayer(AdapterLayer):
    """W + alpha / rank * (W1 kron W2), W2 = W2a W2b where that is smaller; W1 likewise.

    Yeh et al. 2024 (arXiv:2309.14859), section 3. The rank is W2's, else W1's. Where both are whole
    there is none, and alpha has no effect.
    """

    def __init__(self, layer: nn.Module, parts: Parts, alpha: float) -> None:
        self.parts = parts
        ranks = [parts[name].shape[0] for name in ("lokr_w2_b", "lokr_w1_b") if name in parts]
        self.rank, self.alpha = (ranks[0], alpha) if ranks else (0, None)
        self._scale = 1.0 if self.alpha is None else self.alpha / self.rank
        self._operation = _Operation(layer)

    def forward(self, frozen: Forward, x: Tensor, draw: Draw) -> Tensor:
        y = frozen(x)
        return (y + self._change(x) * self._scale).to(y.dtype)

    def _change(self, x: Tensor) -> Tensor:
        """(W1 kron W2) x without that matrix: W2 on every slice of the input, W1 across them."""
        first, second = (self._factor(name).to(x.dtype) for name in ("lokr_w1", "lokr_w2"))
        slices = first.shape[1]
        if not self._operation.kernel:
            inner = F.linear(x.unflatten(-1, (slices, -1)), second)
            return (first @ inner).flatten(-2)
        # Channels are the first of the last dimensions; what is before them is the batch.
        batch, sites = x.shape[: -1 - len(self._operation.kernel)], len(self._operation.kernel)
        apart = x.unflatten(-1 - sites, (slices, -1)).flatten(0, len(batch))
        kernel = second.reshape(second.shape[0], -1, *self._operation.kernel)
        inner = self._operation(apart, kernel)
        mixed = first @ inner.reshape(*batch, slices, -1)
        return mixed.reshape(*batch, -1, *inner.shape[-sites:])

    def _factor(self, name: str) -> Tensor:
        if name in self.parts:
            return self.parts[name]
        return self.parts[f"{name}_a"] @ self.parts[f"{name}_b"]


def new_parts(
    layers: Sequence[nn.Module],
    kind: str,
    ranks: Sequence[int],
    device: torch.device,
    seed: int,
) -> list[dict[str, nn.Parameter]]:
    """The parts of new adapters for ``layers``; initial values depend on ``seed`` alone.

    Raises:
        ValueError: PEFT has no such adapter for one of them.
    """
    # PEFT reads dots as paths; numbered children keep a model's own names out of its patterns.
    root = nn.Module()
    children = [f"t{i}" for i in range(len(layers))]
    for child, layer in zip(children, layers, strict=True):
        root.add_module(child, _stand_in(layer, device))
    config = _config(kind, dict(zip(children, ranks, strict=True)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        try:
            inject_adapter_in_model(config, root, adapter_name=_PEFT)
        except TypeError as error:
            raise ValueError(f"type {kind} cannot attach to every layer chosen: {error}") from error
    return [_parts(kind, root.get_submodule(child)) for child in children]


def _parts(kind: str, made: Any) -> dict[str, nn.Parameter]:
    """What PEFT has made, by its names in a LoRA file."""
    names: tuple[str, ...]
    if kind == "loha":
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        return {name: getattr(made, name)[_PEFT] for name in names}
    if kind == "lokr":
        if _PEFT in made.lokr_w2:
            # Flat: loaders do not agree on kernels.
            whole = made.lokr_w2[_PEFT].detach().flatten(1).clone()
            return {"lokr_w1": made.lokr_w1[_PEFT], "lokr_w2": nn.Parameter(whole)}
        names = ("lokr_w1", "lokr_w2_a", "lokr_w2_b")
        return {name: getattr(made, name)[_PEFT] for name in names}
    down = made.lora_A[_PEFT].weight
    parts = {"lora_A.weight": down, "lora_B.weight": made.lora_B[_PEFT].weight}
    if kind == "dora":
        # Not a number until initialised: no result is better than a wrong one.
        shape = [1, down.shape[1], *[1] * (down.ndim - 2)]
        parts["dora_scale"] = nn.Parameter(torch.full(shape, torch.nan, device=down.device))
    return parts


def weight_shape(layer: Any) -> tuple[int, ...]:
    """Of a layer's weight: (out, in, *kernel)."""
    if isinstance(layer, _CONVOLUTIONS):
        return (layer.out_channels, layer.in_channels, *layer.kernel_size)
    return (layer.out_features, layer.in_features)


def _config(kind: str, ranks: dict[str, int]) -> Any:
    ((usual, _),) = Counter(ranks.values()).most_common(1)
    others = {child: rank for child, rank in ranks.items() if rank != usual}
    shape: dict[str, Any] = {"r": usual, "target_modules": list(ranks), "rank_pattern": others}
    if kind == "loha":
        return LoHaConfig(**shape, use_effective_conv2d=False)
    if kind == "lokr":
        return LoKrConfig(**shape, use_effective_conv2d=False)
    return LoraConfig(**shape)


def _stand_in(layer: Any, device: torch.device) -> nn.Module:
    """A layer of the same geometry that holds no weights."""
    stand_in: nn.Module
    if isinstance(layer, _CONVOLUTIONS):
        kind: Any = next(k for k in _CONVOLUTIONS if isinstance(layer, k))
        stand_in = kind(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
            layer.padding, layer.dilation, layer.groups, bias=False, device="meta",
        )
    else:
        stand_in = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    # PEFT takes device and dtype from the weight: one zero, expanded, says fp32 on the device.
    zero = torch.zeros(1, device=device).expand(weight_shape(layer))
    stand_in.weight = nn.Parameter(zero, requires_grad=False)
    return stand_in


class _Operation:
    """A layer's product or convolution with another weight, without bias.

    Attributes:
        shape: of the weight.
        kernel: () for a linear layer.
    """

    def __init__(self, layer: Any) -> None:
        self.kernel: tuple[int, ...] = ()
        if isinstance(layer, _CONVOLUTIONS):
            self.kernel = tuple(layer.kernel_size)
            self._places = (layer.stride, layer.padding, layer.dilation)
        self._function: Any = (F.linear, F.conv1d, F.conv2d, F.conv3d)[len(self.kernel)]
        self.shape = weight_shape(layer)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.kernel:
            return F.linear(x, weight)
        return self._function(x, weight, None, *self._places)

    def mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's channels mixed at each place alone, by a weight of kernel 1."""
        return self._function(x, weight)


class _Scaled(torch.autograd.Function):
    """x times an fp32 ratio per channel, rounded once; only x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ratio: Tensor) -> Tensor:
        ctx.save_for_backward(x, ratio)
        if 0 in x.stride():  # expanded
            return (x * ratio).to(x.dtype)
        # With x's own strides: in another layout the frozen layer may choose another kernel, and a
        # ratio of one would not give the reference's result.
        out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
        return out.copy_(x * ratio)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, ratio = ctx.saved_tensors
        to_ratio = (grad.to(ratio.dtype) * x).sum_to_size(ratio.shape)
        return (grad * ratio).to(x.dtype), to_ratio


class _Recomputed(torch.autograd.Function):
    """A function of few numbers that is large inside: only its inputs are kept."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        inputs = [
            tensor.detach().requires_grad_(wanted)
            for tensor, wanted in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            output = ctx.function(*inputs)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, grad))
        return None, *(next(found) if tensor.requires_grad else None for tensor in inputs)


