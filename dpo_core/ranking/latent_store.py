"""The latents a session's images were decoded from, where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ..pairs.latent_file import KnownLatent, latent_bytes
from .durable_file import Write, sync_folder, write_durably
from .vote import DIGEST

LATENTS = "latents"
_SUFFIX = ".safetensors"


class LatentStore:
    """The folder `latents/` of a session: `<image id>.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, image_id: str) -> Path:
        """Where an image's latent lies, or would. Raises ValueError for what is no image id."""
        if not DIGEST.fullmatch(image_id):
            raise ValueError(f"{ascii(image_id)[:60]} is not an image of a session")
        return self.folder / f"{image_id}{_SUFFIX}"

    def add(self, latents: Mapping[str, KnownLatent]) -> None:
        """Stores latents by image id, durably.

        One that was stored before gives way to another: it may have been a wrong connection.

        Raises:
            ValueError: what is no image id.
            OSError: no room, no permission.
        """
        if not latents:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        new: dict[Path, Write] = {}
        for image_id, latent in latents.items():
            path, data = self.path(image_id), latent_bytes(latent)
            if not (path.is_file() and path.read_bytes() == data):
                new[path] = partial(_write, data)
        with ThreadPoolExecutor(1) as pool:
            write_durably(new, pool)
        sync_folder(self.folder)


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)
