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
        self._kept: weakref.WeakKeyDictionary[Any, OrderedDict[Hashable, _Entry]]
        self._kept = weakref.WeakKeyDictionary()

    def get(self, owner: Any, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """What `make` gives, or what it gave before for this owner and key.

        Args:
            owner: the encoder; what it made is dropped with it.
            key: everything that decides the result.
            make: encodes; its result must never be changed.
        """
        entries = self._kept.setdefault(owner, OrderedDict())
        entry = entries.pop(key, None)
        if entry is None:
            value = make()
            entry = _Entry(value, tensor_bytes(value))
        if entry.size <= self._limit:
            self._time += 1
            entry.used = self._time
            entries[key] = entry
            self._make_room()
        return entry.value

    def size(self) -> int:
        """Bytes of what is kept."""
        return sum(entry.size for entries in self._kept.values() for entry in entries.values())

    def _make_room(self) -> None:
        excess = self.size() - self._limit
        while excess > 0:
            filled = [entries for entries in self._kept.values() if entries]
            oldest = min(filled, key=lambda entries: next(iter(entries.values())).used)
            excess -= oldest.popitem(last=False)[1].size


class _Entry:
    def __init__(self, value: Any, size: int) -> None:
        self.value, self.size, self.used = value, size, 0


def vae_state(vae: Any) -> Hashable | None:
    """Equal as long as a VAE encodes alike, also when a node has changed it in place.

    None if that cannot be told.
    """
    module = getattr(vae, "first_stage_model", None)
    if not (hasattr(vae, "patcher") and isinstance(module, Module)):
        return None  # not the host's own
    return (_attributes(vae), _patches(vae.patcher), _structure(module))


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


def _structure(module: Module) -> str:
    """Digest of what the layers of a module do: settings, hooks, and methods put in their place."""
    digest = blake2b(digest_size=16)
    for name, layer in module.named_modules():
        digest.update(f"{name}:{type(layer).__qualname__}:{layer.extra_repr()}".encode())
        digest.update(f"{len(layer._forward_hooks)}:{len(layer._forward_pre_hooks)}".encode())
        for line in sorted(_own(layer)):
            digest.update(line.encode())
    return digest.hexdigest()


def _own(layer: Module) -> Iterator[str]:
    # Numbers are left out: among them the host keeps whether a layer is on the card just now.
    for name, value in vars(layer).items():
        if isinstance(value, (str, tuple)):
            yield f"{name}={value!r};"
        elif callable(value):
            yield f"{name}={getattr(value, '__qualname__', type(value).__qualname__)};"
