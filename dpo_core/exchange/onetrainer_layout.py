"""Preference records become a folder for OneTrainer's DPO, with its lists beside the images.

`chosen/train/pair_0000.png` with `rejected/train/pair_0000.png`, likewise `val`; a caption beside
either; `concepts.json` with a concept for each of the four folders, `concepts_patterns.json` with
one for each split, as OneTrainer has it since July 2026; `manifest.json` as its pair tool writes
it. What OneTrainer has no place for lies in `others/` and in fields that it passes over.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metadata.prompt_text import tidy_prompt
from ..pairs.belief import BELIEFS_NAME, belief_line
from ..pairs.caption import CAPTION_SUFFIX
from ..pairs.export_folder import EXPORT_HEADING, write_export
from ..pairs.problem import PairError, PairProblem
from ..pairs.record import LabelledImage, Pair, PairSet, Picture, RankedGroup
from ..pairs.saved_picture import picture_suffix, save_picture

LIST_NAME = "manifest.json"
CONCEPTS_NAME = "concepts.json"
PATTERNS_NAME = "concepts_patterns.json"
OTHERS = "others"
OWN_FIELD = "dpo"
"""In an entry of the manifest and in the manifest itself: what only we know of."""

SIDES = ("chosen", "rejected")
CONCEPT_TYPES = {
    ("chosen", "train"): "DPO_CHOSEN",
    ("rejected", "train"): "DPO_REJECTED",
    ("chosen", "val"): "DPO_CHOSEN_VAL",
    ("rejected", "val"): "DPO_REJECTED_VAL",
}
PATTERN_TYPES = {"train": "STANDARD", "val": "VALIDATION"}
_CONCEPT_VERSION = 2


def export_onetrainer(records: PairSet, folder: str | Path) -> Path:
    """Write the folder; pairs without a split go to `train`.

    Files keep their bytes and metadata; pictures in memory become PNG. The folder appears whole or
    not at all; an earlier export in its place is replaced, but nothing else ever is. The concepts
    name its full path: move it, and they have to be written again. Not kept: `lineage`, since a
    folder is a fixed collection.

    Returns the folder. Raises PairError for no pairs, for every image that cannot be read, and
    for a folder that holds something else; OSError for no room or no permission.
    """
    target = Path(os.path.abspath(folder))
    if not records.pairs:
        fix = "Rank or load some pairs first."
        raise PairError([PairProblem("There is no pair to export", "pairs", fix)], EXPORT_HEADING)
    return write_export(
        target, f"onetrainer {records.digest}", lambda part: _write(records, part, target)
    )


def _write(records: PairSet, part: Path, target: Path) -> None:
    writer = _Writer(part)
    entries, beliefs = [], []
    for number, pair in enumerate(records.pairs):
        name = f"{pair.split or 'train'}/pair_{number:04d}"
        files = {side: writer.pair_image(side, name, pair) for side in SIDES}
        entries.append(_entry(number, pair, files))
        beliefs.append(belief_line(name, pair, files["chosen"].name, files["rejected"].name))
    others = {
        "version": 1,
        "ties": [_tie(writer, pair) for pair in records.ties],
        "labelled": [_labelled(writer, one) for one in records.labelled],
        "groups": [_ranked(writer, one) for one in records.groups],
    }
    if writer.problems:
        raise PairError(writer.problems, EXPORT_HEADING)
    used = {pair.split or "train" for pair in records}
    splits = [split for split in PATTERN_TYPES if split in used]
    writer.json(LIST_NAME, {"pairs": entries, OWN_FIELD: others})
    writer.json(CONCEPTS_NAME, list(_concepts(target, splits)))
    writer.json(PATTERNS_NAME, list(_pattern_concepts(target, splits)))
    writer.text(BELIEFS_NAME, "\n".join(beliefs) + "\n")


@dataclass(frozen=True)
class _Saved:
    """A file of the export by its name in the folder, its content and its picture's size."""

    name: str
    sha256: str
    bytes: int
    size: tuple[int, int]


