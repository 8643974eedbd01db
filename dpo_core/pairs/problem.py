"""What is wrong with a user's pairs: every problem collected, told once, each with its fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN_PER_KIND = 20
"""How many places of one kind of problem a message lists before it only counts the rest."""


@dataclass(frozen=True)
class PairProblem:
    """One thing that is wrong: `what` (the kind), `where` (file or pair), `fix` (what to do)."""

    what: str
    where: str
    fix: str


class PairError(ValueError):
    """Pairs that cannot be used. The message lists all `problems`, grouped by kind."""

    def __init__(
        self, problems: Sequence[PairProblem], heading: str = "These pairs cannot be used"
    ) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{heading}:\n" + "\n".join(describe_problems(self.problems)))


def describe_problems(
    problems: Iterable[PairProblem], shown_per_kind: int = SHOWN_PER_KIND
) -> list[str]:
    """Text lines: each kind of problem once, the places where it occurs, and its fix."""
    places: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        places.setdefault((problem.what, problem.fix), []).append(problem.where)
    lines: list[str] = []
    for (what, fix), where in places.items():
        lines.append(f"{what} ({len(where)}):" if len(where) > 1 else f"{what}:")
        lines += [f"  - {place}" for place in where[:shown_per_kind]]
        if len(where) > shown_per_kind:
            lines.append(f"  ... and {len(where) - shown_per_kind} more")
        lines.append(f"  Fix: {fix}")
    return lines


def printable(name: str) -> str:
    """A file name as it can be shown and sent: control and undecodable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
