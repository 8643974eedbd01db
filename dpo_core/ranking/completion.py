"""When a set of images has been ranked."""

from __future__ import annotations

from collections.abc import Iterable

from .tournament import start
from .vote import CandidateSet, Vote


def is_ranked(candidates: CandidateSet, votes: Iterable[Vote]) -> bool:
    """True if the votes on a set are what one of the ways of ranking asks for.

    Best and worst named, the images put in order, the tournament's planned matches played, or
    every image labelled. One image alone needs none.
    """
    if len(candidates.images) < 2:
        return True
    matches: set[frozenset[str]] = set()
    labels: dict[str, str] = {}
    for vote in votes:
        if vote["kind"] in ("best_worst", "ranking", "swap"):
            return True
        if vote["kind"] == "comparison":
            matches.add(frozenset((vote["left"], vote["right"])))
        elif vote["kind"] == "thumbs":
            labels.update(vote["labels"])
    if matches and len(matches) >= start(len(candidates.images), 0)["planned"]:
        return True
    labelled = {image for image, label in labels.items() if label != "none"}
    return labelled.issuperset(candidates.image_ids)
