"""Writes the test vectors that Python and JavaScript both must satisfy.

`python tests/ranking/write_vectors.py` from the repository's root, after a change that is meant.
`pairs.json`: the pairs that votes on a set make. `tournament.json`: in `numbers` seeds, and the
first numbers drawn from each; in `tournaments` every event and the state after it but for
`history`, the first being the state of `start`, while `history` is that of the last; in `resumes`
stored events, and the state they are resumed to; in `large` a last state, which its own history
must lead to.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors"
RESULTS = ("left", "right", "tie", "both_bad", "skip")
SIZES = ((64, 64), (64, 64), (64, 64), (64, 96))


def pair_vectors() -> list[dict[str, Any]]:
    """Sets of images, the votes that count on each, and the pairs they make."""
    return [_pairs_of(luck, 2 + luck % 7) for luck in range(70)] + [_pairs_of(70, 64)]


def _pairs_of(luck: int, n: int) -> dict[str, Any]:
    from dpo_core.ranking.pair_making import PairRules, SessionJudgement
    from dpo_core.ranking.session import SessionState
    from dpo_core.ranking.vote import Candidate, CandidateSet

    rng = random.Random(luck)
    ids = [f"i{i}" for i in range(n)]
    images = tuple(Candidate(one, *rng.choice(SIZES)) for one in ids)
    kinds = rng.sample(("best_worst", "ranking", "comparison", "swap", "remove", "thumbs"), 3)
    votes = [{"set": "s", **_vote(rng.choice(kinds), ids, rng)} for _ in range(rng.randint(1, 7))]
    rules = PairRules(rng.choice((1, 2, n)))
    sets = {"s": CandidateSet("s", "", images)}
    state = SessionState("", sets, tuple(votes), 0, 0, Path())
    return {
        "images": [{"id": one.id, "width": one.width, "height": one.height} for one in images],
        "votes": votes,
        "pairs_per_group": rules.pairs_per_group,
        "pairs": [
            [one.chosen, one.rejected, one.explicit, round(one.probability, 6)]
            for one in SessionJudgement(state).chosen_pairs("s", rules)
        ],
    }


def _vote(kind: str, ids: list[str], rng: random.Random) -> dict[str, Any]:
    one, other = rng.sample(ids, 2)
    if kind == "best_worst":
        among = [image for image in ids if image in (one, other) or rng.random() < 0.6]
        more = {"among": among} if rng.random() < 0.7 else {}
        return {"kind": kind, "best": one, "worst": other, **more}
    if kind == "ranking":
        order = [[image] for image in rng.sample(ids, rng.randint(2, len(ids)))]
        if rng.random() < 0.5:
            order = [order[0] + order[1], *order[2:]]
        return {"kind": kind, "order": order}
    if kind == "comparison":
        return {"kind": kind, "left": one, "right": other, "result": rng.choice(RESULTS)}
    if kind == "swap":
        return {"kind": kind, "up": one, "down": other}
    if kind == "remove":
        return {"kind": kind, "images": [one, other]}
    marked = {image: rng.choice(("good", "bad", "none")) for image in ids if rng.random() < 0.6}
    return {"kind": kind, "labels": marked or {one: "good"}}


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
    FOLDER.mkdir(exist_ok=True)
    for name, made in (("tournament", vectors()), ("pairs", pair_vectors())):
        text = json.dumps(made, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
