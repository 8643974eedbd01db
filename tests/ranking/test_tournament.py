from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

import pytest

from dpo_core.ranking.random_source import draw, shuffled
from dpo_core.ranking.ratings import Outcome, Ratings
from dpo_core.ranking.tournament import (
    most_informative,
    reduce,
    replayed,
    resumed,
    start,
    strengths,
    swiss_rounds,
)

from .write_vectors import FOLDER, vectors


def choose(match: list[int], result: str, **more: Any) -> dict[str, Any]:
    return {"type": "choose", "left": match[0], "right": match[1], "result": result, **more}


def played(n: int, seed: int, rng: random.Random | None = None) -> Any:
    """A tournament to its standings: the lower index wins, or with `rng` anything happens."""
    state = start(n, seed)
    while state["phase"] == "match":
        left, right = match = state["queue"][0]
        results = ["left", "right", "tie", "both_bad", "skip"]
        result = rng.choice(results) if rng else ("left" if left < right else "right")
        state = reduce(state, choose(match, result))
    return state


def test_the_generator_gives_mulberry32s_published_numbers() -> None:
    numbers, state = [], 1
    for _ in range(3):
        number, state = draw(state)
        numbers.append(number)
    assert numbers == [2693262067, 11749833, 2265367787]


def test_a_shuffle_draws_from_the_end() -> None:
    # Seed 1: 2693262067 % 3 = 1, so 2 and 1 change places; 11749833 % 2 = 1, so 2 stays.
    assert shuffled(3, 1)[0] == [0, 2, 1]


