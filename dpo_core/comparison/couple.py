"""Two pictures of one prompt and seed, drawn in two ways, and what the two ways are called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..metadata.prompt_text import MAX_PROMPT_CHARS, tidy_prompt

MAX_NAME_CHARS = 80
_SHOWN_PROBLEMS = 20


class CoupleError(ValueError):
    """Pictures that cannot be compared; the message lists everything that is in the way."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = len(problems) - _SHOWN_PROBLEMS
        shown = [*problems[:_SHOWN_PROBLEMS], *([f"And {more} more problems."] if more > 0 else [])]
        super().__init__("These pictures cannot be compared:\n- " + "\n- ".join(shown))


@dataclass(frozen=True)
class Side:
    """One of the two ways to draw.

    Attributes:
        name: what the person calls it.
        made_with: the model and its LoRAs, empty where that is not known.
        identity: digest of what is known besides, such as strengths and weights: other LoRAs may
            have the same name.
    """

    name: str
    made_with: str = ""
    identity: str = ""


class Sides(NamedTuple):
    """The two ways to draw that are compared; other names or other LoRAs are another comparison."""

    a: Side
    b: Side

    @property
    def comparison(self) -> str:
        """Hex digest that tells comparisons of one session apart."""
        parts = (part for side in self for part in (side.name, side.made_with, side.identity))
        text = "\n".join(parts)
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


@dataclass(frozen=True)
class NewCouple:
    """Two pictures to be compared: ids and pixels as `ranking.image_store.identified_images`."""

    prompt: str
    a: tuple[str, Any]
    b: tuple[str, Any]


@dataclass(frozen=True)
class Couple:
    """Two stored pictures.

    Attributes:
        set_id: the set of the session on which they are voted on; empty for two pictures that are
            the same, pixel by pixel: a tie, not worth asking.
        prompt: what both were drawn with.
        a: image id of the one side's picture.
        b: that of the other's.
    """

    set_id: str
    prompt: str
    a: str
    b: str


def named_sides(a: Side, b: Side) -> Sides:
    """Both sides under the names they are shown by: A and B where none were given."""
    return Sides(
        *(
            replace(side, name=side.name.strip() or usual)
            for side, usual in zip((a, b), "AB", strict=True)
        )
    )


def side_problems(sides: Sides) -> list[str]:
    """What is wrong with the names of two sides, as sentences; empty if they can be compared."""
    problems = [
        f"The name {side.name[:MAX_NAME_CHARS]!a} cannot be shown: use up to "
        f"{MAX_NAME_CHARS} letters on one line."
        for side in sides
        if len(side.name) > MAX_NAME_CHARS or not side.name.isprintable()
    ]
    if sides.a.name == sides.b.name:
        problems.append(f"Both sides are called {sides.a.name!r}: give each a name of its own.")
    return problems


def new_couples(
    a: Sequence[tuple[str, Any]],
    b: Sequence[tuple[str, Any]],
    prompts: Sequence[str],
    problems: Sequence[str] = (),
) -> list[NewCouple]:
    """Pictures of two sides, in order, put together couple by couple.

    Args:
        a: ids and pixels, (height, width, 3) uint8, of one side.
        b: those of the other: as many, each of the same size.
        prompts: one for each couple, or one for all, or none.
        problems: what else is in the way, to be told at once.

    Raises:
        CoupleError: numbers, sizes or prompts do not fit; all that is wrong.
    """
    texts = [tidy_prompt(text) for text in prompts] or [""]
    found = [*problems, *_number_problems(len(a), len(b), len(prompts)), *_size_problems(a, b)]
    found += [
        f"Prompt {number} is longer than {MAX_PROMPT_CHARS} characters."
        for number, text in enumerate(texts, 1)
        if len(text) > MAX_PROMPT_CHARS
    ]
    if found:
        raise CoupleError(found)
    each = texts * len(a) if len(texts) == 1 else texts
    return [NewCouple(*one) for one in zip(each, a, b, strict=True)]


def _number_problems(a: int, b: int, prompts: int) -> list[str]:
    problems = []
    if a != b:
        problems.append(
            f"`images_a` has {a} pictures and `images_b` {b}: draw as many with both, of the same "
            "prompts and seeds in the same order."
        )
    elif not a:
        problems.append("There are no pictures: connect `images_a` and `images_b`.")
    if prompts > 1 and prompts not in (a, b):
        problems.append(
            f"There are {prompts} prompts for {max(a, b)} couples of pictures: give one line for "
            "each couple, one line for all, or leave `prompts` empty."
        )
    return problems


def _size_problems(a: Sequence[tuple[str, Any]], b: Sequence[tuple[str, Any]]) -> list[str]:
    return [
        f"Couple {number} has two sizes, {_size(one)} and {_size(other)}: the size would tell "
        "them apart. Draw both in one size."
        for number, ((_, one), (_, other)) in enumerate(zip(a, b, strict=False), 1)
        if one.shape != other.shape
    ]


def _size(pixels: Any) -> str:
    height, width = pixels.shape[:2]
    return f"{width} x {height}"


def couple_record(sides: Sides, couple: Couple) -> dict[str, Any]:
    """The line of the answer key that tells of a couple."""
    comparison = sides.comparison
    what = couple.set_id or f"{couple.a}:{_short(couple.prompt)}"
    return {
        "v": 1,
        "id": f"couple:{comparison}:{what}",
        "kind": "couple",
        "comparison": comparison,
        "sides": [asdict(side) for side in sides],
        "set": couple.set_id,
        "prompt": couple.prompt,
        "a": couple.a,
        "b": couple.b,
    }


def read_couple(record: Mapping[str, Any]) -> tuple[Sides, Couple] | None:
    """What :func:`couple_record` wrote; None if it is damaged."""
    try:
        sides = Sides(
            *(Side(one["name"], one["made_with"], one["identity"]) for one in record["sides"])
        )
        couple = Couple(record["set"], record["prompt"], record["a"], record["b"])
    except (KeyError, TypeError):
        return None
    texts = [*sides.a.__dict__.values(), *sides.b.__dict__.values(), *couple.__dict__.values()]
    if not all(isinstance(text, str) for text in texts):
        return None
    is_whole = (couple.a == couple.b) == (couple.set_id == "")
    return (sides, couple) if is_whole and record.get("comparison") == sides.comparison else None


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
