"""A comparison on the disk: what is hidden, what counts, and what stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dpo_core.comparison.answer_key import KEY_NAME
from dpo_core.comparison.comparison import BlindComparison, ComparisonState
from dpo_core.comparison.couple import Couple, CoupleError, NewCouple, Side, Sides
from dpo_core.comparison.outcome import Outcome
from dpo_core.comparison.report import CAUTION, report
from dpo_core.ranking.image_store import identified_images
from dpo_core.ranking.session import Session
from dpo_core.ranking.tournament import start

SIDES = Sides(Side("base"), Side("mine", "sd.safetensors + mine.safetensors"))
RESULTS = {"a": "left", "b": "right"}


def couple(number: int, prompt: str = "a cat", same: bool = False) -> NewCouple:
    drawn = np.random.default_rng(number).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    a, b = identified_images([drawn[0], drawn[0 if same else 1]])
    return NewCouple(prompt, a, b)


def comparison(folder: Path, count: int) -> tuple[BlindComparison, list[Couple]]:
    blind = BlindComparison(Session(folder / "blind"), SIDES)
    return blind, [blind.add(couple(i, f"prompt {i % 2}"), {}) for i in range(count)]


def say(blind: BlindComparison, one: Couple, said: str, **more: object) -> str:
    """Of the couple's pictures a or b is better, or one of the other results."""
    vote = {"kind": "comparison", "set": one.set_id, "left": one.a, "right": one.b}
    stored, _ = blind.session.vote({**vote, "result": RESULTS.get(said, said), **more})
    return str(stored["id"])


def say_by_judge(blind: BlindComparison, one: Couple, order: list[list[str]]) -> None:
    judges = [{"judge": "sharpness", "weight": 1.0, "scores": {}}]
    vote = {"kind": "ranking", "set": one.set_id, "order": order, "by": "judge", "judges": judges}
    blind.session.vote(vote)


def test_neither_place_nor_files_say_whose_a_picture_is(tmp_path: Path) -> None:
    blind, couples = comparison(tmp_path, 40)
    sets = blind.session.state().sets
    first = [[image.id for image in sets[one.set_id].images].index(one.a) for one in couples]
    on_the_left = []
    for one in couples:
        ids = [image.id for image in sets[one.set_id].images]
        assert ids == sorted(ids)
        ((left, _),) = start(2, int(one.set_id[:8], 16))["queue"]
        on_the_left.append(ids[left] == one.a)
    # A fair coin gives 9 or fewer of 40 once in a thousand times; these are always the same.
    assert 10 < sum(first) < 30 and 10 < sum(on_the_left) < 30
    votes = (blind.session.folder / "votes.jsonl").read_text()
    assert "mine" not in votes and "base" not in votes


def test_what_a_person_says_counts_from_the_reveal_on(tmp_path: Path) -> None:
    blind, couples = comparison(tmp_path, 6)
    assert "until you press Reveal" in report(blind.state())
    for one, said in zip(couples, ("b", "b", "a", "tie", "both_bad"), strict=False):
        say(blind, one, said)
    before = blind.state()
    assert (before.hidden, before.counting, len(before.answered)) == (5, {}, 5)
    told = report(before)
    assert "5 of 6 couples" in told and "press Reveal" in told
    assert "preferred" not in told and "mine" not in told

    state = blind.reveal()
    tally = state.tally(state.counting)
    assert (tally.a, tally.b, tally.ties) == (1, 2, 2)
    told = report(BlindComparison(Session(blind.session.folder), SIDES).state())
    assert told.splitlines()[2:5] == [
        "Cannot tell yet: about 65 more comparisons would, if it goes on like this.",
        "mine preferred 2 times, base 1 time, 2 ties: mine wins 60 % (23 to 88 %), the 95 % "
        "interval in brackets and a tie counting one half.",
        CAUTION,
    ]
    assert "Judged by: you 5." in told
    assert "mine: drawn with sd.safetensors + mine.safetensors." in told
    assert "By prompt (mine - ties - base):\n  1 - 1 - 1  prompt 0\n  1 - 1 - 0  prompt 1" in told
    # All the same asked again, and nothing new is written.
    size = (blind.session.folder / KEY_NAME).stat().st_size
    assert blind.reveal().counting == state.counting
    assert (blind.session.folder / KEY_NAME).stat().st_size == size


def test_a_revealed_couple_takes_no_more_votes_and_others_do(tmp_path: Path) -> None:
    blind, couples = comparison(tmp_path, 3)
    vote = say(blind, couples[0], "a")
    blind.reveal()
    say(blind, couples[0], "b", strikes=[vote])
    say(blind, couples[1], "b")
    state = blind.state()
    assert state.counting == {couples[0].set_id: Outcome("a")}
    assert (state.changed, state.hidden) == (1, 1)
    told = report(state)
    assert "1 choice made or changed after the reveal" in told and "1 couple more judged" in told
    assert len(blind.reveal().counting) == 2
    # Taking it back does not take back what was revealed either.
    blind.session.undo(blind.session.state().votes_on(couples[1].set_id)[0]["id"])
    assert len(blind.state().counting) == 2


