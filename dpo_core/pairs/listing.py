"""What lies in a folder: images and captions, by name, without opening them."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .caption import CAPTION_SUFFIX
from .image_file import IMAGE_SUFFIXES
from .problem import PairError, PairProblem, printable

TABLE_SUFFIX = ".parquet"
MAX_FILES = 200_000
"""More than anyone ranks: the sign of a wrong folder (a whole disk, say)."""

_OTHER_PICTURES = frozenset(
    {".gif", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".exr", ".tga", ".svg", ".mp4", ".webm"}
)
_IGNORED_FOLDERS = frozenset({"thumbs", "thumbnails", "@eadir", "__macosx"})


@dataclass(frozen=True)
class ListedFile:
    """An image or caption: `name` relative to the folder, bytes, modification time in ns."""

    name: str
    path: Path
    size: int
    mtime_ns: int
    problem: PairProblem | None = None
    """Why it must not be opened."""

    @property
    def bare(self) -> str:
        """The name without extension, its accents in one form on every system."""
        return unicodedata.normalize("NFC", str(PurePosixPath(self.name).with_suffix("")))

    @property
    def shown(self) -> str:
        return printable(self.name)


@dataclass
class FolderListing:
    """The images and captions below a folder, sorted by name, and what is wrong with others."""

    folder: Path
    images: list[ListedFile] = field(default_factory=list)
    captions: list[ListedFile] = field(default_factory=list)
    unread: list[ListedFile] = field(default_factory=list)
    """Pictures and films of formats that are not read."""
    tables: list[ListedFile] = field(default_factory=list)
    """Parquet files: datasets, which hold their images themselves."""
    problems: list[PairProblem] = field(default_factory=list)


def list_folder(folder: str | Path, without: Collection[Path] = ()) -> FolderListing:
    """List a folder and its subfolders; hidden files, thumbnails and other files are passed over.

    Links are followed only where they stay inside the folder. `without` are folders below it that
    are not looked into, resolved. Raises PairError when the folder is missing, is no folder,
    cannot be read, or holds more than MAX_FILES files.
    """
    root = _checked(folder)
    listing = FolderListing(Path(folder))
    for count, (name, entry) in enumerate(_walk(root, listing.problems, without)):
        if count == MAX_FILES:
            raise PairError(
                [
                    PairProblem(
                        f"The folder holds more than {MAX_FILES} files",
                        printable(str(folder)),
                        "Give the folder that holds only the pairs.",
                    )
                ]
            )
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            listing.images.append(_listed(root, name, entry))
        elif suffix == CAPTION_SUFFIX:
            listing.captions.append(_listed(root, name, entry))
        elif suffix in _OTHER_PICTURES:
            listing.unread.append(_listed(root, name, entry))
        elif suffix == TABLE_SUFFIX:
            listing.tables.append(_listed(root, name, entry))
    listing.images.sort(key=lambda file: file.name)
    listing.captions.sort(key=lambda file: file.name)
    listing.tables.sort(key=lambda file: file.name)
    return listing


def _checked(folder: str | Path) -> Path:
    fix = "Give the full path of an existing folder."
    if not str(folder).strip():
        raise PairError([PairProblem("No folder given", "folder", fix)])
    shown = printable(str(folder))
    try:
        root = Path(folder).resolve()
        mode = root.stat().st_mode
    except (OSError, ValueError, RuntimeError) as error:  # missing, a NUL in the name, a link loop
        raise PairError([PairProblem("There is no such folder", shown, fix)]) from error
    if not stat.S_ISDIR(mode):
        raise PairError([PairProblem("This is a file, not a folder", shown, fix)])
    try:
        os.scandir(root).close()
    except OSError as error:
        raise PairError(
            [PairProblem("The folder cannot be read", shown, "Check its permissions.")]
        ) from error
    return root


def _walk(
    root: Path, problems: list[PairProblem], without: Collection[Path]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files as (name relative to root, entry); each real folder once, so loops end."""
    waiting: list[tuple[str, Path]] = [("", root)]
    linked: list[tuple[str, Path]] = []  # later, so that a folder goes by its own name if it can
    seen = set(without) - {root}
    while waiting or linked:
        prefix, folder = (waiting or linked).pop()
        if folder in seen:
            continue
        seen.add(folder)
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            problems.append(
                PairProblem(
                    "A subfolder cannot be read", printable(prefix), "Check its permissions."
                )
            )
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if not _is_folder(entry):
                yield name, entry
            elif entry.name.lower() not in _IGNORED_FOLDERS:
                inside = _resolved_inside(root, entry)
                if inside is None:
                    problems.append(_leads_out(name))
                else:
                    own_name = inside == Path(entry.path)
                    (waiting if own_name else linked).append((f"{name}/", inside))


def _listed(root: Path, name: str, entry: os.DirEntry[str]) -> ListedFile:
    path = Path(entry.path)
    if _resolved_inside(root, entry) is None:
        return ListedFile(name, path, 0, 0, _leads_out(name))
    try:
        status = entry.stat()
    except OSError:
        broken = PairProblem(
            "File cannot be opened", printable(name), "Check that it exists and may be read."
        )
        return ListedFile(name, path, 0, 0, broken)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = PairProblem("This is not a file", printable(name), "Take it out of the folder.")
    return ListedFile(name, path, status.st_size, status.st_mtime_ns, problem)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _resolved_inside(root: Path, entry: os.DirEntry[str]) -> Path | None:
    """Where an entry really lies, or None if that is outside `root`."""
    if not (entry.is_symlink() or _is_junction(entry)):
        return Path(entry.path)  # its folder was resolved before it
    try:
        target = Path(entry.path).resolve()
    except (OSError, RuntimeError):  # a link to itself
        return None
    return target if target.is_relative_to(root) else None


def _is_junction(entry: os.DirEntry[str]) -> bool:
    check = getattr(entry, "is_junction", None)  # Python 3.12, Windows
    return bool(check and check())


def _leads_out(name: str) -> PairProblem:
    return PairProblem(
        "A link leads out of the folder",
        printable(name),
        "Put the file itself there instead of the link.",
    )
