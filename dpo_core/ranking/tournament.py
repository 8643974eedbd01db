"""A Swiss tournament of images, two at a time: a pure reducer over plain JSON.

The same reducer exists in JavaScript; `tests/ranking/vectors` holds both to the same states. Only
integers, and +, -, *, / on doubles in a fixed order, decide anything, so both agree to the bit.

State (images are indices 0..n-1):

    v        1
    n, seed  as given to `start`
    rng      the generator's state, an unsigned 32-bit integer
    phase    "match" or "standings"
    round    the current Swiss round, from 1
    rounds   Swiss rounds in all
    planned  matches in all, the added ones included
    order    a random order of the images, which settles what points leave open
    queue    matches of this round still to be played: [[left, right], ...]; the first is shown
    results  matches played: [[left, right, result], ...]
    byes     images that sat a round out, at most one a round, when n is odd
    standings  in phase "standings": images best first; else []
    history  the events that made this state, undone ones taken out

Events; one that does not fit the state changes nothing:

    {"type": "choose", "left": i, "right": j, "result": "left"|"right"|"tie"|"both_bad"|"skip"}
        a match in the queue, whichever of its images is on the left
    {"type": "more"}                      in phase "standings": one more match, the pair that was
                                          not played yet and tells most
    {"type": "swap", "up": i, "down": j}  in phase "standings": the two change places
    {"type": "undo"}                      back to before the last event that changed something

Further fields of an event (a vote's id) are kept in the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .random_source import draw, shuffled
from .vote import MAX_IMAGES, RESULTS

VERSION = 1
MIN_ROUNDS, MAX_ROUNDS = 2, 5

State = Mapping[str, Any]
Event = Mapping[str, Any]

_POINTS = {"left": (2, 0), "right": (0, 2), "tie": (1, 1), "both_bad": (0, 0), "skip": (1, 1)}
_BYE_POINTS = 1

# The prior: as if each image had won and lost so often against one of strength 1. The standard
# deviation of log strength is then 0.99, that of the normal prior in `ratings` 1.
_PRIOR_GAMES = 2.5
_ITERATIONS = 100


def start(n: int, seed: int) -> State:
    """The state before the first match.

    Args:
        n: number of images, 2 to MAX_IMAGES.
        seed: 0 to 2^32 - 1; of a stored set, the first 8 hex digits of its id.

    Raises:
        ValueError: out of these ranges.
    """
    if not (type(n) is int and 2 <= n <= MAX_IMAGES):
        raise ValueError(f"a tournament needs 2 to {MAX_IMAGES} images, not {n}")
    if not (type(seed) is int and 0 <= seed < 1 << 32):
        raise ValueError(f"seed {seed} is not in 0..2^32 - 1")
    order, rng = shuffled(n, seed)
    rounds = swiss_rounds(n)
    return _next_round(
        {
            "v": VERSION,
            "n": n,
            "seed": seed,
            "rng": rng,
            "phase": "match",
            "round": 0,
            "rounds": rounds,
            "planned": rounds * (n // 2),
            "order": order,
            "queue": [],
            "results": [],
            "byes": [],
            "standings": [],
            "history": [],
        }
    )


def swiss_rounds(n: int) -> int:
    """ceil(log2 n), in 2..5; but one for two images, who have met by then."""
    return 1 if n == 2 else min(max((n - 1).bit_length(), MIN_ROUNDS), MAX_ROUNDS)


def reduce(state: State, event: Event) -> State:
    """The state after an event; the given one stays as it is."""
    kind = event.get("type")
    if kind == "undo":
        if not state["history"]:
            return state
        return replayed(state["n"], state["seed"], state["history"][:-1])
    if kind == "choose":
        changed = _choose(state, event)
    elif kind == "more":
        changed = _more(state)
    elif kind == "swap":
        changed = _swap(state, event)
    else:
        changed = None
    if changed is None:
        return state
    return {**changed, "history": [*state["history"], dict(event)]}


def replayed(n: int, seed: int, events: Iterable[Event]) -> State:
    """The state after some events from the start."""
    state = start(n, seed)
    for event in events:
        state = reduce(state, event)
    return state


def resumed(n: int, seed: int, events: Iterable[Event]) -> State:
    """The state that stored "choose" and "swap" events lead to, in whatever order they come.

    Matches are played as the tournament sets them, each with its first stored result, until one
    has none. Results of matches that it does not set (after a vote in the middle was undone) wait.
    """
    known: dict[tuple[int, int], Event] = {}
    swaps: list[Event] = []
    for event in events:
        if event["type"] == "swap":
            swaps.append(event)
        elif event["type"] == "choose":
            known.setdefault(_two(event["left"], event["right"]), event)
    state = start(n, seed)
    while True:
        ready = [known[_two(*match)] for match in state["queue"] if _two(*match) in known]
        if ready:
            state = reduce(state, ready[0])
            continue
        if state["phase"] == "standings":
            longer = reduce(state, {"type": "more"})
            if longer["queue"] and _two(*longer["queue"][0]) in known:
                state = longer
                continue
        break
    for event in swaps:
        state = reduce(state, event)
    return state


def strengths(n: int, results: Sequence[Sequence[Any]]) -> list[float]:
    """Bradley-Terry strengths, exp(rating), by Hunter's iteration (2004, "MM algorithms", eq. 30).

    A tie is half a win for both; "both bad" a loss of both against strength 1; a skip is nothing.
    """
    wins = [_PRIOR_GAMES] * n
    for left, right, result in results:
        if result == "left":
            wins[left] += 1
        elif result == "right":
            wins[right] += 1
        elif result == "tie":
            wins[left] += 0.5
            wins[right] += 0.5
    strength = [1.0] * n
    for _ in range(_ITERATIONS):
        games = [2 * _PRIOR_GAMES / (one + 1) for one in strength]
        for left, right, result in results:
            if result == "both_bad":
                games[left] += 1 / (strength[left] + 1)
                games[right] += 1 / (strength[right] + 1)
            elif result != "skip":
                share = 1 / (strength[left] + strength[right])
                games[left] += share
                games[right] += share
        strength = [wins[i] / games[i] for i in range(n)]
    return strength


def most_informative(n: int, results: Sequence[Sequence[Any]]) -> tuple[int, int] | None:
    """The pair that was not played yet whose result is least certain; None if all were.

    Information: p (1 - p) (v_i + v_j), p the chance of i and v the variance of each log strength,
    taken apart. Of equal pairs the first.
    """
    strength = strengths(n, results)
    precision = [2 * _PRIOR_GAMES * one / ((1 + one) * (1 + one)) for one in strength]
    for left, right, result in results:
        if result == "both_bad":
            for i in (left, right):
                precision[i] += strength[i] / ((1 + strength[i]) * (1 + strength[i]))
        elif result != "skip":
            both = strength[left] + strength[right]
            bend = strength[left] * strength[right] / (both * both)
            precision[left] += bend
            precision[right] += bend
    met = _met(results)
    best: tuple[int, int] | None = None
    most = -1.0
    for i in range(n):
        for j in range(i + 1, n):
            both = strength[i] + strength[j]
            unsure = strength[i] * strength[j] / (both * both)
            information = unsure * (1 / precision[i] + 1 / precision[j])
            if information > most and (i, j) not in met:
                most, best = information, (i, j)
    return best


def _choose(state: State, event: Event) -> dict[str, Any] | None:
    left, right, result = event.get("left"), event.get("right"), event.get("result")
    if result not in RESULTS:
        return None
    queue = [match for match in state["queue"] if match not in ([left, right], [right, left])]
    if len(queue) == len(state["queue"]):
        return None
    results = [*state["results"], [left, right, result]]
    changed = {**state, "queue": queue, "results": results}
    if queue:
        return changed
    if state["round"] < state["rounds"]:
        return _next_round(changed)
    return _with_standings(changed)


def _more(state: State) -> dict[str, Any] | None:
    if state["phase"] != "standings":
        return None
    pair = most_informative(state["n"], state["results"])
    if pair is None:
        return None
    match, rng = _sided(list(pair), state["rng"])
    return {
        **state,
        "phase": "match",
        "rng": rng,
        "planned": state["planned"] + 1,
        "queue": [match],
        "standings": [],
    }


def _swap(state: State, event: Event) -> dict[str, Any] | None:
    up, down = event.get("up"), event.get("down")
    if up == down or up not in state["standings"] or down not in state["standings"]:
        return None
    other = {up: down, down: up}
    return {**state, "standings": [other.get(image, image) for image in state["standings"]]}


def _with_standings(state: State) -> dict[str, Any]:
    strength = strengths(state["n"], state["results"])
    points = _points(state)
    place = {image: i for i, image in enumerate(state["order"])}
    standings = sorted(
        range(state["n"]), key=lambda image: (-strength[image], -points[image], place[image])
    )
    return {**state, "phase": "standings", "standings": standings}


def _next_round(state: State) -> dict[str, Any]:
    points = _points(state)
    place = {image: i for i, image in enumerate(state["order"])}
    table = sorted(range(state["n"]), key=lambda image: (-points[image], place[image]))
    found = _pairing(table, _met(state["results"]), state["byes"])
    if found is None:  # with 2 to 64 images and at most 5 rounds there always is one
        return _with_standings(state)
    matches, bye = found
    queue, rng = [], state["rng"]
    for match in matches:
        sided, rng = _sided(match, rng)
        queue.append(sided)
    byes = state["byes"] if bye is None else [*state["byes"], bye]
    return {**state, "round": state["round"] + 1, "rng": rng, "queue": queue, "byes": byes}


def _pairing(
    table: list[int], met: set[tuple[int, int]], byes: list[int]
) -> tuple[list[list[int]], int | None] | None:
    """Neighbours in the table play, nobody twice against another; the lowest sits out."""
    if len(table) % 2 == 0:
        matches = _matched(table, met)
        return None if matches is None else (matches, None)
    for bye in reversed(table):
        if bye not in byes:
            matches = _matched([image for image in table if image != bye], met)
            if matches is not None:
                return matches, bye
    return None


def _matched(table: list[int], met: set[tuple[int, int]]) -> list[list[int]] | None:
    if not table:
        return []
    first, rest = table[0], table[1:]
    for i, other in enumerate(rest):
        if _two(first, other) not in met:
            matches = _matched(rest[:i] + rest[i + 1 :], met)
            if matches is not None:
                return [[first, other], *matches]
    return None


def _points(state: State) -> list[int]:
    points = [0] * state["n"]
    for left, right, result in state["results"]:
        to_left, to_right = _POINTS[result]
        points[left] += to_left
        points[right] += to_right
    for image in state["byes"]:
        points[image] += _BYE_POINTS
    return points


def _sided(match: list[int], rng: int) -> tuple[list[int], int]:
    number, rng = draw(rng)
    return (match[::-1] if number >> 31 else match), rng


def _met(results: Sequence[Sequence[Any]]) -> set[tuple[int, int]]:
    return {_two(left, right) for left, right, _ in results}


def _two(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