@pytest.mark.parametrize(
    ("n", "rounds"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (16, 4), (17, 5), (64, 5)]
)
def test_rounds_are_the_logarithm_within_2_to_5_but_one_for_two_images(
    n: int, rounds: int
) -> None:
    assert swiss_rounds(n) == rounds
    assert start(n, 0)["planned"] == rounds * (n // 2)


@pytest.mark.parametrize("seed", range(3))
def test_every_size_plays_the_matches_it_announced_and_nobody_meets_twice(seed: int) -> None:
    for n in range(2, 65):
        state = played(n, seed, random.Random(100 * n + seed))
        pairs = {frozenset(match[:2]) for match in state["results"]}
        assert len(state["results"]) == len(pairs) == start(n, seed)["planned"] == state["planned"]
        assert len(set(state["byes"])) == len(state["byes"]) == (n % 2) * state["rounds"]
        assert sorted(state["standings"]) == list(range(n))


@pytest.mark.parametrize("wrong", [(1, 0), (65, 0), (2.0, 0), (4, -1), (4, 1 << 32), (4, True)])
def test_numbers_out_of_range_are_refused(wrong: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"images|seed"):
        start(*wrong)


def test_two_images_are_one_match_and_more_changes_nothing() -> None:
    state = played(2, 7)
    assert state["standings"] == [0, 1] and len(state["results"]) == 1
    assert reduce(state, {"type": "more"}) is state


def test_winners_meet_winners() -> None:
    state = start(8, 3)
    first = [list(match) for match in state["queue"]]
    for match in first:
        state = reduce(state, choose(match, "left"))
    winners = {match[0] for match in first}
    assert [set(match) <= winners for match in state["queue"]] == [True, True, False, False]


def test_sides_and_first_matches_are_randomised() -> None:
    starts = [start(4, seed) for seed in range(200)]
    left = sum(0 in [match[0] for match in state["queue"]] for state in starts)
    assert 60 < left < 140
    met = sum(sorted(state["queue"][0]) == [0, 1] for state in starts)
    met += sum(sorted(state["queue"][1]) == [0, 1] for state in starts)
    assert 35 < met < 100  # a third


def test_a_clear_order_ends_with_the_best_first_and_the_worst_among_the_last() -> None:
    for seed in range(20):
        # Three matches each: who lost to the best may be taken for better than who beat the worst.
        standings = played(8, seed)["standings"]
        assert standings[0] == 0 and 7 in standings[-2:]


def test_events_that_do_not_fit_change_nothing() -> None:
    state = start(4, 1)
    match, later = state["queue"][0], {"type": "swap", "up": 0, "down": 1}
    never_met = next([0, i] for i in (1, 2, 3) if [0, i] not in state["queue"]
                     and [i, 0] not in state["queue"])  # fmt: skip
    for event in (
        choose([0, 0], "left"), choose(never_met, "left"), choose(match, "maybe"),
        {"type": "choose"}, {"type": "more"}, {"type": "undo"}, later, {}, {"type": "dance"},
    ):  # fmt: skip
        assert reduce(state, event) is state
    after = reduce(state, choose(match, "left"))
    assert reduce(after, choose(match, "left")) is after  # a second click on the same match


def test_either_side_may_be_named_first_and_any_match_of_the_round_be_played() -> None:
    state = start(4, 1)
    left, right = state["queue"][1]
    state = reduce(state, choose([right, left], "right", id="v7"))
    assert state["results"] == [[right, left, "right"]] and len(state["queue"]) == 1
    assert state["history"][0]["id"] == "v7"


def test_a_state_is_plain_json_and_no_event_changes_it() -> None:
    state = start(5, 9)
    rng = random.Random(0)
    for _ in range(12):
        before = copy.deepcopy(state)
        match = state["queue"][0] if state["queue"] else [0, 1]
        event = rng.choice([choose(match, "left"), {"type": "undo"}, {"type": "more"}])
        after = reduce(state, event)
        assert state == before and json.loads(json.dumps(after)) == after
        state = after


@pytest.mark.parametrize("seed", range(20))
def test_any_actions_and_undos_equal_the_actions_that_were_not_undone(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(2, 9)
    state = start(n, seed)
    past = [state]
    for _ in range(60):
        kind = rng.choice(["choose", "choose", "choose", "more", "swap", "undo"])
        if kind == "choose" and state["queue"]:
            results = ["left", "right", "tie", "both_bad", "skip"]
            event = choose(rng.choice(state["queue"]), rng.choice(results))
        elif kind == "swap":
            up, down = rng.sample(range(n), 2)
            event = {"type": "swap", "up": up, "down": down}
        else:
            event = {"type": kind}
        after = reduce(state, event)
        if kind == "undo":
            past = past[:-1] or past
            assert after == past[-1]
        elif after is not state:
            past.append(after)
        state = after
        assert state == replayed(n, seed, state["history"])


def test_a_swap_exchanges_two_places_in_the_standings() -> None:
    state = reduce(played(4, 2), {"type": "swap", "up": 3, "down": 0})
    assert (state["standings"][0], state["standings"][-1]) == (3, 0)
    assert reduce(state, {"type": "undo"})["standings"][0] == 0


def test_more_adds_the_unplayed_pair_that_is_least_certain() -> None:
    # 0 beat 1, 2 beat 3: 0 and 2 are even, and so are 1 and 3; 0 against 3 is nearly settled.
    results = [[0, 1, "left"], [2, 3, "left"]]
    assert most_informative(4, results) == (0, 2)
    assert most_informative(4, [*results, [2, 0, "left"]]) == (1, 3)
    assert most_informative(2, [[0, 1, "skip"]]) is None
    state = played(4, 0)
    for count in range(4, 6):
        assert len(state["results"]) == count
        state = reduce(state, {"type": "more"})
        assert state["phase"] == "match" and state["planned"] == count + 1
        state = reduce(state, choose(state["queue"][0], "left"))
    assert reduce(state, {"type": "more"}) is state  # all six pairs were played


def test_strengths_solve_their_equation() -> None:
    # Wins expected of the winner, 5 games of the prior and 1 real one, equal its wins, 2.5 + 1.
    winner, loser = strengths(2, [[0, 1, "left"]])
    assert winner * loser == pytest.approx(1)
    expected = 5 * winner / (winner + 1) + winner / (winner + loser)
    assert expected == pytest.approx(3.5, abs=1e-9)
    assert strengths(2, [[0, 1, "skip"]]) == [1, 1]
    assert strengths(2, [[0, 1, "tie"]]) == pytest.approx([1, 1])
    bad = strengths(3, [[0, 1, "both_bad"]])
    assert bad[0] == bad[1] < bad[2] == 1


def test_standings_agree_with_the_ratings_of_the_same_votes() -> None:
    agreed = pairs = 0
    for seed in range(40):
        rng = random.Random(seed)
        n = rng.randint(4, 16)
        state = played(n, seed, rng)
        outcomes = []
        for left, right, result in state["results"]:
            if result in ("left", "right"):
                two = (left, right) if result == "left" else (right, left)
                outcomes.append(Outcome(*map(str, two)))
            elif result == "tie":
                outcomes.append(Outcome(str(left), str(right), tie=True))
            elif result == "both_bad":
                outcomes += [Outcome(None, str(left)), Outcome(None, str(right))]
        ratings = Ratings([str(i) for i in range(n)], outcomes)
        order = state["standings"]
        for i in range(n):
            for j in range(i + 1, n):
                gap = ratings.gap(str(order[i]), str(order[j]))
                pairs += abs(gap) > 0.05
                agreed += gap > 0.05
    assert agreed / pairs > 0.98


@pytest.mark.parametrize("seed", range(10))
def test_stored_events_resume_to_the_same_standings_in_whatever_order(seed: int) -> None:
    rng = random.Random(seed)
    state = played(7, seed, rng)
    state = reduce(state, {"type": "more"})
    state = reduce(state, choose(state["queue"][0], "tie"))
    events = [event for event in state["history"] if event["type"] == "choose"]
    rng.shuffle(events)
    back = resumed(7, seed, events)
    assert back["phase"] == "standings"
    assert sorted(back["results"]) == sorted(state["results"])
    assert back["standings"] == state["standings"]


def test_after_half_of_the_matches_it_resumes_with_the_others() -> None:
    state = start(8, 5)
    for _ in range(6):
        state = reduce(state, choose(state["queue"][0], "left"))
    assert resumed(8, 5, state["history"]) == state


def test_a_result_without_a_match_waits() -> None:
    state = played(8, 5)
    first = state["history"][0]
    back = resumed(8, 5, state["history"][1:])
    assert back["phase"] == "match" and back["round"] == 1
    assert sorted(back["queue"][0]) == sorted((first["left"], first["right"]))
    assert resumed(8, 5, [*state["history"][1:], first])["standings"] == state["standings"]


def test_the_shared_vectors_are_what_this_implementation_gives() -> None:
    assert json.loads((FOLDER / "tournament.json").read_text(encoding="utf-8")) == vectors()


def test_strengths_are_on_the_scale_of_the_ratings() -> None:
    # The prior's standard deviation of log strength: 2 trigamma(2.5) = 0.98, and N(0, 1) has 1.
    winner, loser = strengths(2, [[0, 1, "left"]])
    gap = Ratings(["0", "1"], [Outcome("0", "1")]).gap("0", "1")
    assert math.log(winner / loser) == pytest.approx(gap, abs=0.1)
