"""Vote records: the JSON objects of `votes.jsonl`, their schema and their checks.

Every record has `v` (the schema version), `id` (its identity: the same id counts once), `kind`,
and once stored `at` (Unix time in ms, for people only). Fields not named here are kept and ignored.
`set` is a candidate set's id, every image an image id of that set.

| kind | fields |
|---|---|
| set | `set`, `prompt`, `images`: [{`id`, `width`, `height`}]; written by the store itself |
| best_worst | `set`, `best`, `worst`, `among`: [image] (optional: those picked from, else all) |
| ranking | `set`, `order`: [[image, ...], ...], best first, images of one inner list are tied |
| comparison | `set`, `left`, `right`, `result`: left, right, tie, both_bad, skip |
| swap | `set`, `up`, `down`: two images of the standings change places, `up` is now above |
| thumbs | `set`, `labels`: {image: good, bad, none} |
| remove | `set`, `images`: [image, image], which make no pair until they are compared again |
| prompt | `set`, `prompt`: the set's corrected prompt; its id stays that of the first one |
| undo | `strikes`: [id, ...] |

A vote of a judge has `by`: "judge", and more of what was said; see `judging/judged_set`. It gives
way where a person votes on the same set.

Any vote may have `strikes`, ids of earlier votes that no longer count: to change a pick, send the
new one with the old one's id. Striking a vote that struck others brings those back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..metadata.prompt_text import MAX_PROMPT_CHARS
from ..request import MAX_BODY_BYTES

SCHEMA_VERSION = 1
MAX_RECORD_BYTES = MAX_BODY_BYTES
MAX_IMAGES = 64
MAX_STRIKES = 256

BY_JUDGE = "judge"
"""What `by` of a vote says that no person has cast."""
RESULTS = ("left", "right", "tie", "both_bad", "skip")
LABELS = ("good", "bad", "none")

Vote = Mapping[str, Any]
"""A record as it came out of JSON; never changed in place."""

_VOTE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ID_RULE = "`id` must be 1 to 64 letters, digits, dots, dashes or underscores."
DIGEST = re.compile(r"[0-9a-f]{32}")
"""Ids of images and sets."""


class VoteError(ValueError):
    """A vote that cannot be stored. The message lists all `problems`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "This vote cannot be stored:\n" + "\n".join(f"  - {one}" for one in self.problems)
        )


@dataclass(frozen=True)
class Candidate:
    """An image of a set: its id (the content hash of its pixels) and size in pixels."""

    id: str
    width: int
    height: int


@dataclass(frozen=True)
class CandidateSet:
    """Images made for one prompt, ranked together, in the order they are shown."""

    id: str
    prompt: str
    images: tuple[Candidate, ...]
    image_ids: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_ids", frozenset(image.id for image in self.images))

    @classmethod
    def of(cls, prompt: str, images: Sequence[Candidate]) -> CandidateSet:
        """Images of equal content count once; the id does not depend on their order."""
        unique = tuple({image.id: image for image in images}.values())
        return cls(set_id(prompt, [image.id for image in unique]), prompt, unique)


def set_id(prompt: str, image_ids: Sequence[str]) -> str:
    """Hex digest of the images, in whatever order, and their prompt."""
    text = "\n".join([*sorted(set(image_ids)), prompt])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def set_record(candidates: CandidateSet) -> dict[str, Any]:
    """The record that tells the log of a set."""
    return {
        "v": SCHEMA_VERSION,
        # The colon keeps it apart from every id a vote may have.
        "id": f"set:{candidates.id}",
        "kind": "set",
        "set": candidates.id,
        "prompt": candidates.prompt,
        "images": [
            {"id": image.id, "width": image.width, "height": image.height}
            for image in candidates.images
        ],
    }


def read_set(record: Vote) -> CandidateSet | None:
    """The set of a record as `set_record` made it, None if the record is damaged."""
    images = record.get("images")
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not isinstance(images, list):
        return None
    if not 1 <= len(images) <= MAX_IMAGES or not all(_is_candidate(image) for image in images):
        return None
    found = CandidateSet.of(
        prompt, [Candidate(image["id"], image["width"], image["height"]) for image in images]
    )
    return found if found.id == record.get("set") else None


