"""Image files: opened with care, checked, measured and decoded to RGB."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ..metadata.image_metadata import ImageMetadata
from ..metadata.reading import metadata_of_file
from .problem import PairError, PairProblem

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
)
MAX_FILE_BYTES = 1 << 30
DEFAULT_MAX_PIXELS = 89_478_485
"""Pillow's own limit, used where another program has switched it off."""

DIGEST_BYTES = 16

# Only these decoders are tried, whatever the file claims to be: some of Pillow's others start
# external programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "AVIF")
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)
_SAVE_AGAIN = "Save it again as PNG, JPEG or WebP, or take the pair out."

_strict_lock = threading.Lock()
_strict_depth = 0
_tolerance_before = False


@dataclass(frozen=True)
class ImageFacts:
    """What one pass over a file tells: size (width, height) in pixels, digest, prompt."""

    size: tuple[int, int]
    digest: str
    prompt: str | None
    prompt_is_unclear: bool = False
    """The metadata speaks of a prompt, but it cannot be told for certain."""


def inspect_image(path: Path, name: str, with_prompt: bool) -> ImageFacts:
    """Read a file once: check that it is a whole image, measure and hash it.

    PNG is checked by the checksums of all its chunks (25 times faster than decoding it), every
    other format by decoding. `with_prompt` also looks for a prompt in the metadata. `name` is how
    messages call the file. Raises PairError.
    """
    data = read_image_bytes(path, name)
    with open_image(data, name) as image:
        size = oriented_size(image)
        told = metadata_of_file(BytesIO(data)) if with_prompt else ImageMetadata()
        if image.format == "PNG":
            image.verify()
        else:
            image.load()
    return ImageFacts(size, file_digest(data), told.prompt, "prompt" in told.ambiguous)


def digest_of_file(path: Path, name: str) -> str:
    """The content digest of a file, as `inspect_image` gives it. Raises PairError."""
    return file_digest(read_image_bytes(path, name))


def file_digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


@contextmanager
def open_image(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An opened, not yet decoded image; whatever goes wrong inside becomes a PairError."""
    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        with _strict_decoding(), Image.open(file, formats=formats) as image:
            _refuse_oversize(image, name)
            yield image
    except (PairError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _oversize(name, max_pixels()) from error
    except UnidentifiedImageError as error:
        raise _image_error("File is not an image of a known format", name, _SAVE_AGAIN) from error
    except Exception as error:  # decoders raise anything on damaged data, SyntaxError included
        if isinstance(error, OSError) and error.errno is not None:
            raise _unopened(name, error) from error
        raise _image_error("Image is damaged or cut off", name, _SAVE_AGAIN) from error


def max_pixels() -> int:
    """The largest accepted width x height: Pillow's limit, which users and hosts may set."""
    return Image.MAX_IMAGE_PIXELS or DEFAULT_MAX_PIXELS


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels as the image is shown, without decoding it."""
    width, height = image.size
    return (height, width) if _orientation(image) in _SWAPS_SIDES else (width, height)


def rgb_pixels(image: Image.Image) -> NDArray[np.float32]:
    """Decode to float32 (height, width, 3) in 0..1, turned upright.

    Greyscale is repeated over the channels, 16-bit greyscale keeps its precision, palettes are
    resolved, CMYK and other colour models are converted, and transparency is laid over white. Of
    an animation or a multi-page file the first picture is taken.
    """
    return _floats(_upright(image))


def rgb_bytes(image: Image.Image) -> NDArray[np.uint8]:
    """`rgb_pixels` rounded to uint8 0..255, with a quarter of the memory where it is all there."""
    image = _upright(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.array(image)
    return np.rint(_floats(image) * 255).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)  # before load(): a TIFF turns itself while loading
    image.load()
    return image.transpose(_TURN[orientation]) if orientation in _TURN else image


def _floats(image: Image.Image) -> NDArray[np.float32]:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    if image.has_transparency_data:
        rgba = _unit_range(image.convert("RGBA"))
        alpha = rgba[..., 3:]
        return rgba[..., :3] * alpha + (1 - alpha)
    return _unit_range(image.convert("RGB"))


def _unit_range(image: Image.Image) -> NDArray[np.float32]:
    pixels = np.array(image, dtype=np.float32)
    pixels /= 255
    return pixels


def _deep_grey(image: Image.Image) -> NDArray[np.float32]:
    # Integers wider than 8 bit count to 65535, as 16-bit PNG and TIFF do; floats are 0..1.
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32))
    scale = 1 if image.mode == "F" else 65535
    grey = np.clip(grey / scale, 0, 1)
    return np.repeat(grey[..., None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow reports a TIFF's size upright and turns it while loading
    try:
        # The base class's method: the PNG plugin's own would decode the whole file.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block does not make the picture unusable
        return 1


@contextmanager
def _strict_decoding() -> Iterator[None]:
    """Cut-off files raise in here, although other programs in the process may tolerate them.

    Pillow's switch is global; left on, half-grey pictures would be trained on in silence.
    """
    global _strict_depth, _tolerance_before
    with _strict_lock:
        if _strict_depth == 0:
            _tolerance_before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _strict_depth += 1
    try:
        yield
    finally:
        with _strict_lock:
            _strict_depth -= 1
            if _strict_depth == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _tolerance_before


def read_image_bytes(path: Path, name: str) -> bytes:
    """A file's bytes; not whether they are an image. Raises PairError, also above 1 GB."""
    try:
        # Not blocking: opening a pipe that nobody writes to would otherwise wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _image_error("This is not a file", name, _SAVE_AGAIN)
            if status.st_size > MAX_FILE_BYTES:
                raise _image_error("File is larger than 1 GB", name, _SAVE_AGAIN)
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise _unopened(name, error) from error
    if not data:
        raise _image_error("File is empty (zero bytes)", name, "Export it again, or delete it.")
    return data


_BINARY = getattr(os, "O_BINARY", 0)


def _refuse_oversize(image: Image.Image, name: str) -> None:
    if image.width * image.height > max_pixels():
        raise _oversize(f"{name} ({image.width} x {image.height})", max_pixels())


def _oversize(where: str, limit: int) -> PairError:
    return _image_error(
        f"Image has more than {limit // 1_000_000} million pixels",
        where,
        "Scale both images of the pair down.",
    )


def _unopened(name: str, error: OSError) -> PairError:
    reason = error.strerror or type(error).__name__
    return _image_error(
        f"Image cannot be opened ({reason})", name, "Check that it exists and may be read."
    )


def _image_error(what: str, name: str, fix: str) -> PairError:
    return PairError([PairProblem(what, name, fix)])
