"""Memory of tensors, counted exactly and alike on every device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Bytes of tensor storage made inside and alive now, and their peak.

    It counts what operations return: not what a kernel takes and gives back within one call, and
    not what an allocator keeps beside it. Tensors without numbers (``meta``) count as if they had
    them.

    Attributes:
        live: bytes alive now.
        peak: the most there ever were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = self._result(func, args, kwargs or {})
        unknown = [
            storage
            for storage in map(Tensor.untyped_storage, _tensors(result))
            if storage._cdata not in self._sizes
        ]
        if unknown:
            # Views of, and results written into, what was there before.
            given = {one.untyped_storage()._cdata for one in _tensors((args, kwargs))}
            for storage in unknown:
                if storage._cdata not in given:
                    self._count(storage)
        return result

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