def encode_record(record: Vote) -> bytes:
    """One line of the log, its line break included. Raises VoteError."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        line = text.encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: NaN, surrogates, loops
        raise VoteError([f"It is not plain JSON ({error})."]) from error
    if len(line) > MAX_RECORD_BYTES:
        raise VoteError([f"It is larger than {MAX_RECORD_BYTES // 1024} KB."])
    return line


def identified(vote: Vote) -> dict[str, Any]:
    """The vote with a schema version, and an id where it has none: the digest of its content.

    Raises VoteError when that cannot be told, or the id is none.
    """
    if not isinstance(vote, Mapping):
        raise VoteError(["It is not a JSON object."])
    full = {"v": SCHEMA_VERSION, **vote}
    if full.get("id") is None and full.get("kind") != "undo":  # the same undo may come again
        full.pop("id", None)
        content = {name: value for name, value in full.items() if name != "at"}
        try:
            text = json.dumps(content, sort_keys=True, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise VoteError([f"It is not plain JSON ({error})."]) from error
        full["id"] = hashlib.blake2b(text, digest_size=16).hexdigest()
    if not _is_vote_id(full.get("id")):
        raise VoteError([_ID_RULE])
    return full


def overruled_votes(votes: Sequence[Vote]) -> list[Vote]:
    """Of votes that count, those of judges on sets on which a person has said something."""
    spoken = {
        vote["set"]
        for vote in votes
        if vote.get("by") != BY_JUDGE and "set" in vote and vote.get("result") != "skip"
        and vote["kind"] != "prompt"
    }
    return [vote for vote in votes if vote.get("by") == BY_JUDGE and vote["set"] in spoken]


def vote_problems(vote: Vote, sets: Mapping[str, CandidateSet]) -> list[str]:
    """Everything wrong with a vote, as sentences; empty if it can count."""
    problems: list[str] = []
    version, kind = vote.get("v"), vote.get("kind")
    if type(version) is not int or version != SCHEMA_VERSION:
        return [f"`v` is {_shown(version)}; this version of the program writes {SCHEMA_VERSION}."]
    if not _is_vote_id(vote.get("id")):
        problems.append(_ID_RULE)
    strikes = vote.get("strikes", [])
    if not _is_ids(strikes) or len(strikes) > MAX_STRIKES:
        problems.append(f"`strikes` must be a list of up to {MAX_STRIKES} vote ids.")
    elif kind == "undo" and not strikes:
        problems.append("An undo needs `strikes`, the ids of the votes to strike out.")
    if kind == "undo":
        return problems
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        return [*problems, f"`kind` is {_shown(kind)}, none of {', '.join([*_CHECKS, 'undo'])}."]
    named = vote.get("set")
    candidates = sets.get(named) if isinstance(named, str) else None
    if candidates is None:
        return [*problems, f"`set` is {_shown(named)}, which this session does not know."]
    return problems + check(vote, candidates)


def _best_worst_problems(vote: Vote, candidates: CandidateSet) -> list[str]:
    problems = _image_problems(vote, ("best", "worst"), candidates)
    among = vote.get("among")
    if among is None or problems:
        return problems
    if not _is_ids(among) or not candidates.image_ids.issuperset(among):
        return ["`among` must be a list of images of the set."]
    if len(set(among)) < len(among) or not {vote["best"], vote["worst"]}.issubset(among):
        return ["`among` must name each image once, best and worst among them."]
    return []


def _ranking_problems(vote: Vote, candidates: CandidateSet) -> list[str]:
    order = vote.get("order")
    if not isinstance(order, list) or not all(_is_ids(tied) and tied for tied in order):
        return ["`order` must be a list of lists of images, best first."]
    named = [image for tied in order for image in tied]
    problems = []
    if not candidates.image_ids.issuperset(named):
        problems.append("`order` names an image that is not in the set.")
    if len(set(named)) < len(named):
        problems.append("`order` names an image twice.")
    if len(named) < 2:
        problems.append("`order` must name two images or more.")
    return problems


def _comparison_problems(vote: Vote, candidates: CandidateSet) -> list[str]:
    problems = _image_problems(vote, ("left", "right"), candidates)
    if vote.get("result") not in RESULTS:
        problems.append(
            f"`result` is {_shown(vote.get('result'))}, none of {', '.join(RESULTS)}."
        )
    return problems


def _swap_problems(vote: Vote, candidates: CandidateSet) -> list[str]:
    return _image_problems(vote, ("up", "down"), candidates)


def _thumbs_problems(vote: Vote, candidates: CandidateSet) -> list[str]:
    labels = vote.get("labels")
    if not isinstance(labels, dict) or not labels:
        return ["`labels` must be an object of images and their labels."]
    problems = []
    if not candidates.image_ids.issuperset(labels):
        problems.append("`labels` names an image that is not in the set.")
    if not all(isinstance(label, str) and label in LABELS for label in labels.values()):
        problems.append(f"Labels must be {', '.join(LABELS)}.")
    return problems


def _remove_problems(vote: Vote, candidates: CandidateSet) -> list[str]:
    images = vote.get("images")
    if not _is_ids(images) or len(images) != 2 or images[0] == images[1]:
        return ["`images` must be a list of two images."]
    if not candidates.image_ids.issuperset(images):
        return ["`images` names an image that is not in the set."]
    return []


def _prompt_problems(vote: Vote, candidates: CandidateSet) -> list[str]:
    prompt = vote.get("prompt")
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT_CHARS:
        return [f"`prompt` must be a text of up to {MAX_PROMPT_CHARS} characters."]
    return []


_CHECKS: dict[str, Callable[[Vote, CandidateSet], list[str]]] = {
    "best_worst": _best_worst_problems,
    "ranking": _ranking_problems,
    "comparison": _comparison_problems,
    "swap": _swap_problems,
    "thumbs": _thumbs_problems,
    "remove": _remove_problems,
    "prompt": _prompt_problems,
}


def _image_problems(
    vote: Vote, names: tuple[str, str], candidates: CandidateSet
) -> list[str]:
    images = [vote.get(name) for name in names]
    problems = [
        f"`{name}` is {_shown(image)}, no image of the set."
        for name, image in zip(names, images, strict=True)
        if not isinstance(image, str) or image not in candidates.image_ids
    ]
    if not problems and images[0] == images[1]:
        problems.append(f"`{names[0]}` and `{names[1]}` are the same image.")
    return problems


def _is_vote_id(value: object) -> bool:
    return isinstance(value, str) and _VOTE_ID.fullmatch(value) is not None


def _is_ids(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_candidate(image: object) -> bool:
    return (
        isinstance(image, dict)
        and isinstance(image.get("id"), str)
        and DIGEST.fullmatch(image["id"]) is not None
        and all(type(image.get(side)) is int and image[side] > 0 for side in ("width", "height"))
    )


def _shown(value: object) -> str:
    return ascii(value)[:60]
