"""Gradient checkpointing per block, right for blocks that update their inputs in place.

Flux-like blocks add to the residual stream in place. A checkpoint that recomputes from such an
input starts from the changed value and gives wrong gradients without a word. Here a block always
works on copies, so what it was given is what the recomputation gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .frozen_layer import is_host_layer

Forward = Callable[..., Any]
_OVERWRITING = ("comfy.ldm.pixeldit", "comfy.ldm.hidream_o1")


def overwrites_itself(model: nn.Module) -> bool:
    """True if the blocks overwrite values that their own derivative needs.

    Such blocks are always recomputed: only then forward and backward of one lie together, where
    values that are overwritten can be kept aside.
    """
    return type(model).__module__.startswith(_OVERWRITING)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks a denoiser is stacked from: the outermost entries of its module lists.

    A UNet's lists hold sequences that the model takes apart itself, and its spatial transformers
    hold the real blocks, so both are looked into.
    """
    found: list[nn.Module] = []

    def walk(module: nn.Module, listed: bool) -> None:
        for child in module.children():
            if isinstance(child, (nn.ModuleList, TimestepEmbedSequential)):
                walk(child, True)
            elif not listed or isinstance(child, SpatialTransformer):
                walk(child, False)
            elif not is_host_layer(child) and next(child.parameters(), None) is not None:
                found.append(child)

    walk(model, False)
    return found


def checkpointed_forward(inner: Forward, overwrites: bool = False) -> Forward:
    """``inner`` that keeps only its inputs for backward, and runs again there.

    Args:
        inner: the block's forward.
        overwrites: it overwrites values that its derivative needs.
    """
    recompute = _with_values_kept if overwrites else nullcontext

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        # Flattening also copies the dicts: the host goes on changing transformer_options, and
        # the recomputation must see this block's index, not the last one's.
        leaves, structure = pytree.tree_flatten(pytree.tree_map(_opened, (args, kwargs)))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        tensors = [leaves[i] for i in places]
        for i in places:
            leaves[i] = None
        outputs = _Structure()

        def run(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            filled = list(leaves)
            for place, tensor in zip(places, given, strict=True):
                filled[place] = tensor.clone()
            call_args, call_kwargs = pytree.tree_unflatten(filled, structure)
            return outputs.flatten(inner(*call_args, **call_kwargs))

        # The block's own parameters do not count as inputs: without the anchor, a first block
        # fed with plain data would not be recorded at all.
        anchor = torch.zeros((), requires_grad=True)
        return outputs.unflatten(_Checkpoint.apply(run, recompute, anchor, *tensors))

    return forward


class _Opened:
    """A record as a container: the tensors in it are inputs of the block like any other."""

    def __init__(self, record: Any) -> None:
        self.record = record


def _opened(leaf: Any) -> Any:
    return _Opened(leaf) if is_dataclass(leaf) and not isinstance(leaf, type) else leaf


def _contents(opened: _Opened) -> tuple[list[Any], Any]:
    names = [field.name for field in fields(opened.record)]
    return [getattr(opened.record, name) for name in names], (opened.record, names)


def _closed(contents: Any, context: Any) -> Any:
    template, names = context
    record = copy(template)
    for name, value in zip(names, contents, strict=True):
        object.__setattr__(record, name, value)
    return record


pytree.register_pytree_node(_Opened, _contents, _closed)


class _Structure:
    """How a block's result is nested; blocks return a tensor or a tuple of tensors."""

    def __init__(self) -> None:
        self._spec: Any = None

    def flatten(self, result: Any) -> tuple[Tensor, ...]:
        leaves, self._spec = pytree.tree_flatten(result)
        return tuple(leaves)

    def unflatten(self, leaves: tuple[Tensor, ...]) -> Any:
        return pytree.tree_unflatten(list(leaves), self._spec)


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., tuple[Tensor, ...]],
        recompute: Callable[[], Any],
        anchor: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.run, ctx.recompute = run, recompute
        ctx.save_for_backward(*tensors)
        return run(tensors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[3:]
        inputs = [
            tensor.detach().requires_grad_(want)
            for tensor, want in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with ctx.recompute():
            with torch.enable_grad():
                outputs = ctx.run(tuple(inputs))
            used = [
                (output, grad)
                for output, grad in zip(outputs, grads, strict=True)
                if grad is not None and output.requires_grad
            ]
            if used:
                # Also reaches the adapter's parameters inside the block.
                torch.autograd.backward([o for o, _ in used], [g for _, g in used])
        return None, None, None, *(tensor.grad for tensor in inputs)


@contextmanager
def _with_values_kept() -> Iterator[None]:
    """Values are kept aside when they are overwritten, also by an ``out`` argument."""
    with torch.autograd.graph.allow_mutation_on_saved_tensors(), _OutIsCopied():
        yield


class _OutIsCopied(TorchFunctionMode):
    """Operations that write into a given tensor have no derivative; copying into it has one."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        out = given.pop("out", None)
        if not isinstance(out, Tensor):
            return func(*args, **(kwargs or {}))
        return out.copy_(func(*args, **given))
