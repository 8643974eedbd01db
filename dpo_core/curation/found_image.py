"""One image of a scanned folder: what its header and metadata tell, without decoding it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..metadata.reading import read_metadata
from ..pairs.caption import read_caption
from ..pairs.image_file import open_image, oriented_size
from ..pairs.listing import ListedFile
from ..pairs.problem import PairError
from .picture_bytes import DIGEST_BYTES, picture_digest, picture_hint

CONTENT_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
MAX_FILE_BYTES = 256 << 20
_KINDS = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WEBP"}


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image file as it was when it was read. With a `problem`, nothing below that is known."""

    id: str
    """Hex digest of name, size and time: another one once the file has changed."""
    name: str
    """Relative to the folder."""
    bytes: int
    mtime_ns: int
    caption: str
    """Size and time of the caption file beside it; empty without one."""
    problem: str = ""
    kind: str = ""
    """PNG, JPEG or WEBP, by content."""
    width: int = 0
    height: int = 0
    """In pixels, as it is shown: turned as its EXIF orientation says."""
    prompt: str | None = None
    """From the caption beside it, else the metadata; None if not known for certain."""
    negative: str | None = None
    seed: int | None = None
    model: str | None = None
    hint: str = ""
    """Images of different hints are no copies of each other."""
    digest: str = ""
    """Of exact copies the same; empty as long as no other image has the same hint."""

    @property
    def at(self) -> int:
        """When the file was last changed, Unix time in ms."""
        return self.mtime_ns // 1_000_000

    def is_of(self, file: ListedFile, caption: ListedFile | None) -> bool:
        """True if neither file has changed since."""
        return (
            self.bytes == file.size
            and self.mtime_ns == file.mtime_ns
            and self.caption == _stamp(caption)
        )

    def record(self) -> dict[str, Any]:
        """Plain data for JSON, which `read_record` reads again."""
        record = {name: getattr(self, name) for name in _TYPES}
        known = {name: value for name, value in record.items() if value not in (None, "")}
        return known if self.prompt != "" else {**known, "prompt": ""}


_TYPES: dict[str, type] = {
    "bytes": int, "mtime_ns": int, "width": int, "height": int, "seed": int,
    **dict.fromkeys(
        ("id", "name", "caption", "problem", "kind", "prompt", "negative", "model", "hint",
         "digest"),
        str,
    ),
}  # fmt: skip
assert _TYPES.keys() == {field.name for field in fields(FoundImage)}


def read_record(record: Any) -> FoundImage | None:
    """The image of a record, None if the record is damaged."""
    if not isinstance(record, dict):
        return None
    known = {name: value for name, value in record.items() if name in _TYPES}
    if not all(type(value) is _TYPES[name] for name, value in known.items()):
        return None
    for name in ("prompt", "negative", "model"):
        if name in known:  # thousands of images share them
            known[name] = sys.intern(known[name])
    try:
        found = FoundImage(**{"caption": "", **known})
    except TypeError:
        return None
    sound = found.problem or (found.kind in CONTENT_TYPES and found.width > 0 < found.height)
    return found if sound else None


def look_at(file: ListedFile, caption: ListedFile | None) -> FoundImage:
    """Reads an image's header and metadata, and the caption beside it. Never raises."""
    facts: dict[str, Any]
    try:
        facts = _facts(file, caption)
    except PairError as error:
        facts = {"problem": error.problems[0].what}
    except (OSError, ValueError) as error:
        facts = {"problem": f"Image is damaged or cannot be read ({error})"}
    name, size, mtime = file.name, file.size, file.mtime_ns
    return FoundImage(_id(file), name, size, mtime, _stamp(caption), **facts)


def content_digest(folder: Path, image: FoundImage) -> str:
    """The `digest` of an image; one of its own if it can no longer be read."""
    try:
        return picture_digest(folder / image.name, image.kind)
    except (OSError, ValueError):
        return image.id


def _facts(file: ListedFile, caption: ListedFile | None) -> dict[str, Any]:
    if file.problem is not None:
        raise PairError([file.problem])
    if file.size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MB")
    with open_image(file.path, file.shown) as image:
        kind = _KINDS.get(image.format or "")
        width, height = oriented_size(image)
        turned = (width, height) != image.size
    if kind is None:
        raise ValueError("it is no PNG, JPEG or WebP, whatever its name says")
    hint = f"{width}x{height}{'t' if turned else ''}{picture_hint(file.path, kind)}"
    told = read_metadata(file.path)
    prompt = told.prompt if caption is None else read_caption(caption.path, caption.shown)
    facts = {"kind": kind, "width": width, "height": height, "prompt": prompt, "hint": hint}
    return facts | {"negative": told.negative, "seed": told.seed, "model": told.model}


def _id(file: ListedFile) -> str:
    text = repr((file.name, file.size, file.mtime_ns)).encode()
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).hexdigest()


def _stamp(caption: ListedFile | None) -> str:
    return "" if caption is None else f"{caption.size}.{caption.mtime_ns}"
