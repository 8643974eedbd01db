"""Soft labels beside a pair folder's images: `preferences.jsonl`, a line for each pair.

A line is a JSON object: `pair`, the pair's name as the folder's patterns give it
("train/0001"), and any of `chosen_probability`, `rating_gap`, `group`. Further fields are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .problem import PairProblem, printable
from .record import Pair

BELIEFS_NAME = "preferences.jsonl"
MAX_BELIEFS_BYTES = 64 * 1024 * 1024
MAX_GROUP_CHARS = 200

_FIX = "Correct the line, or delete the file: every pair then counts as certain."


@dataclass(frozen=True)
class Belief:
    """How sure a pair is. An empty `group` is that of the prompt."""

    chosen_probability: float = 1.0
    rating_gap: float | None = None
    group: str = ""


CERTAIN = Belief()


def belief_line(name: str, pair: Pair, chosen: str, rejected: str) -> str:
    """The line of a pair; `name` is the pair's, `chosen` and `rejected` its files'."""
    return json.dumps(
        {
            "pair": name,
            "chosen": chosen,
            "rejected": rejected,
            "prompt": pair.prompt,
            "chosen_probability": pair.chosen_probability,
            "rating_gap": pair.rating_gap,
            "group": pair.group,
            "split": pair.split,
            "source": pair.source,
        }
    )


def read_beliefs(folder: Path) -> tuple[dict[str, Belief], list[PairProblem]]:
    """The soft labels of a folder by pair name, none without the file, and what is wrong."""
    path = folder / BELIEFS_NAME
    if not path.is_file():
        return {}, []
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BELIEFS_BYTES + 1)
    except OSError as error:
        what = f"Soft labels cannot be opened ({error.strerror})"
        return {}, [PairProblem(what, BELIEFS_NAME, "Check the file's permissions.")]
    if len(data) > MAX_BELIEFS_BYTES:
        what = f"Soft labels are longer than {MAX_BELIEFS_BYTES >> 20} MB"
        return {}, [PairProblem(what, BELIEFS_NAME, "Delete the file: it is not of this folder.")]
    beliefs: dict[str, Belief] = {}
    problems: list[PairProblem] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        found = _parsed(line)
        where = f"{BELIEFS_NAME}, line {number}"
        if found is None:
            problems.append(PairProblem("A soft label cannot be understood", where, _FIX))
        elif found[0] in beliefs:
            where += f" ({printable(found[0])})"
            problems.append(PairProblem("A pair has two soft labels", where, _FIX))
        else:
            beliefs[found[0]] = found[1]
    return beliefs, problems


def beliefs_stamp(folder: Path) -> str:
    """Size and time of the file, for telling whether it changed."""
    try:
        status = (folder / BELIEFS_NAME).stat()
    except OSError:
        return "none"
    return repr((status.st_size, status.st_mtime_ns))


def parsed_belief(record: Mapping[str, Any]) -> Belief | None:
    """The soft label in fields of ours; None if one of them makes no sense."""
    group = record.get("group", "")
    probability, gap = record.get("chosen_probability", 1.0), record.get("rating_gap")
    if not isinstance(group, str) or len(group) > MAX_GROUP_CHARS:
        return None
    if not _is_number(probability) or not 0 <= probability <= 1:
        return None
    if gap is not None and not _is_number(gap):
        return None
    return Belief(float(probability), None if gap is None else float(gap), group)


def _parsed(line: bytes) -> tuple[str, Belief] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("pair"), str):
        return None
    belief = parsed_belief(record)
    return None if belief is None else (record["pair"], belief)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
