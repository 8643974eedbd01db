"""Derivatives for the host's fused kernels that come without one.

Rotary embeddings, and norms fused with them, are custom operations of the host. Most models take a
plain path while training; some take the kernel regardless, and backward would end there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

_NAMESPACE = "comfy_kitchen"
_KERNELS = (
    "apply_rope", "apply_rope1", "apply_rope_split_half", "apply_rope_split_half1", "rms_rope",
    "rms_rope1", "rms_rope_split_half", "rms_rope_split_half1",
)  # fmt: skip


@cache
def give_kernels_a_gradient() -> None:
    """Registers a backward for every rotary kernel of the host.

    Forward stays the kernel's own; backward differentiates the host's plain PyTorch version of it.
    """
    try:
        from comfy_kitchen.backends.eager import rope
    except ImportError:  # no kernels, nothing that lacks a gradient
        return
    for name in _KERNELS:
        plain = getattr(rope, name, None)
        if plain is not None and hasattr(getattr(torch.ops, _NAMESPACE), name):
            with suppress(RuntimeError):  # it has one by now
                torch.library.register_autograd(
                    f"{_NAMESPACE}::{name}", partial(_backward, plain), setup_context=_keep_inputs
                )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    wanted = [i for i in places if inputs[i].requires_grad]
    # Scales of a norm may be lent by the host; they are small.
    tensors = [inputs[i] if i in wanted else inputs[i].detach().clone() for i in places]
    ctx.save_for_backward(*tensors)
    ctx.places, ctx.wanted = places, wanted
    ctx.inputs = [None if i in places else value for i, value in enumerate(inputs)]


def _backward(plain: Callable[..., Any], ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    inputs = list(ctx.inputs)
    for i, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
        inputs[i] = tensor.detach().requires_grad_(i in ctx.wanted)
    with torch.enable_grad():
        outputs = plain(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    found = torch.autograd.grad(outputs, [inputs[i] for i in ctx.wanted], grads)
    result: list[Tensor | None] = [None] * len(signature(plain).parameters)
    for i, grad in zip(ctx.wanted, found, strict=True):
        result[i] = grad
    return tuple(result)
