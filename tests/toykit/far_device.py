"""A device that only seems to be far away, and counts how often it is waited for.

Tensors on it live on the CPU. They are told apart as a graphics card's are: what has to know a
value, such as ``item``, waits until the device has done all it was told to, and so does a copy
from or to it, unless it is on its way there and was said to be non-blocking.
"""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_VALUES = (
    _aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default,
    _aten.masked_select.default, _aten.unique_dim.default, _aten._unique2.default,
)  # fmt: skip
"""Operations whose result, or its shape, is known only once values are."""
_REGISTER = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
REASON = "this torch has no devices written in Python"
possible = _REGISTER is not None


class _Unavailable(getattr(backend_registration, "_DummyPrivateUse1Hook", object)):  # type: ignore
    def is_available(self) -> bool:
        return False  # nobody else shall take it for a graphics card


def far_device() -> torch.device:
    """The device."""
    return torch.device("far:0")


if _REGISTER is not None:
    # As soon as tests are collected: with the first backward of a process its devices are counted.
    _REGISTER("far", hook=_Unavailable())


class FarTensor(Tensor):
    """A tensor on the far device; ``near`` holds its values."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        made: FarTensor = Tensor._make_wrapper_subclass(
            cls, near.shape, near.stride(), near.storage_offset(), dtype=near.dtype,
            device=far_device(),
        )  # fmt: skip
        made.near = near
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def as_subclass(self, cls: Any) -> FarTensor:
        return self  # there is no plain tensor to be had of it

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise AssertionError(f"{func} on the far device outside of Waits")


class Waits(TorchDispatchMode):
    """Inside, the far device can be used.

    Attributes:
        places: where it was waited for: the operation, and the lines that led to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __len__(self) -> int:
        return len(self.places)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        leaves = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        from_far = any(isinstance(tensor, FarTensor) for tensor in leaves)
        asked = kwargs.get("device")
        to_far = from_far if asked is None else torch.device(asked).type == "far"
        if not from_far and not to_far:
            return func(*args, **kwargs)
        if self._waits(func, args, kwargs, leaves):
            lines = "".join(traceback.format_stack(limit=12)[:-1])
            self.places.append(f"{func}\n{lines}")
        near_args, near_kwargs = tree_map(_near, (args, kwargs))
        result = func(*near_args, **near_kwargs)
        if not to_far:
            return result
        far = tree_map(lambda v: FarTensor(v) if isinstance(v, Tensor) else v, result)
        # What was moved or made is a tensor of its own; all else may be a view.
        return far if asked is not None else return_and_correct_aliasing(func, args, kwargs, far)

    def _waits(self, func: Any, args: Any, kwargs: dict[str, Any], leaves: list[Tensor]) -> bool:
        if func in _VALUES:
            return True
        if func in (_aten.index.Tensor, _aten.index_put_.default):
            return any(index is not None and index.dtype == torch.bool for index in args[1])
        if func is _aten._to_copy.default and "device" in kwargs:
            there = torch.device(kwargs["device"]).type == "far"
            return there != isinstance(args[0], FarTensor) and not (
                there and kwargs.get("non_blocking")
            )
        if func is _aten.copy_.default:
            there = isinstance(args[0], FarTensor)
            return there != isinstance(args[1], FarTensor) and not (
                there and (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            )
        # As on a graphics card, only numbers without a dimension may lie elsewhere.
        apart = [t for t in leaves if t.ndim and not isinstance(t, FarTensor)]
        assert not apart, f"{func} with tensors on two devices"
        return False


def _near(value: Any) -> Any:
    if isinstance(value, FarTensor):
        return value.near
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value


def move_there(module: nn.Module) -> None:
    """Puts parameters and buffers of a module and those in it on the far device, frozen."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None:
                far = FarTensor(tensor.detach().clone())
                part._parameters[name] = nn.Parameter(far, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = FarTensor(buffer.detach().clone())
