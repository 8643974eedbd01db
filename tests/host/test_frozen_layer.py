"""A frozen layer computes as the host's and has the derivative of its kind, saving no weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import comfy.ops
import pytest
import torch
from comfy.ldm.cascade.common import LayerNorm2d_op
from comfy.quant_ops import QuantizedTensor
from hostkit.load_states import load_state
from hostkit.training import pack_module
from torch import Tensor, nn

frozen_forward = pack_module("nodes.host.frozen_layer").frozen_forward
Ops = comfy.ops.manual_cast

# A host layer, the same of torch, and a shape it takes.
LAYERS: dict[str, tuple[Callable[[Any], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda ops: ops.Linear(6, 10), (2, 3, 6)),
    "linear without bias": (lambda ops: ops.Linear(6, 10, bias=False), (4, 6)),
    "convolution": (lambda ops: ops.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 8)),
    "strided convolution": (lambda ops: ops.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 8)),
    "grouped convolution": (
        lambda ops: ops.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2), (2, 4, 8, 8),
    ),
    "convolution in time": (lambda ops: ops.Conv1d(4, 6, 5, stride=2), (2, 4, 17)),
    "convolution in space": (lambda ops: ops.Conv3d(4, 6, (1, 3, 3), padding=1), (1, 4, 3, 5, 5)),
    "transposed convolution": (
        lambda ops: ops.ConvTranspose2d(4, 6, 4, stride=2, padding=1, output_padding=1),
        (2, 4, 5, 5),
    ),
    "group norm": (lambda ops: ops.GroupNorm(2, 8), (2, 8, 5, 5)),
    "layer norm": (lambda ops: ops.LayerNorm(6), (2, 3, 6)),
    "layer norm without weights": (
        lambda ops: ops.LayerNorm(6, elementwise_affine=False), (2, 3, 6),
    ),
    "layer norm over channels": (
        lambda ops: LayerNorm2d_op(ops)(4, eps=1e-6), (2, 4, 5, 5),
    ),
    "rms norm": (lambda ops: ops.RMSNorm(6, eps=1e-6), (2, 3, 6)),
    "batch norm": (lambda ops: ops.BatchNorm2d(4).eval(), (2, 4, 5, 5)),
}


def random_(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return layer.requires_grad_(False)


def backward(forward: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, list[Any]]:
    """Output, gradient of the input, and what was saved for backward."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward(x)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    (gradient,) = torch.autograd.grad(y, x, direction)
    return y.detach(), gradient, saved


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_output_and_gradient_are_those_of_torch(name: str, storage: torch.dtype) -> None:
    make, shape = LAYERS[name]
    layer, plain = random_(make(Ops)).to(storage), make(nn)
    plain.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    plain.requires_grad_(False)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    output, gradient, saved = backward(frozen_forward(layer), x)
    expected, expected_gradient, _ = backward(plain, x)
    assert torch.allclose(output, expected, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5)
    assert torch.equal(output, layer(x))
    # Norms keep their input; nothing else keeps anything.
    assert [s.shape for s in saved] == ([x.shape] if "norm" in name else [])


def test_frozen_layers_made_while_executing_have_gradients() -> None:
    with torch.inference_mode():
        layers = [random_(LAYERS[name][0](Ops)) for name in LAYERS]
    for layer, (_, shape) in zip(layers, LAYERS.values(), strict=True):
        x = torch.randn(shape)
        _, gradient, _ = backward(frozen_forward(layer), x)
        assert gradient.norm() > 0 and not gradient.is_inference()


def test_a_norms_input_may_be_changed_afterwards() -> None:
    layer = random_(Ops.LayerNorm(6))
    start = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    forward = frozen_forward(layer)
    gradients = []
    for amount in (0, 100):
        leaf = start.clone().requires_grad_()
        stream = leaf * 1
        y = forward(stream)
        stream += amount * y.detach()  # as Flux does with its residual stream
        gradients += torch.autograd.grad(y.square().sum(), leaf)
    assert torch.equal(*gradients)


def test_a_layers_result_may_be_updated_in_place() -> None:
    layer = random_(Ops.Linear(6, 6))
    for x in (torch.randn(2, 6), torch.randn(2, 6, requires_grad=True)):
        y = frozen_forward(layer)(x)
        y += torch.ones(6, requires_grad=True)
        y.sum().backward()


def test_integer_inputs_and_data_without_gradient_make_no_graph() -> None:
    table = random_(Ops.Embedding(5, 3))
    assert frozen_forward(table)(torch.tensor([1, 4])).shape == (2, 3)
    layer = random_(Ops.Linear(6, 6))
    assert not frozen_forward(layer)(torch.randn(2, 6)).requires_grad
    with torch.no_grad():
        assert not frozen_forward(layer)(torch.randn(2, 6, requires_grad=True)).requires_grad


def test_what_cannot_be_differentiated_is_refused() -> None:
    class Odd(nn.Module, comfy.ops.CastWeightBiasOp):
        pass

    with pytest.raises(NotImplementedError, match=r"cannot be trained through: .*Odd"):
        frozen_forward(Odd())
    for layer in (
        Ops.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        Ops.Conv2d(4, 4, 3, padding="same"),
    ):
        with pytest.raises(NotImplementedError, match="convolutions with"):
            frozen_forward(random_(layer))(torch.randn(1, 4, 5, 5, requires_grad=True))


def test_borrowed_weights_are_given_back_when_backward_fails() -> None:
    with load_state("resident", "sd3", quantized=True) as (patcher, _):
        layer = next(
            module for module in patcher.model.modules()
            if hasattr(module, "_v") and isinstance(module.weight, QuantizedTensor)
        )
        pages = layer._v[0]
        x = torch.randn(2, layer.in_features, requires_grad=True)
        y = frozen_forward(layer)(x).sum()
        with (
            mock.patch.object(QuantizedTensor, "dequantize", side_effect=MemoryError),
            pytest.raises(MemoryError),
        ):
            y.backward()
        assert sum(pages.pins.values()) == 0