def test_what_is_passed_over_is_answered_and_counts_nothing(tmp_path: Path) -> None:
    blind, couples = comparison(tmp_path, 2)
    say(blind, couples[0], "skip")
    state = blind.reveal()
    assert state.answered == {couples[0].set_id} and state.revealed == {}
    say(blind, couples[0], "a")
    assert blind.reveal().counting == {couples[0].set_id: Outcome("a")}


def test_what_a_judge_says_is_revealed_and_final_where_no_person_takes_part(
    tmp_path: Path,
) -> None:
    blind, (first, second, third) = comparison(tmp_path, 3)
    say_by_judge(blind, first, [[first.b], [first.a]])
    say_by_judge(blind, second, [[second.a, second.b]])
    hidden = blind.state()
    assert (hidden.counting, hidden.hidden, hidden.answered) == ({}, 2, frozenset())
    assert "2 of 3 couples" in report(hidden) and "mine" not in report(hidden)
    sharp = {first.set_id: Outcome("b", "sharpness"), second.set_id: Outcome("tie", "sharpness")}
    state = blind.reveal_judged()
    assert state.counting == sharp and state.hidden == 0
    assert "Judged by: sharpness 2." in report(state)
    # Whoever chooses now is not blind, and does not take part by it.
    say(blind, first, "a")
    say_by_judge(blind, third, [[third.a], [third.b]])
    state = blind.reveal_judged()
    assert state.counting == sharp | {third.set_id: Outcome("a", "sharpness")}
    assert "1 choice made or changed after the reveal" in report(state)


def test_what_a_judge_says_waits_for_the_reveal_of_a_person_who_takes_part(tmp_path: Path) -> None:
    blind, (first, second, third) = comparison(tmp_path, 3)
    say(blind, first, "a")
    for one in (first, second):
        say_by_judge(blind, one, [[one.b], [one.a]])
    state = blind.reveal_judged()
    assert (state.counting, state.hidden) == ({}, 2)
    assert blind.reveal().counting == {
        first.set_id: Outcome("a"),
        second.set_id: Outcome("b", "sharpness"),
    }
    assert "Judged by: you 1, sharpness 1." in report(blind.state())
    # It stays so for what comes later.
    say_by_judge(blind, third, [[third.b], [third.a]])
    assert blind.reveal_judged().hidden == 1
    assert report(blind.state()).count("press Reveal") == 1


def test_the_same_pictures_are_a_tie_that_is_not_asked(tmp_path: Path) -> None:
    blind, (one, _) = comparison(tmp_path, 2)
    for _ in range(2):  # brought again, it is still the same couple
        blind.add(couple(50, "prompt 0", same=True), {})
    state = blind.state()
    assert (state.identical, len(state.asked)) == (1, 2)
    assert state.tally(state.counting).share is None  # nobody has judged anything
    say(blind, one, "b")
    state = blind.reveal()
    assert state.tally(state.counting).identical == 1
    assert "Of the ties 1 came out as the very same picture." in report(state)
    alone = BlindComparison(Session(tmp_path / "alone"), SIDES)
    alone.add(couple(1, same=True), {})
    told = report(alone.state())
    assert "both sides drew the same pictures" in told and "no difference" in told
    assert CAUTION not in told


def test_couples_add_up_over_runs_and_comparisons_of_a_session_do_not_mix(tmp_path: Path) -> None:
    blind, (one, *_) = comparison(tmp_path, 2)
    say(blind, one, "b")
    again, _ = comparison(tmp_path, 3)
    assert len(again.state().asked) == 3 and again.state().answered == {one.set_id}
    other = BlindComparison(blind.session, Sides(Side("mine"), Side("base")))
    other.add(couple(0, "prompt 0"), {})
    assert len(other.state().asked) == 1
    other.reveal()
    assert again.state().revealed == {}


def test_the_other_way_round_is_refused_with_a_way_out(tmp_path: Path) -> None:
    blind, _ = comparison(tmp_path, 1)
    wrong = couple(0, "prompt 0")
    with pytest.raises(CoupleError, match="exchange `images_a` and `images_b`"):
        blind.add(NewCouple(wrong.prompt, wrong.b, wrong.a), {})
    assert len(blind.state().asked) == 1


def test_damaged_lines_and_lost_sets_are_passed_over(tmp_path: Path) -> None:
    blind, (one, other) = comparison(tmp_path, 2)
    say(blind, one, "b")
    blind.reveal()
    wrong = {"comparison": blind.id, "kind": "couple"}
    reveal = {"comparison": blind.id, "kind": "reveal", "outcomes": {other.set_id: {"result": 3}}}
    lines = [
        {**wrong, "id": "1"},
        {**wrong, "id": "2", "sides": [1, 2], "set": "", "prompt": "", "a": "x", "b": "x"},
        {**wrong, "id": "3", "sides": "ab", "set": 1, "prompt": "", "a": [], "b": {}},
        {**reveal, "id": "4"},
        {**reveal, "id": "5", "outcomes": [1]},
        {**wrong, "id": "6", "sides": [vars(side) for side in SIDES],
         "set": "0" * 32, "prompt": "", "a": "1" * 32, "b": "2" * 32},
    ]  # fmt: skip
    with open(blind.session.folder / KEY_NAME, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.write("{torn")
    state: ComparisonState = blind.state()
    assert [couple.set_id for couple in state.asked] == [one.set_id, other.set_id]
    assert state.revealed == {one.set_id: Outcome("b")}
