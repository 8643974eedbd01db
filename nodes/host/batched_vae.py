"""A VAE that is given several images at once where that changes nothing.

A latent must not depend, not even in its last bit, on which other images happened to be encoded
with it: datasets and runs are found again by their content. Kernels that sum in another order for
a batch do change bits, so this is tried out for each VAE and size of image, with the first images
there are, and done only where the bits are the same and time is saved.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

MOST = 8
"""Images at once: what a batch saves is the overhead of a call, not the work itself."""
WORTHWHILE = 32
"""So many batches must lie ahead, as trying it out costs two."""
SAVING = 0.95
"""A batch must take at most this share of the time its images take one by one."""
ROOM = 2
"""Batches that must fit into free memory by the VAE's own estimate. Out of memory the host goes on
in tiles, and those are another result."""
_TILED = ("encode_tiled_", "encode_tiled_1d", "encode_tiled_3d", "_encode_tiled_owned")
_verdicts: WeakKeyDictionary[Any, dict[Hashable, bool]] = WeakKeyDictionary()
"""By VAE, which this does not keep: for which sizes batches are as good and quicker."""


@dataclass(frozen=True)
class Latent:
    """What a VAE made of an image.

    Attributes:
        values: shape (C, ...), fp32, CPU.
        tiled: True if memory had run out, so that it was encoded in tiles.
    """

    values: Tensor
    tiled: bool = False


class BatchedVae:
    """Encodes images of one size.

    Args:
        vae: the host's VAE.
        state: its `vae_state`; None for one whose workings are unknown, which is never batched.
        size: (width, height) in pixels.
        count: how many images there are.
    """

    def __init__(
        self, vae: Any, state: Hashable | None, size: tuple[int, int], count: int
    ) -> None:
        self._vae, self._state, self._size = vae, state, size
        self._most = self._fitting()
        while self._most > 1 and count < WORTHWHILE * self._most:
            self._most //= 2

    @property
    def at_once(self) -> int:
        """How many images :meth:`encode` is best given at once."""
        return 1 if self._verdict() is False else self._most

    def encode(self, images: Sequence[Tensor]) -> list[Latent]:
        """Latents of images of shape (height, width, 3), values 0..1."""
        if len(images) != self.at_once or len(images) == 1:
            return [self._single(image) for image in images]
        if self._verdict() is None:
            return self._tried(images)
        found = self._batch(images)
        if found is None:
            self._judge(False)
            return [self._single(image) for image in images]
        return found

    def _tried(self, images: Sequence[Tensor]) -> list[Latent]:
        self._single(images[0])  # loads the model, which is nobody's time
        singles, alone = _timed(lambda: [self._single(image) for image in images])
        batch = self._batch(images)  # the first of a shape takes longer
        good = batch is not None and _equal(batch, singles)
        if good:
            batch, together = _timed(lambda: self._batch(images))
            good = batch is not None and _equal(batch, singles) and together <= SAVING * alone
        self._judge(good)
        return singles

    def _single(self, image: Tensor) -> Latent:
        seen: list[str] = []

        def watch(name: str, tiles: Callable[..., Any]) -> Callable[..., Any]:
            def watched(*args: Any, **named: Any) -> Any:
                seen.append(name)
                return tiles(*args, **named)

            return watched

        vae = self._vae if self._state is None else self._with_tiles(watch)
        (values, *_) = _encoded(vae, image.unsqueeze(0))
        return Latent(_plain(values), bool(seen))

    def _batch(self, images: Sequence[Tensor]) -> list[Latent] | None:
        """None if memory has run out."""

        def refuse(name: str, tiles: Callable[..., Any]) -> Callable[..., Any]:
            def refused(*args: Any, **named: Any) -> Any:
                raise _OutOfMemory(name)

            return refused

        try:
            found = _encoded(self._with_tiles(refuse), _stacked(images))
        except _OutOfMemory:
            return None
        return [Latent(_plain(one)) for one in found] if len(found) == len(images) else None

    def _with_tiles(self, replaced: Callable[[str, Callable[..., Any]], Any]) -> Any:
        """The same VAE, other than in what it does when memory has run out."""
        vae = copy.copy(self._vae)
        for name in _TILED:
            # Of the VAE itself: a copy that holds its own methods would outlive its use.
            if hasattr(self._vae, name):
                setattr(vae, name, replaced(name, getattr(self._vae, name)))
        return vae

    def _fitting(self) -> int:
        vae = self._vae
        flat = self._state is not None and vae.extra_1d_channel is None and (
            vae.latent_dim == 2 or (vae.latent_dim == 3 and vae.not_video)
        )
        if not flat:  # to a video VAE a batch is a clip
            return 1
        width, height = self._size
        shape = (1, 3, *(1,) * (vae.latent_dim - 2), height, width)
        one = max(1, vae.memory_used_encode(shape, vae.vae_dtype))
        fit = int(vae.patcher.get_free_memory(vae.device) / (ROOM * one))
        most = MOST
        while most > max(1, fit):
            most //= 2
        return most

    def _verdict(self) -> bool | None:
        return _verdicts.get(self._vae, {}).get((self._state, self._size, self._most))

    def _judge(self, good: bool) -> None:
        _verdicts.setdefault(self._vae, {})[(self._state, self._size, self._most)] = good


class _OutOfMemory(RuntimeError):
    pass


def _encoded(vae: Any, images: Tensor) -> Tensor:
    with torch.inference_mode():  # as the host's nodes do; its tiles need it
        encoded: Tensor = vae.encode(images)
        return encoded


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """(N, height, width, 3), in the order of memory in which one image comes."""
    if images[0].is_contiguous():
        return torch.stack(list(images))
    return torch.stack([image.movedim(-1, 0) for image in images]).movedim(1, -1)


def _equal(one: Sequence[Latent], other: Sequence[Latent]) -> bool:
    return not any(a.tiled or b.tiled for a, b in zip(one, other, strict=True)) and all(
        torch.equal(a.values, b.values) for a, b in zip(one, other, strict=True)
    )


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _plain(latent: Tensor) -> Tensor:
    return latent.detach().to("cpu", torch.float32, copy=True)