class _Writer:
    """Writes files into a folder and collects the problems of those that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[PairProblem] = []

    def pair_image(self, side: str, name: str, pair: Pair) -> _Saved:
        """One image of a pair and its caption."""
        picture = pair.chosen if side == "chosen" else pair.rejected
        # Also for an empty prompt: else the one in the metadata would be taken for it.
        self.text(f"{side}/{name}{CAPTION_SUFFIX}", tidy_prompt(pair.prompt))
        suffix = picture_suffix(picture)
        suffix = ".jpg" if suffix == ".jfif" else suffix  # the one format it knows by no such name
        return self._image(f"{side}/{name}{suffix}", picture, pair.prompt)

    def other_image(self, picture: Picture, prompt: str) -> str:
        """An image that belongs to no pair, under the name of its content."""
        name = "unread"
        try:
            name = f"{picture.digest}{picture_suffix(picture)}"
        except PairError as error:
            self.problems += error.problems
            return name
        if not (self.folder / OTHERS / name).exists():
            self._image(f"{OTHERS}/{name}", picture, prompt)
        return name

    def text(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")

    def json(self, name: str, value: Any) -> None:
        self.text(name, json.dumps(value, indent=2) + "\n")

    def _image(self, name: str, picture: Picture, prompt: str) -> _Saved:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_picture(picture, path, prompt)
            with path.open("rb") as file:
                sha256 = _sha256(file)
            return _Saved(name, sha256, path.stat().st_size, picture.size)
        except PairError as error:
            self.problems += error.problems
            return _Saved(name, "", 0, (1, 1))


def _sha256(file: Any) -> str:
    hasher = hashlib.sha256()
    while block := file.read(1 << 20):
        hasher.update(block)
    return hasher.hexdigest()


def _entry(number: int, pair: Pair, files: Mapping[str, _Saved]) -> dict[str, Any]:
    """A pair as the pair tool lists it, and what only we know of it."""
    width, height = files["chosen"].size
    shared = math.gcd(width, height)
    entry: dict[str, Any] = {
        "pair_id": number,
        "prompt": pair.prompt,
        "aspectratio": f"{width // shared}:{height // shared}",
    }
    for side, file in files.items():
        entry[f"{side}_file"] = Path(file.name).name
        entry[f"{side}_source"] = None
        entry[f"{side}_sha256"] = file.sha256
        entry[f"{side}_size"] = file.bytes
    return {**entry, OWN_FIELD: _belief(pair)}


def _belief(pair: Pair) -> dict[str, Any]:
    return {
        "chosen_probability": pair.chosen_probability,
        "rating_gap": pair.rating_gap,
        **_shared(pair),
    }


def _shared(record: Pair | LabelledImage | RankedGroup) -> dict[str, Any]:
    return {
        "group": record.group,
        "split": record.split,
        "source": record.source,
    }


def _tie(writer: _Writer, pair: Pair) -> dict[str, Any]:
    return {
        "prompt": pair.prompt,
        "chosen_file": writer.other_image(pair.chosen, pair.prompt),
        "rejected_file": writer.other_image(pair.rejected, pair.prompt),
        **_belief(pair),
    }


def _labelled(writer: _Writer, one: LabelledImage) -> dict[str, Any]:
    return {
        "prompt": one.prompt,
        "file": writer.other_image(one.picture, one.prompt),
        "liked": one.liked,
        **_shared(one),
    }


def _ranked(writer: _Writer, one: RankedGroup) -> dict[str, Any]:
    return {
        "prompt": one.prompt,
        "files": [writer.other_image(picture, one.prompt) for picture in one.pictures],
        "ratings": list(one.ratings),
        **_shared(one),
    }


def _concepts(target: Path, splits: list[str]) -> Iterator[dict[str, Any]]:
    for (side, split), type_ in CONCEPT_TYPES.items():
        if split in splits:
            path = target / side / split
            yield _concept(f"DPO {side} {split}", path, type_)


def _pattern_concepts(target: Path, splits: list[str]) -> Iterator[dict[str, Any]]:
    for split in splits:
        yield {
            **_concept(f"DPO {split}", target, PATTERN_TYPES[split]),
            "include_subdirectories": True,
            "dpo_chosen_pattern": f"chosen/{split}/{{}}",
            "dpo_rejected_pattern": f"rejected/{split}/{{}}",
        }


def _concept(name: str, path: Path, type_: str) -> dict[str, Any]:
    """A concept; what is not named here keeps OneTrainer's default."""
    return {
        "__version": _CONCEPT_VERSION,
        "name": name,
        "path": str(path),
        "enabled": True,
        "type": type_,
        "include_subdirectories": False,
        "image": {"enable_crop_jitter": False},  # else the sides of a pair would be cut apart
        "text": {"prompt_source": "sample"},
    }
