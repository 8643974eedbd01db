"""A folder this pack writes: it appears whole or not at all, and replaces only its own kind.

`export.json` names every file with its stamp, so that a later export may take the place of an
earlier one and of nothing else.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from .caption import CAPTION_SUFFIX
from .image_file import DIGEST_BYTES
from .problem import PairError, PairProblem, printable

MANIFEST_NAME = "export.json"
EXPORT_HEADING = "These pairs cannot be exported"
LEFT_BEHIND = 3600.0
"""Seconds after which an unfinished folder that nobody has written to counts as left behind."""

_TEXTS = (CAPTION_SUFFIX, ".json", ".jsonl", ".md")


def write_export(folder: str | Path, digest: str, write: Callable[[Path], None]) -> Path:
    """Have `write` fill a new folder beside `folder`, then rename it.

    `digest` is that of all that is written: an export of the same that is still as it was written
    is left alone. An earlier export in its place is replaced, but nothing else ever is.

    Returns the folder. Raises PairError for a place that holds something else, and whatever
    `write` raises; OSError for no room or no permission. Nothing half-written stays.
    """
    target = Path(os.path.abspath(folder))
    if _holds_export(target, digest):
        return target
    _require_ours(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir()
        write(part)
        _seal(part, digest)
        _put_in_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _seal(part: Path, digest: str) -> None:
    """Write the manifest of all files, once they would outlast a power cut."""
    stamps = {}
    for path in sorted(part.rglob("*")):
        if path.is_file():
            _sync(path)
            stamps[path.relative_to(part).as_posix()] = _stamp(path)
    manifest = part / MANIFEST_NAME
    text = json.dumps({"version": 1, "digest": digest, "files": stamps}, indent=1)
    manifest.write_text(text + "\n", encoding="utf-8", newline="\n")
    _sync(manifest)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sweep(target: Path) -> None:
    """Remove what a killed program has left of an earlier export to the same place."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        try:
            written = max(one.stat().st_mtime for one in (path, *path.rglob("*")))
            if time.time() - written > LEFT_BEHIND:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # another has been faster
            continue


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
        raise PairError([PairProblem("There is a file or link here", shown, fix)], EXPORT_HEADING)
    if any(target.iterdir()) and not _is_whole(target):
        what = "The folder holds files that are no earlier export, or a changed one"
        raise PairError([PairProblem(what, shown, fix)], EXPORT_HEADING)


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
    """A text's digest, since people edit captions; the size of an image or a table."""
    if path.suffix not in _TEXTS:
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
