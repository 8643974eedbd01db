"""Pictures through the host's VAE, each only once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...dpo_core.pairs.image_file import digest_of_file
from ...dpo_core.pairs.problem import PairError
from ...dpo_core.pairs.record import Picture
from ...dpo_core.ranking.image_store import identified_images
from ...dpo_core.saving.encoding_store import EncodingStore, entry_key
from .batched_vae import BatchedVae
from .encoder_identity import vae_identity
from .encoding_cache import EncodingCache, vae_state
from .encoding_progress import EncodingProgress
from .latents import usable_latent

MEGAPIXEL = 1024 * 1024

_Size = tuple[int, int]


class PictureEncoder:
    """Latents of shape (C, ...), fp32, CPU.

    What is known is taken from memory, else from disk. What is not is encoded, size by size, and
    kept in both at once, so that an encoding that is broken off goes on where it was.

    Args:
        vae: the host's VAE.
        megapixels: every picture is scaled to this area, in 1024 x 1024 pixels; 0 keeps its size.
        memory: what was encoded since the host was started.
        store: what was encoded before that.
        progress: is told of every picture, and stops the encoding where the person wants it.
    """

    def __init__(
        self,
        vae: Any,
        megapixels: float,
        memory: EncodingCache,
        store: EncodingStore,
        progress: EncodingProgress,
    ) -> None:
        self._vae, self._megapixels = vae, megapixels
        self._memory, self._store, self._progress = memory, store, progress
        self._state = vae_state(vae)
        self._identity = None if self._state is None else vae_identity(vae)

    def latents(self, sets: Sequence[Sequence[Picture]]) -> list[list[Tensor]]:
        """The latents of sets of pictures that are compared, in the same order.

        Of a set all are as they were sampled, or all as they are encoded: else the difference
        between the two would be learnt as a preference.
        """
        given = [self._given(pictures) for pictures in sets]
        wanted = {
            picture.digest: picture
            for pictures, latents in zip(sets, given, strict=True)
            if latents is None
            for picture in pictures
        }
        self._progress.begin("pictures", len(wanted))
        encoded = self._encoded(wanted.values())
        return [
            [encoded[picture.digest] for picture in pictures] if latents is None else latents
            for pictures, latents in zip(sets, given, strict=True)
        ]

    def _given(self, pictures: Sequence[Picture]) -> list[Tensor] | None:
        found: list[Tensor] = []
        for picture in pictures:
            latent = usable_latent(picture, self._vae, self._size(picture))
            if latent is None:
                return None
            found.append(latent)
        return found

    def _encoded(self, pictures: Iterable[Picture]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        missing: dict[_Size, list[Picture]] = {}
        for picture in pictures:
            size = self._size(picture)
            known = self._known(picture, size)
            if known is None:
                missing.setdefault(size, []).append(picture)
            else:
                found[picture.digest] = known
                self._progress.one(known=True)
        for size, group in missing.items():
            self._make(size, group, found)
        return found

    def _make(self, size: _Size, pictures: Sequence[Picture], found: dict[str, Tensor]) -> None:
        vae = BatchedVae(self._vae, self._state, size, len(pictures))
        left = len(pictures)
        with _read_ahead(pictures, size) as read:
            while left:
                batch = [next(read) for _ in range(min(vae.at_once, left))]
                left -= len(batch)
                latents = vae.encode([pixels for _, pixels, _ in batch])
                for (picture, _, unchanged), latent in zip(batch, latents, strict=True):
                    found[picture.digest] = latent.values
                    if unchanged:
                        self._keep(picture, size, latent.values, lasting=not latent.tiled)
                for _ in batch:
                    self._progress.one(known=False)

    def _known(self, picture: Picture, size: _Size) -> Tensor | None:
        if self._state is None:
            return None
        key = (self._state, picture.digest, size)
        found: Tensor | None = self._memory.find(self._vae, key)
        if found is None and self._identity is not None:
            stored = self._store.get(self._stored_as(self._identity, picture, size))
            if self._fits(stored, size):
                found = self._memory.keep(self._vae, key, stored)
        return found

    def _keep(self, picture: Picture, size: _Size, latent: Tensor, lasting: bool) -> None:
        if self._state is None:
            return
        self._memory.keep(self._vae, (self._state, picture.digest, size), latent)
        if lasting and self._identity is not None and self._fits(latent, size):
            self._store.put(self._stored_as(self._identity, picture, size), latent)

    def _stored_as(self, identity: str, picture: Picture, size: _Size) -> str:
        return entry_key("latent", identity, picture.digest, *size)

    def _fits(self, latent: Any, size: _Size) -> bool:
        """Whether it can be what this VAE makes of an image of this size."""
        vae = self._vae
        ratio = int(vae.spacial_compression_encode())
        width, height = (side // ratio for side in size)
        shape = (vae.latent_channels, *(1,) * (vae.latent_dim - 2), height, width)
        return (
            isinstance(latent, Tensor)
            and latent.dtype == torch.float32
            and tuple(latent.shape) == shape
            and bool(torch.isfinite(latent).all())
        )

    def _size(self, picture: Picture) -> _Size:
        if self._megapixels <= 0:
            return picture.size
        multiple = int(self._vae.spacial_compression_encode())
        return scaled_size(picture.size, self._megapixels, multiple)


def scaled_size(size: _Size, megapixels: float, multiple: int) -> _Size:
    """The size of this area, in 1024 x 1024 pixels, in whole multiples."""
    width, height = size
    scale = (megapixels * MEGAPIXEL / (height * width)) ** 0.5
    across, down = (max(multiple, round(one * scale / multiple) * multiple) for one in size)
    return across, down


_Read = tuple[Picture, Tensor, bool]
AHEAD = 2
"""Pictures read while the VAE is at work on the one before; on a card the two take as long."""


@contextmanager
def _read_ahead(pictures: Sequence[Picture], size: _Size) -> Iterator[Iterator[_Read]]:
    """Pictures in order, with their pixels and whether they are still what they were."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield _in_turn(pool, pictures, size)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_turn(
    pool: ThreadPoolExecutor, pictures: Sequence[Picture], size: _Size
) -> Iterator[_Read]:
    waiting: deque[Future[_Read]] = deque()
    coming = iter(pictures)
    for picture in coming:
        waiting.append(pool.submit(_read, picture, size))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(picture: Picture, size: _Size) -> _Read:
    array = picture.pixels()
    pixels = torch.from_numpy(array)
    if size != picture.size:
        moved = pixels.unsqueeze(0).movedim(-1, 1)
        scaled = comfy.utils.common_upscale(moved, *size, "lanczos", "center")
        return picture, scaled.movedim(1, -1)[0], _is_unchanged(picture, array)
    return picture, pixels, _is_unchanged(picture, array)


def _is_unchanged(picture: Picture, pixels: Any) -> bool:
    """Whether the pixels are those of the digest: a file may have been written over since."""
    if picture.path is None:
        return True
    try:
        if digest_of_file(picture.path, picture.name) == picture.digest:
            return True
        # A session's images are known by what they show, not by their files.
        ((shown, _),) = identified_images([pixels])
        return shown == picture.digest
    except (PairError, ValueError):
        return False
