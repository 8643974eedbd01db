"""Images of a folder become a set of a session, with the metadata they carry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from ..pairs.image_file import open_image, rgb_bytes
from ..pairs.problem import PairError, printable
from ..ranking.image_store import MAX_METADATA_CHARS, NewImage
from ..ranking.session import Session
from ..ranking.vote import Candidate, CandidateSet
from ..request import within
from .found_image import FoundImage

AT_ONCE = 4
"""Images in memory at one time."""
_CHUNK_NAME = re.compile("[ -~]{1,79}")
_GRAPHS = (ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model)
_GRAPH_NAMES = ("prompt", "workflow")
_CODECS = {b"UNICODE\0": ("utf-16-be", "utf-16-le"), b"ASCII\0\0\0": ("utf-8",)}


@dataclass(frozen=True)
class Opening:
    """A set made of images of a folder.

    Attributes:
        candidates: None if fewer than one could be read.
        images: image of the session by image of the folder.
        problems: why others are not among them.
    """

    candidates: CandidateSet | None
    images: dict[str, str]
    problems: tuple[str, ...]


def open_images(
    session: Session, folder: Path, images: tuple[FoundImage, ...], prompt: str
) -> Opening:
    """Stores images in a session, durably, as one set under a prompt.

    The same images and prompt are the same set. Images that are gone, have changed or cannot be
    read are left out and told.

    Raises OSError, ValueError as `Session.add_set`.
    """
    found: dict[str, Candidate] = {}
    problems: list[str] = []
    for some in _by(AT_ONCE, images):
        read: list[tuple[FoundImage, NewImage]] = []
        for image in some:
            try:
                read.append((image, read_image(folder, image)))
            except PairError as error:
                problems += [f"{one.where}: {one.what}" for one in error.problems]
            except OSError as error:
                problems.append(f"{printable(image.name)}: {error.strerror or error}")
            except ValueError as error:
                problems.append(f"{printable(image.name)}: {error}")
        stored = session.store([new for _, new in read], prompt) if read else []
        for (image, _), candidate in zip(read, stored, strict=True):
            found[image.id] = candidate
    candidates = session.add_stored(list(found.values()), prompt) if found else None
    ids = {image: candidate.id for image, candidate in found.items()}
    return Opening(candidates, ids, tuple(problems))


def read_image(folder: Path, image: FoundImage) -> NewImage:
    """An image of a folder as a session stores it. Raises PairError, ValueError, OSError."""
    path = folder / image.name
    if not within(folder, path):
        raise ValueError("it is gone, or a link leads out of the folder")
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) != (image.bytes, image.mtime_ns):
        raise ValueError("it has changed since the folder was read. Look at the folder again")
    with open_image(path, printable(image.name)) as opened:
        pixels = rgb_bytes(opened)
        texts = _texts(opened)
    return NewImage(pixels, texts)


def _texts(image: Image.Image) -> dict[str, str]:
    """What an image says of itself, as text chunks that a PNG can hold."""
    texts = {
        str(name): text
        for name, text in image.info.items()
        if isinstance(text, str) and _CHUNK_NAME.fullmatch(str(name))
    }
    with suppress(Exception):  # a broken EXIF block does not make the picture unusable
        texts |= _exif_texts(image)
    if sum(map(len, texts.values())) > MAX_METADATA_CHARS:
        return {}
    return texts


def _exif_texts(image: Image.Image) -> dict[str, str]:
    """ComfyUI's graphs and A1111's parameters, where JPEG and WebP keep them."""
    texts: dict[str, str] = {}
    exif = Image.Image.getexif(image)
    for tag in _GRAPHS:
        name, colon, text = str(exif.get(tag, "")).partition(":")
        if colon and name.lower() in _GRAPH_NAMES:
            texts[name.lower()] = text
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        for codec in _CODECS.get(comment[:8], ()):
            try:
                text = comment[8:].decode(codec).strip("\0\ufeff")
            except UnicodeDecodeError:
                continue
            if codec == "utf-8" or " " in text:  # in the wrong byte order there are no spaces
                texts["parameters"] = text
                break
    return texts


def _by(count: int, images: tuple[FoundImage, ...]) -> Iterator[tuple[FoundImage, ...]]:
    for start in range(0, len(images), count):
        yield images[start : start + count]
