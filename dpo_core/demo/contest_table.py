"""What a contest found, as text."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from ..evaluation.interval import Share, wilson
from .trial_file import Row


def won(scores: Sequence[float], against: Sequence[float]) -> float:
    """How many rows score higher; a tie counts one half."""
    rows = list(zip(scores, against, strict=True))
    return sum(a > b for a, b in rows) + sum(a == b for a, b in rows) / 2


def win_rate(rows: Sequence[Row]) -> Share:
    """Share of all held-out pictures that score higher than the base model's."""
    wins = sum(won(row["scores"], row["base_scores"]) for row in rows)
    return wilson(wins, sum(len(row["scores"]) for row in rows))


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Results of one arm, and one learning rate where it is not the arm's own, by its name."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        rate = f", rate {row['learning_rate']:g}" if row["learning_rate"] else ""
        found.setdefault(row["arm"] + rate, []).append(row)
    return found


def by_size(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Results by the number of judged pictures, fewest first."""
    return {
        size: [row for row in rows if row["judged"] == size]
        for size in sorted({row["judged"] for row in rows})
    }


def contest_table(rows: Sequence[Row]) -> str:
    """Markdown: for each number of judged pictures every arm against the base, then in pairs."""
    lines = []
    for size, members in by_size(rows).items():
        arms = by_arm(members)
        lines += [
            f"### {size} judged pictures",
            "",
            "| | win rate | reward | drift | CPU seconds | seeds |",
            "|---|---|---|---|---|---|",
            *(_line(name, each) for name, each in arms.items()),
            "",
            "| on the same prompts and seeds | scores higher | ahead in |",
            "|---|---|---|",
            *_duels(arms),
            "",
        ]
    return "\n".join(lines)


def duels(rows: Sequence[Row], against: Sequence[Row]) -> Iterator[tuple[float, int]]:
    """For each seed that both were trained with: held-out pictures won, of how many."""
    others = {(row["seed"], len(row["scores"])): row["scores"] for row in against}
    for row in rows:
        count = len(row["scores"])
        if (row["seed"], count) in others:
            yield won(row["scores"], others[row["seed"], count]), count


def _line(name: str, rows: Sequence[Row]) -> str:
    cells = [str(win_rate(rows)), _mean(rows, "reward"), _mean(rows, "drift")]
    seconds = statistics.mean(row["cpu_seconds"] for row in rows)
    return f"| {name} | {' | '.join(cells)} | {seconds:.0f} | {len(rows)} |"


def _duels(arms: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    for first, second in combinations(arms, 2):
        found = list(duels(arms[first], arms[second]))
        if not found:  # no seed in common
            continue
        share = wilson(sum(wins for wins, _ in found), sum(count for _, count in found))
        ahead = sum(wins > count / 2 for wins, count in found)
        yield f"| {first} against {second} | {share} | {ahead} of {len(found)} seeds |"


def _mean(rows: Sequence[Row], name: str) -> str:
    values = [row[name] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
