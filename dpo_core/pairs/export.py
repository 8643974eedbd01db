"""Preference records become a folder that this and other trainers read."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ..metadata.image_metadata import PROMPT_KEY
from ..metadata.prompt_text import tidy_prompt
from .belief import BELIEFS_NAME, belief_line
from .caption import CAPTION_SUFFIX
from .image_file import DIGEST_BYTES, IMAGE_SUFFIXES
from .problem import PairError, PairProblem, printable
from .record import LabelledImage, Pair, PairSet, Picture

MANIFEST_NAME = "export.json"
_HEADING = "These pairs cannot be exported"


@dataclass(frozen=True)
class _File:
    """A file of the export by its name in the folder; a picture with its prompt, or a text."""

    name: str
    picture: Picture | None = None
    text: str = ""


def export_pair_folder(records: PairSet, folder: str | Path) -> Path:
    """Write `chosen/`, `rejected/` with captions, and `liked/`, `disliked/` for labelled images.

    Files keep their bytes and metadata; pictures in memory become PNG. Pairs with a split lie in
    `train` and `val` folders below the sides; `preferences.jsonl` holds the soft labels, which
    `load_pair_folder` reads again. The folder appears whole or not at all. An earlier export in
    its place is replaced, but nothing else ever is.

    Returns the folder. Raises PairError for no records, an unreadable image, or a folder that
    holds something else; OSError for no room or no permission.
    """
    target = Path(os.path.abspath(folder))
    if not (records.pairs or records.labelled):
        fix = "Rank or load some images first."
        raise PairError([PairProblem("There is nothing to export", "pairs", fix)], _HEADING)
    if _holds_export(target, records.digest):
        return target
    _require_ours(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        _write(part, list(_files(records)), records.digest)
        _put_in_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _files(records: PairSet) -> Iterator[_File]:
    lines: list[str] = []
    for number, pair in enumerate(records.pairs, 1):
        name = _name(pair, number, len(records.pairs))
        files = [*_image("chosen", name, pair.chosen, pair.prompt)]
        # The chosen image's caption is the pair's; a second one could only contradict it.
        files += [*_image("rejected", name, pair.rejected, pair.prompt)][:1]
        yield from files
        lines.append(belief_line(name, pair, files[0].name, files[2].name))
    for number, one in enumerate(records.labelled, 1):
        side = "liked" if one.liked else "disliked"
        name = _name(one, number, len(records.labelled))
        yield from _image(side, name, one.picture, one.prompt)
    if lines:
        yield _File(BELIEFS_NAME, text="\n".join(lines) + "\n")


def _name(record: Pair | LabelledImage, number: int, count: int) -> str:
    digits = f"{number:0{max(4, len(str(count)))}d}"
    return f"{record.split}/{digits}" if record.split else digits


def _image(side: str, name: str, picture: Picture, prompt: str) -> Iterator[_File]:
    suffix = ".png" if picture.path is None else picture.path.suffix.lower()
    suffix = suffix if suffix in IMAGE_SUFFIXES else ".png"
    yield _File(f"{side}/{name}{suffix}", picture, prompt)
    # Also for an empty prompt: else the one in the metadata would be taken for it.
    yield _File(f"{side}/{name}{CAPTION_SUFFIX}", text=tidy_prompt(prompt))


def _write(part: Path, files: Sequence[_File], digest: str) -> None:
    problems: list[PairProblem] = []
    stamps: dict[str, str] = {}
    for file in files:
        path = part / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if file.picture is None:
                path.write_text(file.text, encoding="utf-8", newline="\n")
            elif file.picture.path is None:
                _save(file.picture, path, file.text)
            else:
                _copy(file.picture.path, path, file.picture.name)
            _sync(path)
            stamps[file.name] = _stamp(path)
        except PairError as error:
            problems += error.problems
    if problems:
        raise PairError(problems, _HEADING)
    manifest = part / MANIFEST_NAME
    text = json.dumps({"version": 1, "digest": digest, "files": stamps}, indent=1)
    manifest.write_text(text + "\n", encoding="utf-8", newline="\n")
    _sync(manifest)


def _copy(source: Path, path: Path, name: str) -> None:
    try:
        with source.open("rb"):
            pass
    except OSError as error:
        what = f"Image cannot be opened ({error.strerror})"
        fix = "Check that it exists and may be read."
        raise PairError([PairProblem(what, name, fix)]) from error
    shutil.copyfile(source, path)


def _save(picture: Picture, path: Path, prompt: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    if prompt:
        chunks.add_itxt(PROMPT_KEY, tidy_prompt(prompt))
    pixels = np.rint(picture.pixels() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=chunks)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _holds_export(target: Path, digest: str) -> bool:
    manifest = _manifest(target)
    return manifest is not None and manifest.get("digest") == digest and _is_whole(target)


def _require_ours(target: Path) -> None:
    """Refuses a place that holds anything this module did not write as it is there."""
    if not os.path.lexists(target):
        return
    shown = printable(str(target))
    fix = "Give another folder, or empty this one first."
    if not target.is_dir() or target.is_symlink():
        raise PairError([PairProblem("There is a file or link here", shown, fix)], _HEADING)
    if any(target.iterdir()) and not _is_whole(target):
        what = "The folder holds files that are no earlier export, or a changed one"
        raise PairError([PairProblem(what, shown, fix)], _HEADING)


def _is_whole(target: Path) -> bool:
    """True if the folder holds what its manifest names, unchanged, and nothing else."""
    manifest = _manifest(target)
    if manifest is None:
        return False
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(target):
        if any(Path(folder, name).is_symlink() for name in folders):
            return False
        for name in names:
            path = Path(folder, name)
            if path.is_symlink():
                return False
            found[path.relative_to(target).as_posix()] = _stamp(path)
    found.pop(MANIFEST_NAME)
    return found == manifest.get("files")


def _stamp(path: Path) -> str:
    """A text's digest, since people edit captions; an image's size."""
    if path.suffix not in (CAPTION_SUFFIX, ".json", ".jsonl"):
        return str(path.stat().st_size)
    return hashlib.blake2b(path.read_bytes(), digest_size=DIGEST_BYTES).hexdigest()


def _manifest(target: Path) -> dict[str, object] | None:
    try:
        manifest = json.loads((target / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _put_in_place(part: Path, target: Path) -> None:
    if not target.exists():
        os.rename(part, target)
        return
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    os.rename(target, old)
    try:
        os.rename(part, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
