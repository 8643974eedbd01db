"""Preference records become a folder that this and other trainers read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..metadata.prompt_text import tidy_prompt
from .belief import BELIEFS_NAME, belief_line
from .caption import CAPTION_SUFFIX
from .export_folder import EXPORT_HEADING, write_export
from .problem import PairError, PairProblem
from .record import LabelledImage, Pair, PairSet, Picture
from .saved_picture import picture_suffix, save_picture


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
    if not (records.pairs or records.labelled):
        fix = "Rank or load some images first."
        raise PairError([PairProblem("There is nothing to export", "pairs", fix)], EXPORT_HEADING)
    return write_export(folder, records.digest, lambda part: _write(part, _files(records)))


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
    yield _File(f"{side}/{name}{picture_suffix(picture)}", picture, prompt)
    # Also for an empty prompt: else the one in the metadata would be taken for it.
    yield _File(f"{side}/{name}{CAPTION_SUFFIX}", text=tidy_prompt(prompt))


def _write(part: Path, files: Iterable[_File]) -> None:
    problems: list[PairProblem] = []
    for file in files:
        path = part / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if file.picture is None:
                path.write_text(file.text, encoding="utf-8", newline="\n")
            else:
                save_picture(file.picture, path, file.text)
        except PairError as error:
            problems += error.problems
    if problems:
        raise PairError(problems, EXPORT_HEADING)
