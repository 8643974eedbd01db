"""A verdict in words, for people."""

from __future__ import annotations

from collections.abc import Sequence

from .verdict import Verdict

BRIEFLY = 8
"""Images that one line names."""


def verdict_table(verdict: Verdict, numbers: Sequence[int]) -> str:
    """A line for each image, best first: its number, its score and what that is made of.

    Args:
        verdict: on K images.
        numbers: by which the person knows the K images.
    """
    scores = verdict.scores
    return "\n".join(
        f"image {numbers[i]}: {_number(scores[i])} = {_sum(verdict, i)}"
        for i in best_first(verdict)
    )


def brief_scores(verdict: Verdict, numbers: Sequence[int]) -> str:
    """The same in one line, of the best images alone where there are many."""
    best = best_first(verdict)
    said = [f"image {numbers[i]} {_number(verdict.scores[i])}" for i in best[:BRIEFLY]]
    return ", ".join(said) + (", ..." if len(best) > BRIEFLY else "")


def best_first(verdict: Verdict) -> list[int]:
    """The images by their score, equal ones as they came."""
    return sorted(range(len(verdict.scores)), key=lambda i: -verdict.scores[i])


def why_no_pair(verdict: Verdict, min_gap: float) -> str:
    """Why a verdict makes no pair; empty if it makes one."""
    if verdict.pairs(1, min_gap):
        return ""
    gap = max(verdict.scores) - min(verdict.scores)
    if gap == 0:
        return "Nothing is told apart: all images have the same score, so they make no pair."
    if gap < min_gap:
        return (
            f"No pair is made: the best and the worst image are {_number(gap)} apart, which is "
            f"less than min_gap {_number(min_gap)}."
        )
    return "No pair is made: there are no two images of which all judges prefer the same one."


def _sum(verdict: Verdict, image: int) -> str:
    return " + ".join(
        ("" if one.weight == 1 else f"{one.weight:g} x ")
        + f"{one.judge} {_number(one.scores[image])}"
        for one in verdict.opinions
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
