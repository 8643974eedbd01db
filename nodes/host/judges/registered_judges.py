"""Judges that other node packs bring along.

A pack declares them in its `__init__.py`: ``DPO_JUDGES = {"my judge": judge}``. They are looked for
when they are asked for, so it does not matter which pack ComfyUI loads first.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import folder_paths

DECLARATION = "DPO_JUDGES"


def registered_judges() -> dict[str, Callable[..., Any]]:
    """Every registered judge by the name a person chooses it by.

    That is the name it was declared under, with the pack's folder where two packs chose the same.
    """
    found = [(name, pack, judge) for pack, judges in _declared() for name, judge in judges.items()]
    packs_of = Counter(name for name, _, _ in found)
    return {
        name if packs_of[name] == 1 else f"{name} ({pack})": judge
        for name, pack, judge in sorted(found, key=lambda one: one[:2])
    }


def source_digest(function: Callable[..., Any]) -> str | None:
    """Digest of the file a judge is written in, so that it judges anew when that is changed.

    None where there is no such file.
    """
    written = inspect.unwrap(function)
    code: Any = getattr(written, "__code__", getattr(type(written).__call__, "__code__", None))
    try:
        return blake2b(Path(code.co_filename).read_bytes(), digest_size=16).hexdigest()
    except (AttributeError, OSError):
        return None


def _declared() -> Iterator[tuple[str, dict[str, Callable[..., Any]]]]:
    """Packs and what they declare."""
    roots = _custom_nodes()
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType):
            continue
        # Not through the module's own lookup: one that loads itself when touched must not.
        content = ModuleType.__getattribute__(module, "__dict__")
        declared, file = content.get(DECLARATION), content.get("__file__")
        pack = _pack(file, roots) if declared is not None and isinstance(file, str) else None
        if pack is not None:
            yield pack, _usable(declared, pack)


def _custom_nodes() -> set[Path]:
    folders = folder_paths.get_folder_paths("custom_nodes")
    # ComfyUI loads a pack by the one or the other, depending on how it was started.
    return {Path(spelt(one)) for one in folders for spelt in (os.path.abspath, os.path.realpath)}


def _pack(file: str, roots: set[Path]) -> str | None:
    """The name of the pack whose first file this is, if it is one's."""
    path = Path(file)
    if path.parent in roots:
        return path.stem
    return path.parent.name if path.stem == "__init__" and path.parent.parent in roots else None


def _usable(declared: Any, pack: str) -> dict[str, Callable[..., Any]]:
    given = declared if isinstance(declared, Mapping) else {}
    usable = {name: one for name, one in given.items() if isinstance(name, str) and callable(one)}
    if len(usable) < len(given) or not isinstance(declared, Mapping):
        logging.warning(
            "DPO: %s of the node pack %s must be a dictionary of names and functions; what is none "
            "is left out.", DECLARATION, pack,
        )
    return usable
