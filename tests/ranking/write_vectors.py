"""Writes the test vectors that the Python and the JavaScript tournament both must satisfy.

`python tests/ranking/write_vectors.py` from the repository's root, after a change that is meant.
`numbers`: seeds, and the first numbers drawn from each. `tournaments`: every event and the state
after it but for `history`, the first being the state of `start`; `history` is that of the last.
`resumes`: stored events, and the state they are resumed to. `large`: a last state, which its own
history must lead to.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors" / "tournament.json"
RESULTS = ("left", "right", "tie", "both_bad", "skip")


def vectors() -> dict[str, Any]:
    from dpo_core.ranking.random_source import draw

    numbers = []
    for seed in (0, 1, 12345, 0x80000000, 0xFFFFFFFF):
        state, drawn = seed, []
        for _ in range(6):
            number, state = draw(state)
            drawn.append(number)
        numbers.append({"seed": seed, "numbers": drawn})
    sizes = (2, 3, 4, 5, 6, 7, 8, 16)
    tournaments = [_tournament(n, 0x9E3779B9 * n % 2**32, n) for n in sizes]
    return {
        "numbers": numbers,
        "tournaments": tournaments,
        "resumes": [_resume(one, i) for i, one in enumerate(tournaments)],
        "large": [_large(64, 64), _large(63, 63)],
    }


def _tournament(n: int, seed: int, luck: int) -> dict[str, Any]:
    from dpo_core.ranking.tournament import reduce, start

    rng = random.Random(luck)
    state = start(n, seed)
    steps: list[dict[str, Any]] = [{"event": None, "state": _bare(state)}]
    extra = 3
    while state["phase"] == "match" or extra:
        event = _event(state, rng)
        if state["phase"] == "standings" and event["type"] != "undo":
            extra -= 1
        state = reduce(state, event)
        steps.append({"event": event, "state": _bare(state)})
    return {"n": n, "seed": seed, "steps": steps, "history": state["history"]}


def _bare(state: Any) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "history"}


def _event(state: Any, rng: random.Random) -> dict[str, Any]:
    chance = rng.random()
    if chance < 0.08:
        return {"type": "undo"}
    if chance < 0.12:  # stale or foreign events
        return rng.choice(
            [
                {"type": "choose", "left": 0, "right": 0, "result": "left"},
                {"type": "choose", "left": 0, "right": 1, "result": "maybe"},
                {"type": "swap", "up": 0, "down": 0},
                {"type": "swap", "up": 0, "down": state["n"]},
                {"type": "dance"},
            ]
        )
    if state["phase"] == "match":
        left, right = rng.choice(state["queue"][:2])
        if rng.random() < 0.2:
            left, right = right, left
        result = rng.choices(RESULTS, (8, 8, 2, 1, 1))[0]
        event = {"type": "choose", "left": left, "right": right, "result": result}
        return {**event, "id": f"vote-{rng.randrange(1000)}"} if rng.random() < 0.5 else event
    if rng.random() < 0.6:
        return {"type": "more"}
    up, down = rng.sample(range(state["n"]), 2)
    return {"type": "swap", "up": up, "down": down}


def _resume(tournament: dict[str, Any], luck: int) -> dict[str, Any]:
    from dpo_core.ranking.tournament import resumed

    events = [
        event
        for event in tournament["history"]
        if event["type"] in ("choose", "swap")
    ]
    rng = random.Random(luck)
    if luck % 2 and len(events) > 2:
        del events[rng.randrange(len(events))]
    rng.shuffle(events)
    n, seed = tournament["n"], tournament["seed"]
    return {"n": n, "seed": seed, "events": events, "state": resumed(n, seed, events)}


def _large(n: int, seed: int) -> dict[str, Any]:
    """Only the last state, its history being all events."""
    from dpo_core.ranking.tournament import reduce, start

    rng = random.Random(seed)
    state = start(n, seed)
    while state["phase"] == "match":
        left, right = state["queue"][0]
        result = rng.choices(RESULTS, (8, 8, 2, 1, 1))[0]
        event = {"type": "choose", "left": left, "right": right, "result": result}
        state = reduce(state, event)
    state = reduce(state, {"type": "more"})
    return {"n": n, "seed": seed, "state": state}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(json.dumps(vectors(), separators=(",", ":")) + "\n", encoding="utf-8")
