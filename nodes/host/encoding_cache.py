"""Latents and prompts encoded before, so that a new pair does not have all others encoded again."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from hashlib import blake2b
from typing import Any, TypeVar

import comfy.model_management
import torch
from torch import Tensor
from torch.nn import Module

_MIB = 1024 * 1024
LIMIT_BYTES = int(min(4096, comfy.model_management.total_ram / 16) * _MIB)
"""Host memory for what is kept: a sixteenth, at most 4 GB."""

_Value = TypeVar("_Value")


class EncodingCache:
    """What VAEs and text encoders made of their inputs, as long as these themselves are kept.

    Beyond the limit, what was not asked for the longest goes first. For the one thread in which
    the host runs nodes.

    Args:
        limit: bytes of tensors.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._time = 0
        self._kept: weakref.WeakKeyDictionary[Any, _Shelf] = weakref.WeakKeyDictionary()

    def get(self, owner: Any, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """What `make` gives, never None, or what it gave before for this owner and key.

        Args:
            owner: the encoder; what it made is dropped with it.
            key: everything that decides the result.
            make: encodes; its result must never be changed.
        """
        found = self.find(owner, key)
        return self.keep(owner, key, make()) if found is None else found

    def find(self, owner: Any, key: Hashable) -> Any | None:
        """What is kept for this owner and key, or None."""
        shelf = self._kept.get(owner)
        entry = None if shelf is None else shelf.take(key)
        return None if entry is None else self._keep(owner, key, entry)

    def keep(self, owner: Any, key: Hashable, value: _Value) -> _Value:
        """Keeps a value, which must never be changed, and gives it back."""
        self._keep(owner, key, _Entry(value, tensor_bytes(value)))
        return value

    def size(self) -> int:
        """Bytes of what is kept."""
        return sum(shelf.size for shelf in self._kept.values())

    def _keep(self, owner: Any, key: Hashable, entry: _Entry) -> Any:
        if entry.size <= self._limit:
            self._time += 1
            entry.used = self._time
            self._kept.setdefault(owner, _Shelf()).put(key, entry)
            self._make_room()
        return entry.value

    def _make_room(self) -> None:
        while self.size() > self._limit:
            filled = [shelf for shelf in self._kept.values() if shelf.entries]
            oldest = min(filled, key=lambda shelf: next(iter(shelf.entries.values())).used)
            oldest.take(next(iter(oldest.entries)))


class _Entry:
    def __init__(self, value: Any, size: int) -> None:
        self.value, self.size, self.used = value, size, 0


class _Shelf:
    """What is kept of one owner, that not used the longest first, and its bytes."""

    def __init__(self) -> None:
        self.entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.size = 0

    def put(self, key: Hashable, entry: _Entry) -> None:
        self.take(key)
        self.entries[key] = entry
        self.size += entry.size

    def take(self, key: Hashable) -> _Entry | None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
        return entry


def vae_state(vae: Any) -> Hashable | None:
    """Equal as long as a VAE encodes alike, also when a node has changed it in place.

    None if that cannot be told.
    """
    module = getattr(vae, "first_stage_model", None)
    if not (hasattr(vae, "patcher") and isinstance(module, Module)):
        return None  # not the host's own
    return (_attributes(vae), _patches(vae.patcher), structure_digest(module))


def clip_state(clip: Any) -> Hashable | None:
    """Equal as long as a text encoder encodes alike; None if that cannot be told."""
    if not hasattr(clip, "patcher") or clip.patcher.forced_hooks is not None:
        return None
    return (_attributes(clip), _patches(clip.patcher))


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _attributes(encoder: Any) -> Hashable:
    """What the host or another node has set on the object itself."""
    found = sorted(vars(encoder).items())
    # Its size is worked out when it is first asked for, and says nothing new.
    return tuple((name, _mark(one)) for name, one in found if name != "size")


def _patches(patcher: Any) -> Hashable:
    # The id is drawn anew with every weight patch; other patches do not change it.
    return (
        patcher.patches_uuid,
        *map(_mark, (patcher.object_patches, patcher.injections, patcher.wrappers)),
    )


def _mark(value: Any) -> Hashable:
    """A value that is plain by what it is, anything else by which object it is."""
    if isinstance(value, (str, int, float, type(None), torch.dtype, torch.device)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_mark, value))
    if isinstance(value, dict):
        return tuple((str(key), _mark(one)) for key, one in value.items())
    if isinstance(value, (Module, type(_mark))):
        return weakref.ref(value)  # not its address, which another may have after it
    return (type(value).__qualname__, id(value))


def structure_digest(module: Module) -> str:
    """Digest of what the layers of a module do: settings, hooks, and methods put in their place.

    The same wherever the module's weights are just now, and after a restart.
    """
    digest = blake2b(digest_size=16)
    for name, layer in module.named_modules():
        digest.update(f"{name}:{type(layer).__qualname__}:{layer.extra_repr()}".encode())
        digest.update(f"{len(layer._forward_hooks)}:{len(layer._forward_pre_hooks)}".encode())
        for line in sorted(_own(layer)):
            digest.update(line.encode())
    return digest.hexdigest()


_SET_BY_LOADING = {"seed_key", "weight_lowvram_function", "bias_lowvram_function"}
"""Attributes that the host gives layers with the first load. Patches are told by the patcher."""


def _own(layer: Module) -> Iterator[str]:
    # Numbers are left out: among them the host keeps whether a layer is on the card just now.
    for name, value in vars(layer).items():
        if name in _SET_BY_LOADING:
            continue
        if isinstance(value, str) or _plain_tuple(value):
            yield f"{name}={value!r};"
        elif callable(value):
            yield f"{name}={getattr(value, '__qualname__', type(value).__qualname__)};"


def _plain_tuple(value: Any) -> bool:
    """Paged memory is written down in tuples, too: by address, and anew with every load."""
    return isinstance(value, tuple) and all(
        isinstance(one, (str, int, float, type(None))) or _plain_tuple(one) for one in value
    )
