"""Votes that come with a prompt instead of from the widget: for scripts that rank by a program.

The node's `ranking` input may hold, beside what the widget keeps there, `votes`: a list of votes as
in `vote`. `set` may be left out: the images at hand. Images may be named by their number among the
images at hand, from 0, instead of by id; in `labels`, the number is text, as JSON wants it:

    {"votes": [{"kind": "best_worst", "best": 2, "worst": 0}]}
    {"votes": [{"kind": "ranking", "order": [[3], [0, 1], [2]]}]}
    {"votes": [{"kind": "thumbs", "labels": {"0": "good", "3": "bad"}}]}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .vote import Vote, VoteError

MAX_GIVEN = 4096
_IMAGE_FIELDS = ("best", "worst", "left", "right", "up", "down")
_SHOWN_PROBLEMS = 20


def given_votes(
    ranking: Mapping[str, Any],
    set_id: str,
    image_ids: Sequence[str],
    problems_of: Callable[[Vote, Collection[str]], list[str]] = lambda vote, earlier: [],
) -> list[dict[str, Any]]:
    """The votes of a `ranking` value, each with a set, and images by id.

    The same votes again are the same.

    Args:
        ranking: the value.
        set_id: the images at hand.
        image_ids: their ids, in the order they are numbered.
        problems_of: what is wrong with a vote that comes after others of these ids, such as
            `Session.problems`.

    Raises:
        VoteError: they are no list of objects, a number has no image, or `problems_of` finds
            something; everything wrong with any of them.
    """
    votes = ranking.get("votes", [])
    if not isinstance(votes, list) or not all(isinstance(vote, Mapping) for vote in votes):
        raise VoteError(["`votes` must be a list of objects."])
    if len(votes) > MAX_GIVEN:
        raise VoteError([f"`votes` holds more than {MAX_GIVEN} votes."])
    given: list[dict[str, Any]] = []
    problems: list[str] = []
    earlier: set[str] = set()
    for number, vote in enumerate(votes):
        numbers = _Numbers(image_ids)
        full = {"set": set_id, **numbers.replaced(vote)}
        found = numbers.problems or problems_of(full, earlier)
        which = f"Vote {number}: " if len(votes) > 1 else ""
        problems += [which + one for one in found]
        given.append(full)
        if isinstance(name := vote.get("id"), str):
            earlier.add(name)
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = problems[:_SHOWN_PROBLEMS]
        raise VoteError([*shown, f"And {more} more problems."] if more > 0 else problems)
    return given


class _Numbers:
    """Puts ids in place of the numbers in a vote; `problems` tells of numbers without an image."""

    def __init__(self, image_ids: Sequence[str]) -> None:
        self._image_ids = image_ids
        self.problems: list[str] = []

    def replaced(self, vote: Vote) -> dict[str, Any]:
        named = dict(vote)
        for name in _IMAGE_FIELDS:
            if name in named:
                named[name] = self._id(named[name])
        for name in ("among", "images"):
            if isinstance(images := named.get(name), list):
                named[name] = [self._id(image) for image in images]
        if isinstance(order := named.get("order"), list):
            named["order"] = [
                [self._id(image) for image in tied] if isinstance(tied, list) else tied
                for tied in order
            ]
        if isinstance(labels := named.get("labels"), Mapping):
            named["labels"] = {
                self._id(int(image) if _is_number(image) else image): label
                for image, label in labels.items()
            }
        return named

    def _id(self, image: Any) -> Any:
        if type(image) is not int:
            return image
        if not 0 <= image < len(self._image_ids):
            count = len(self._image_ids)
            self.problems.append(f"There is no image number {image}: there are {count}, from 0.")
            return image
        return self._image_ids[image]


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 4
