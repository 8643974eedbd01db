"""Frozen layers that compute through the host and save no weight for backward.

ComfyUI pages weights: a layer computes with a borrowed view of a staging buffer, with a resident
copy that may be evicted, or with a cast of a quantised weight. Saved for backward by ordinary
autograd, such a view is silently overwritten, or a second copy of the model piles up. Here each
frozen layer is one autograd function: forward is the host's own forward without a graph, backward
asks the host for the weight once more.

One thing is not as in sampling. With quantised weights the host may round a layer's inputs as
well, for the sake of a faster kernel. Early in training the policy differs from the reference by
less than such a step, and in their difference, which preferences are learned from, little would be
left but rounding. So quantised layers compute here with what their weights stand for and with
inputs as they are, in both alike; the gradient is that of the dequantised model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ops
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

Forward = Callable[..., Tensor]
CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d)
_STATISTICS = ("running_mean", "running_var")
_Ops: Any = comfy.ops.disable_weight_init


def is_host_layer(module: nn.Module) -> bool:
    """True for layers whose weights the host manages when they compute."""
    return isinstance(module, comfy.ops.CastWeightBiasOp)


def unreadable_layers(model: nn.Module) -> list[str]:
    """Classes of layers whose weights are in a form that cannot be made out here."""
    return sorted({type(m).__name__ for m in model.modules() if not _is_readable(m)})


def _is_readable(module: nn.Module) -> bool:
    if is_host_layer(module) and _own_cast(module) is not None:
        return True
    return all(p is None or p.is_floating_point() for p in module._parameters.values())


def frozen_forward(layer: Any) -> Forward:
    """The layer's forward with a gradient for its input and none for its weights.

    Args:
        layer: a host layer.

    Raises:
        NotImplementedError: the layer is of a kind whose derivative is not known here.
    """
    function: Any
    if isinstance(layer, nn.Embedding):
        function = None
    elif isinstance(layer, CONVOLUTIONS):
        function = _Convolution
    elif isinstance(layer, NORMS):
        function = _Norm
    elif hasattr(layer, "in_features"):
        function = _Linear
    else:
        raise NotImplementedError(
            f"This model has layers of a kind that cannot be trained through: "
            f"{type(layer).__qualname__}."
        )

    host = type(layer).forward.__get__(layer)  # an override on the instance may be ours

    def inner(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dequantised = function is _Linear and _may_round_inputs(layer)
        y = _dequantised_linear(layer, x) if dequantised else host(x, *args, **kwargs)
        return y if type(y) is Tensor else own_copy(y)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if function is not None and torch.is_grad_enabled() and x.requires_grad:
            return function.apply(x, layer, lambda y: inner(y, *args, **kwargs))
        # Not under no_grad: it would mark the result as a view nobody may update in place.
        y = inner(x, *args, **kwargs)
        return y.detach() if y.requires_grad else y

    return forward


class _Linear(torch.autograd.Function):
    """y = x W' + b; dx = dy W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, inner: Forward) -> Tensor:
        ctx.layer = layer
        return inner(x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with _weights(ctx.layer, grad) as (weight, _):
            result = grad @ weight
        return _smoothed(ctx.layer, result), None, None


def _may_round_inputs(layer: Any) -> bool:
    """Whether the host, on some device, computes this layer with rounded inputs."""
    return isinstance(layer, comfy.ops.fp8_ops.Linear) or isinstance(layer.weight, QuantizedTensor)


def _dequantised_linear(layer: Any, x: Tensor) -> Tensor:
    x = _smoothed(layer, x)
    with _weights(layer, x) as (weight, bias):
        return nn.functional.linear(x, weight, bias)


def _smoothed(layer: Any, x: Tensor) -> Tensor:
    """Inputs as some quantised weights expect them: scaled, which their derivative is by the same.

    Source: Lin et al., AWQ, 2023, equation 4.
    """
    scale = getattr(layer, "pre_quant_scale", None)
    return x if scale is None else x * scale.to(x)


class _Convolution(torch.autograd.Function):
    """Only the input's gradient of a convolution: needs the weight and the input's shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, inner: Forward) -> Tensor:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise NotImplementedError(
                f"This model has convolutions with {layer.padding_mode} padding "
                f"{layer.padding}, which cannot be trained through."
            )
        ctx.layer, ctx.shape = layer, x.shape
        return inner(x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        layer = ctx.layer
        shape_only = grad.new_empty(1).expand(ctx.shape)
        with _weights(layer, grad) as (weight, _):
            result, _, _ = torch.ops.aten.convolution_backward(
                grad, shape_only, weight, None, layer.stride, layer.padding, layer.dilation,
                layer.transposed, layer.output_padding, layer.groups, (True, False, False),
            )
        return result, None, None


class _Norm(torch.autograd.Function):
    """Normalisation layers: the input is kept, the layer recomputed in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, inner: Forward) -> Tensor:
        ctx.layer = layer
        # A copy: several model families add to the residual stream in place afterwards.
        ctx.save_for_backward(x.detach().clone())
        return inner(x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        layer = ctx.layer
        (x,) = ctx.saved_tensors
        with _weights(layer, x) as (weight, bias):
            if _is_just(layer, _Ops.LayerNorm):
                return _layer_norm_gradient(layer, x, weight, grad), None, None
            if _is_just(layer, _Ops.GroupNorm):
                return _group_norm_gradient(layer, x, weight, grad), None, None
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                y = _on_plain_weights(layer, x, _plain(weight), _plain(bias))
                (result,) = torch.autograd.grad(y, x, grad.to(y.dtype))
        return result, None, None


def _is_just(layer: Any, kind: Any) -> bool:
    """True if nothing in the layer's class changes what the host's ``kind`` computes."""
    methods = ("forward", "forward_comfy_cast_weights")
    return isinstance(layer, kind) and all(
        getattr(type(layer), name) is getattr(kind, name) for name in methods
    )


def _layer_norm_gradient(layer: Any, x: Tensor, weight: Tensor | None, grad: Tensor) -> Tensor:
    """By autograd's own kernel, without a graph for one operation: that costs more than it."""
    shape = list(layer.normalized_shape)
    _, mean, deviation = torch.native_layer_norm(x, shape, None, None, layer.eps)
    result: Tensor = torch.ops.aten.native_layer_norm_backward(
        grad.to(x.dtype), x, shape, mean, deviation, weight, None, (True, False, False)
    )[0]
    return result


def _group_norm_gradient(layer: Any, x: Tensor, weight: Tensor | None, grad: Tensor) -> Tensor:
    x, grad = x.contiguous(), grad.to(x.dtype).contiguous()
    sizes = (x.shape[0], x.shape[1], x[0, 0].numel(), layer.num_groups)
    _, mean, deviation = torch.native_group_norm(x, None, None, *sizes, layer.eps)
    result: Tensor = torch.ops.aten.native_group_norm_backward(
        grad, x, mean, deviation, weight, *sizes, (True, False, False)
    )[0]
    return result


@contextmanager
def frozen_weight(layer: Any, dtype: torch.dtype, device: torch.device) -> Iterator[Tensor]:
    """The weight that the layer computes with, LoRAs of the model included; lent, not to keep."""
    with _weights(layer, torch.empty(0, dtype=dtype, device=device)) as (weight, _):
        yield weight


@contextmanager
def _weights(layer: Any, like: Tensor) -> Iterator[tuple[Any, Any]]:
    """The layer's weight and bias in ``like``'s dtype and device, borrowed from the host."""
    comfy.ops.run_every_op()  # as the host does in forward: here Stop is obeyed in backward
    if layer.weight is None:
        yield None, None
        return
    own_cast = _own_cast(layer)
    if own_cast is not None:
        weight, bias = own_cast(like)
        yield _bare(weight), _bare(bias)
        return
    with comfy.ops.CastBiasWeightContext(layer, like, offloadable=True) as (weight, bias):
        dequantised = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        yield _bare(dequantised), _bare(bias)


def _own_cast(layer: Any) -> Callable[[Tensor], tuple[Tensor, Tensor | None]] | None:
    """How a layer gives its weights for an input, if it keeps them in a form of its own.

    Layers of ComfyUI-GGUF do. The host's own leave it to the host.
    """
    return getattr(layer, "cast_bias_weight", None)


def own_copy(tensor: Tensor) -> Tensor:
    """A copy without an extension's class.

    Such classes spread to what is computed with them, and their copies may be none.
    """
    return tensor.detach().as_subclass(Tensor).clone()


def _bare(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or type(tensor) in (Tensor, nn.Parameter):
        return tensor
    return tensor.as_subclass(Tensor)


def _plain(tensor: Tensor | None) -> Tensor | None:
    """Inference tensors cannot take part in a graph; norm weights are small enough to copy."""
    return tensor.clone() if tensor is not None and tensor.is_inference() else tensor


def _on_plain_weights(layer: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The layer's own forward, whatever its class makes of it, without the host's loading."""
    state = vars(layer) | {"comfy_cast_weights": False, "weight_function": [], "bias_function": []}
    state["_parameters"] = {"weight": weight, "bias": bias}
    state["_buffers"] = {
        name: _plain(buffer.to(x)) if name in _STATISTICS else buffer
        for name, buffer in layer._buffers.items()
    }
    state.pop("forward", None)  # ours
    stand_in = object.__new__(type(layer))
    vars(stand_in).update(state)
    return stand_in.forward(x)
