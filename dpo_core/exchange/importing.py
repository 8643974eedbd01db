"""A folder from another program becomes records, whatever of the known layouts it holds."""

from __future__ import annotations

import os
from pathlib import Path

from ..pairs.folder import FolderReading, folder_manifest, load_pair_folder
from ..pairs.listing import list_folder
from ..pairs.problem import PairError, PairProblem, printable
from .image_folder import ImageFolder
from .onetrainer_concepts import import_concepts, read_concepts
from .onetrainer_layout import CONCEPTS_NAME, LIST_NAME
from .onetrainer_manifest import Allowed, import_list, read_list
from .preference_import import Progress, import_preferences

LAYOUTS = ("auto", "onetrainer", "huggingface")


def import_folder(
    folder: Path,
    images: ImageFolder,
    allowed: Allowed,
    layout: str = "auto",
    on_problem: str = "error",
    limit: int = 0,
    progress: Progress | None = None,
) -> FolderReading:
    """Read a folder of OneTrainer's or a dataset of HuggingFace's; "auto" finds out which.

    Of OneTrainer: the pair tool's list, else the list of concepts, else `chosen` and `rejected`.
    `images`: where the images of a dataset are laid down. `allowed`: which other folders a list
    may send us to. `limit` and `progress` are for datasets alone.

    Raises PairError listing every problem; OSError when an image cannot be laid down; ValueError
    for an unknown `layout` or `on_problem`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if layout == "auto":
        layout = _layout_of(folder)
    if layout == "huggingface":
        return import_preferences(folder, images, on_problem, limit, progress)
    listed = read_list(folder)
    if listed is not None:
        return import_list(folder, listed, on_problem, allowed)
    concepts = read_concepts(folder, allowed)
    if concepts is not None:
        return import_concepts(concepts, on_problem)
    return load_pair_folder(folder, on_problem=on_problem)


def import_stamp(folder: Path, allowed: Allowed) -> str:
    """Names, sizes and times of all that an import reads: changes when they do. Never raises
    PairError."""
    stamps = [folder_manifest(folder)]
    try:
        listing = list_folder(folder)
        stamps += [repr((file.name, file.size, file.mtime_ns)) for file in listing.tables]
        for name in (LIST_NAME, CONCEPTS_NAME):
            if (folder / name).is_file():
                status = os.stat(folder / name)
                stamps.append(repr((name, status.st_size, status.st_mtime_ns)))
        for concept in read_concepts(folder, allowed) or ():
            stamps += [folder_manifest(concept.chosen), folder_manifest(concept.rejected)]
    except (OSError, PairError) as error:
        stamps.append(str(error))
    return "\n".join(stamps)


def _layout_of(folder: Path) -> str:
    listing = list_folder(folder)
    lists = [name for name in (LIST_NAME, CONCEPTS_NAME) if (folder / name).is_file()]
    if listing.tables and lists:
        what = f"The folder holds Parquet files as well as {' and '.join(lists)}"
        fix = "Choose a layout: onetrainer or huggingface."
        where = printable(str(folder))
        raise PairError([PairProblem(what, where, fix)], "It is not clear what to import")
    return "huggingface" if listing.tables else "onetrainer"
