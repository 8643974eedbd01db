"""Votes that come with a prompt instead of from the widget: for scripts that rank by a program.

The node's `ranking` input may hold, beside what the widget keeps there, `votes`: a list of votes as
in `vote`. `set` may be left out: the images at hand. Images may be named by their number among the
images at hand, from 0, instead of by id; in `labels`, the number is text, as JSON wants it:

    {"votes": [{"kind": "best_worst", "best": 2, "worst": 0}]}
    {"votes": [{"kind": "ranking", "order": [[3], [0, 1], [2]]}]}
    {"votes": [{"kind": "thumbs", "labels": {"0": "good", "3": "bad"}}]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .vote import VoteError

MAX_GIVEN = 4096
_IMAGE_FIELDS = ("best", "worst", "left", "right", "up", "down")


def given_votes(
    ranking: Mapping[str, Any], set_id: str, image_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """The votes of a `ranking` value, each with a set, and images by id.

    What they say is not checked here: storing them does. The same votes again are the same.

    Raises:
        VoteError: they are no list of objects, or a number has no image.
    """
    votes = ranking.get("votes", [])
    if not isinstance(votes, list) or not all(isinstance(vote, Mapping) for vote in votes):
        raise VoteError(["`votes` must be a list of objects."])
    if len(votes) > MAX_GIVEN:
        raise VoteError([f"`votes` holds more than {MAX_GIVEN} votes."])
    return [{"set": set_id, **_with_ids(vote, image_ids)} for vote in votes]


def _with_ids(vote: Mapping[str, Any], image_ids: Sequence[str]) -> dict[str, Any]:
    named = dict(vote)
    for name in _IMAGE_FIELDS:
        if name in named:
            named[name] = _id(named[name], image_ids)
    if isinstance(among := named.get("among"), list):
        named["among"] = [_id(image, image_ids) for image in among]
    if isinstance(order := named.get("order"), list):
        named["order"] = [
            [_id(image, image_ids) for image in tied] if isinstance(tied, list) else tied
            for tied in order
        ]
    if isinstance(labels := named.get("labels"), Mapping):
        named["labels"] = {
            _id(int(image) if _is_number(image) else image, image_ids): label
            for image, label in labels.items()
        }
    return named


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 4


def _id(image: Any, image_ids: Sequence[str]) -> Any:
    if type(image) is not int:
        return image
    if not 0 <= image < len(image_ids):
        raise VoteError([f"There is no image number {image}: there are {len(image_ids)}, from 0."])
    return image_ids[image]
