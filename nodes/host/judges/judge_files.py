"""The weights of judges that a person has on disk, below `models/judges`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....dpo_core.judging.weights_file import SUFFIXES

FOLDER = "judges"
"""As ComfyUI and `extra_model_paths.yaml` know it."""
NONE = "none"
DEPTH = 3
"""Folders inside of folders that are looked into."""


def register_judges_folder() -> None:
    """Makes `models/judges` one of ComfyUI's model folders, after those named elsewhere."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def judge_weights() -> dict[str, Path]:
    """What may be chosen, by its name: files, and folders that hold a config.json.

    A name stands for what was found under it, so that none leads anywhere else. Links are followed
    as in ComfyUI's other model folders: only who is at the machine can put one there.
    """
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(FOLDER)):
        for path in _entries(root, DEPTH):
            found.setdefault(path.relative_to(root).as_posix(), path)
    return dict(sorted(found.items()))


def weights_fingerprint(name: str) -> str:
    """Changes when the weights of a name do."""
    path = judge_weights().get(name)
    return name if path is None else weights_facts(path)


def weights_facts(path: Path) -> str:
    """Place, sizes and times of a file, or of all files in a folder."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    facts = [(one.name, one.stat()) for one in files if one.exists()]
    told = [f"{name}:{fact.st_size}:{fact.st_mtime_ns}" for name, fact in facts]
    return "\n".join([str(path), *told])


def _entries(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inside = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    except OSError:  # not there, or not to be read
        return
    for path in inside:
        if (path.is_file() and path.suffix.lower() in SUFFIXES) or (path / "config.json").is_file():
            yield path
        elif depth and path.is_dir():
            yield from _entries(path, depth - 1)
