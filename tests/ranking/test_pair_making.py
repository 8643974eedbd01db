from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_core.pairs.record import prompt_group
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.pair_making import (
    ChosenPair,
    PairRules,
    SessionJudgement,
    make_preferences,
)
from dpo_core.ranking.session import Session, SessionStore
from dpo_core.ranking.vote import CandidateSet

from .write_vectors import FOLDER, pair_vectors


class Table:
    """A session with one set of images, called by numbers."""

    def __init__(self, root: Path, count: int, prompt: str = "a cat", first: int = 0) -> None:
        self.session: Session = SessionStore(root).session("s")
        self.set: CandidateSet = self.session.add_set(
            [NewImage(np.full((6, 8, 3), first + i, np.uint8)) for i in range(count)], prompt
        )
        self.ids = [image.id for image in self.set.images]

    def vote(self, kind: str, **fields: Any) -> str:
        vote = {"kind": kind, "set": self.set.id, **fields}
        vote["id"] = f"v{len((self.session.folder / 'votes.jsonl').read_bytes().splitlines())}"
        return self.session.vote(vote)[0]["id"]

    def best_worst(self, best: int, worst: int, **more: Any) -> str:
        return self.vote("best_worst", best=self.ids[best], worst=self.ids[worst], **more)

    def compare(self, left: int, right: int, result: str = "left") -> str:
        return self.vote("comparison", left=self.ids[left], right=self.ids[right], result=result)

    def rank(self, *order: list[int]) -> str:
        return self.vote("ranking", order=[[self.ids[i] for i in tied] for tied in order])

    def thumbs(self, **labels: str) -> str:
        return self.vote("thumbs", labels={self.ids[int(i[1:])]: x for i, x in labels.items()})

    def judged(self) -> SessionJudgement:
        return SessionJudgement(self.session.state())

    def made(self, **rules: Any) -> list[ChosenPair]:
        return self.judged().chosen_pairs(self.set.id, PairRules(**rules))

    def pairs(self, **rules: Any) -> list[tuple[int, int]]:
        return [
            (self.ids.index(pair.chosen), self.ids.index(pair.rejected))
            for pair in self.made(**rules)
        ]

    def order(self) -> list[int]:
        return [self.ids.index(one.image) for one in self.judged().standings(self.set.id)]


# Explicit picks


def test_best_against_worst_of_two_is_a_pair_with_the_soft_label_of_one_pick(
    tmp_path: Path,
) -> None:
    table = Table(tmp_path, 2)
    table.best_worst(1, 0)
    made = make_preferences(table.session.state()).records
    assert table.pairs() == [(1, 0)]
    assert made[0].chosen_probability == pytest.approx(0.6326, abs=1e-4)
    assert made[0].rating_gap == pytest.approx(0.6748, abs=1e-4)
    hard = make_preferences(table.session.state(), PairRules(soft_labels=False)).records
    assert hard[0].chosen_probability == 1


def test_a_side_by_side_win_is_a_pair_and_its_undo_takes_it_away(tmp_path: Path) -> None:
    table = Table(tmp_path, 2)
    first = table.compare(0, 1, "right")
    assert table.pairs() == [(1, 0)] and table.made()[0].explicit
    table.session.undo(first)
    assert table.pairs() == []


@pytest.mark.parametrize("result", ["tie", "skip", "both_bad"])
def test_no_preference_is_no_pair(tmp_path: Path, result: str) -> None:
    table = Table(tmp_path, 2)
    table.compare(0, 1, result)
    assert table.pairs() == []


def test_best_and_worst_of_four_come_before_the_rest(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.best_worst(2, 1)
    assert table.order() == [2, 0, 3, 1]
    assert table.pairs(pairs_per_group=5) == [(2, 1)]  # nothing was said of the other two


def test_a_group_goes_on_among_the_images_that_are_left(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.best_worst(2, 1)
    table.best_worst(3, 0, among=[table.ids[0], table.ids[3]])
    assert table.order() == [2, 3, 0, 1]
    assert table.pairs(pairs_per_group=2) == [(2, 1), (3, 0)]
    assert len(table.pairs(pairs_per_group=1)) == 2  # both were named: none is dropped


def test_the_later_of_two_picks_of_one_image_counts(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.best_worst(0, 3)
    table.best_worst(0, 2)
    assert table.pairs() == [(0, 2)]
    assert table.pairs(reuse_images=True) == [(0, 3), (0, 2)]
    table.best_worst(0, 3)  # said again, it is the later one
    assert table.pairs() == [(0, 3)]


def test_a_named_pair_stays_one_when_it_is_compared_again(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.best_worst(0, 3)
    table.best_worst(1, 2, among=[table.ids[1], table.ids[2]])
    table.compare(0, 3)
    table.compare(1, 2)
    assert set(table.pairs(pairs_per_group=1)) == {(0, 3), (1, 2)}


def test_the_last_word_on_two_images_counts_and_its_label_is_never_below_one_half(
    tmp_path: Path,
) -> None:
    table = Table(tmp_path, 2)
    table.compare(0, 1)
    table.compare(0, 1)
    table.compare(1, 0)
    assert table.pairs() == [(1, 0)] and table.made()[0].probability == 0.5
    table.compare(0, 1, "tie")
    assert table.pairs() == []


# Rankings and tournaments


def test_a_ranking_gives_the_outermost_pairs_first_and_no_image_twice(tmp_path: Path) -> None:
    table = Table(tmp_path, 5)
    table.rank([3], [0], [4], [1], [2])
    assert table.order() == [3, 0, 4, 1, 2]
    assert table.pairs() == [(3, 2)]
    assert table.pairs(pairs_per_group=3) == [(3, 2), (0, 1)]
    assert len(table.pairs(pairs_per_group=99, reuse_images=True)) == 10


def test_tied_and_unranked_images_make_no_pair(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.rank([0, 1], [2])
    assert table.pairs(pairs_per_group=9, reuse_images=True) == [(0, 2), (1, 2)]
    standings = {one.image: one for one in table.judged().standings(table.set.id)}
    assert standings[table.ids[0]].rating == standings[table.ids[1]].rating
    assert not standings[table.ids[3]].compared


def test_a_pair_nobody_picked_needs_a_probability_of_65_percent(tmp_path: Path) -> None:
    table = Table(tmp_path, 3)
    table.compare(0, 1)
    table.compare(1, 2)  # 0 over 2 is inferred
    ratings = table.judged().ratings("a cat")
    assert 0.5 < ratings.probability(table.ids[0], table.ids[2]) < 0.7
    inferred = ratings.probability(table.ids[0], table.ids[2]) >= 0.65
    pairs = table.pairs(pairs_per_group=9, reuse_images=True)
    assert ((0, 2) in pairs) == inferred
    assert {(0, 1), (1, 2)} <= set(pairs)
    for _ in range(4):
        table.compare(0, 1)
        table.compare(1, 2)
    assert table.pairs() == [(0, 2)] and not table.made()[0].explicit
    assert table.made()[0].probability >= 0.65


def test_images_that_were_never_linked_make_no_inferred_pair(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    for _ in range(20):
        table.compare(0, 1)
        table.compare(2, 3)
    assert set(table.pairs(pairs_per_group=9, reuse_images=True)) == {(0, 1), (2, 3)}


def test_a_swap_in_the_standings_exchanges_two_images_and_leaves_the_others(
    tmp_path: Path,
) -> None:
    table = Table(tmp_path, 4)
    for winner, loser in ((0, 1), (2, 3), (0, 2), (1, 3)):
        table.compare(winner, loser)
    before = {one.image: one.rating for one in table.judged().standings(table.set.id)}
    assert table.order() == [0, 1, 2, 3]
    table.vote("swap", up=table.ids[3], down=table.ids[0])
    after = {one.image: one.rating for one in table.judged().standings(table.set.id)}
    assert table.order() == [3, 1, 2, 0]
    for i, j in ((0, 3), (1, 1), (2, 2), (3, 0)):
        assert after[table.ids[i]] == before[table.ids[j]]
    assert table.pairs() == [(3, 0)] and table.made()[0].explicit
    # What nobody said is no direct pick: 3 never beat 1.
    explicit = {(p.chosen, p.rejected) for p in table.made(pairs_per_group=9, reuse_images=True)
                if p.explicit}  # fmt: skip
    assert explicit == {(table.ids[3], table.ids[0])}


def test_best_and_worst_that_are_swapped_stay_a_named_pair(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.best_worst(0, 3)
    table.best_worst(1, 2)
    assert table.pairs() == [(0, 3), (1, 2)]
    table.vote("swap", up=table.ids[3], down=table.ids[0])
    assert table.pairs() == [(1, 2), (3, 0)] and all(pair.explicit for pair in table.made())


def test_a_removed_pair_is_left_out_and_no_other_takes_its_place(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.rank([0], [1], [2], [3])
    before = {one.image: one.rating for one in table.judged().standings(table.set.id)}
    removed = table.vote("remove", images=[table.ids[3], table.ids[0]])
    assert table.pairs() == [] and table.pairs(pairs_per_group=2) == [(1, 2)]
    assert {one.image: one.rating for one in table.judged().standings(table.set.id)} == before
    table.vote("undo", strikes=[removed])
    assert table.pairs() == [(0, 3)]


def test_images_that_are_only_in_removed_pairs_leave_the_ranked_group(tmp_path: Path) -> None:
    table = Table(tmp_path, 5)
    table.rank([0], [1], [2], [3], [4])

    def group(**rules: Any) -> list[list[int]]:
        groups = make_preferences(table.session.state(), PairRules(**rules)).records.groups
        return [[table.ids.index(one.digest) for one in made.pictures] for made in groups]

    removed = table.vote("remove", images=[table.ids[4], table.ids[0]])
    assert group() == [[1, 2, 3]]
    # Of more pairs, 0 over 3 is one that was not removed.
    assert group(pairs_per_group=2, reuse_images=True) == [[0, 1, 2, 3]]
    table.vote("undo", strikes=[removed])
    assert group() == [[0, 1, 2, 3, 4]]


def test_no_ranked_group_is_left_of_two_images_that_shall_make_no_pair(tmp_path: Path) -> None:
    table = Table(tmp_path, 2)
    table.thumbs(i0="good", i1="bad")
    table.compare(0, 1)
    table.vote("remove", images=table.ids)
    records = make_preferences(table.session.state()).records
    assert (records.pairs, records.groups) == ((), ())
    assert len(records.labelled) == 2, "said of each image by itself"


def test_a_named_a_labelled_and_a_tied_pair_can_be_removed(tmp_path: Path) -> None:
    table = Table(tmp_path, 6)
    table.best_worst(0, 1, among=table.ids[:2])
    table.thumbs(i2="good", i3="bad")
    table.rank([4, 5])
    assert len(make_preferences(table.session.state()).records.ties) == 1
    for one, other in ((0, 1), (2, 3), (4, 5)):
        table.vote("remove", images=[table.ids[one], table.ids[other]])
    records = make_preferences(table.session.state(), PairRules(9)).records
    kept = {frozenset((pair.chosen.digest, pair.rejected.digest)) for pair in records}
    assert frozenset(table.ids[:2]) not in kept and frozenset(table.ids[2:4]) not in kept
    assert records.ties == ()


def test_a_removed_pair_that_is_compared_again_counts_again(tmp_path: Path) -> None:
    table = Table(tmp_path, 2)
    table.compare(0, 1)
    table.vote("remove", images=table.ids)
    table.compare(1, 0)
    table.compare(1, 0)
    assert table.pairs() == [(1, 0)]


def test_a_corrected_prompt_is_that_of_pairs_and_of_what_is_rated_together(tmp_path: Path) -> None:
    table = Table(tmp_path, 2)
    other = Table(tmp_path, 2, prompt="a dog")
    table.best_worst(0, 1)
    before, digest = table.session.fingerprint(), table.session.state().digest([table.set.id])
    fixed = table.vote("prompt", prompt=" a\nDOG ")
    state = table.session.state()
    assert [pair.prompt for pair in make_preferences(state).records] == ["a DOG"]
    assert state.sets[table.set.id].prompt == "a DOG" and state.sets[other.set.id].prompt == "a dog"
    assert state.digest([table.set.id]) != digest and table.session.fingerprint() != before
    assert [vote["kind"] for vote in state.votes] == ["best_worst"]
    # The same images and first prompt again are the same set.
    assert Table(tmp_path, 2).set.prompt == "a DOG"
    table.vote("undo", strikes=[fixed])
    assert [pair.prompt for pair in make_preferences(table.session.state()).records] == ["a cat"]
    assert table.session.fingerprint() == before


@pytest.mark.parametrize(
    "vote",
    [{"kind": "remove"}, {"kind": "remove", "images": "ab"}, {"kind": "remove", "images": [1, 2]},
     {"kind": "remove", "images": ["x", "y"]}, {"kind": "prompt"},
     {"kind": "prompt", "prompt": 3}, {"kind": "prompt", "prompt": "x" * 65_537}],
)  # fmt: skip
def test_a_removal_or_correction_that_says_nothing_is_refused(
    vote: dict[str, Any], tmp_path: Path
) -> None:
    table = Table(tmp_path, 2)
    assert len(table.session.problems({"id": "x", "set": table.set.id, **vote})) == 1
    same = {"kind": "remove", "images": [table.ids[0]] * 2, "id": "x", "set": table.set.id}
    assert len(table.session.problems(same)) == 1


def test_votes_on_one_prompt_are_rated_together_and_pairs_stay_in_their_set(
    tmp_path: Path,
) -> None:
    one = Table(tmp_path, 2)
    one.compare(0, 1)
    other = Table(tmp_path, 3, first=1)  # shares image 1, its own number 0
    other.compare(0, 2)
    assert one.ids[1] == other.ids[0]
    ratings = SessionJudgement(other.session.state()).ratings("a cat")
    assert ratings.connected(one.ids[0], other.ids[2])
    made = make_preferences(other.session.state()).records
    assert [(pair.chosen.digest, pair.rejected.digest) for pair in made] == [
        (one.ids[0], one.ids[1]),
        (other.ids[0], other.ids[2]),
    ]
    elsewhere = Table(tmp_path, 2, prompt="a dog")
    elsewhere.compare(1, 0)
    ratings = SessionJudgement(elsewhere.session.state()).ratings("a dog")
    assert ratings.gap(elsewhere.ids[1], elsewhere.ids[0]) == pytest.approx(0.6748, abs=1e-4)


# Labels


def test_thumbs_give_labelled_images_and_the_last_label_counts(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.thumbs(i0="good", i1="bad", i2="good")
    table.thumbs(i2="none", i1="good")
    last = table.thumbs(i0="bad")
    made = make_preferences(table.session.state())
    assert [(one.picture.digest, one.liked) for one in made.records.labelled] == [
        (table.ids[0], False), (table.ids[1], True),
    ]  # fmt: skip
    assert not made.records.is_empty and "2 labelled images: 1 liked, 1 disliked" in made.report
    assert table.order() == [1, 2, 3, 0]
    table.session.undo(last)
    assert [one.liked for one in make_preferences(table.session.state()).records.labelled] == [
        True, True,
    ]  # fmt: skip
    assert table.pairs() == []  # nothing is worse


def test_an_image_marked_good_and_one_marked_bad_make_a_pair(tmp_path: Path) -> None:
    table = Table(tmp_path, 5)
    table.thumbs(i0="bad", i2="good", i3="good", i4="bad")
    assert table.pairs() == [(2, 0)] and table.made()[0].explicit
    assert table.pairs(pairs_per_group=9) == [(2, 0), (3, 4)]  # the fifth was not marked
    made = make_preferences(table.session.state(), PairRules(9)).records
    assert len(made.pairs) == 2 and len(made.labelled) == 4


def test_what_was_said_of_two_images_together_comes_before_their_labels(tmp_path: Path) -> None:
    table = Table(tmp_path, 2)
    table.thumbs(i0="good", i1="bad")
    table.compare(0, 1, "tie")
    assert table.pairs() == []
    table.compare(1, 0)
    assert table.pairs() == [(1, 0)]


def test_a_named_pair_is_made_before_one_of_labels(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.thumbs(i0="good", i3="bad")
    table.best_worst(0, 1)
    assert table.pairs() == [(0, 1)]
    assert table.pairs(pairs_per_group=2)[0] == (0, 1)


def test_the_shared_vectors_are_what_this_implementation_gives() -> None:
    assert json.loads((FOLDER / "pairs.json").read_text(encoding="utf-8")) == pair_vectors()


def test_both_bad_labels_both_and_puts_them_below_the_rest(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.compare(0, 1, "both_bad")
    table.compare(2, 3)
    assert table.order() == [2, 3, 0, 1]
    made = make_preferences(table.session.state()).records
    assert {(one.picture.digest, one.liked) for one in made.labelled} == {
        (table.ids[0], False), (table.ids[1], False),
    }  # fmt: skip
    assert table.pairs(pairs_per_group=9) == [(2, 3)]


def test_an_image_called_bad_is_never_the_better_one_of_an_inferred_pair(tmp_path: Path) -> None:
    table = Table(tmp_path, 3)
    for _ in range(6):
        table.compare(0, 1)
        table.compare(1, 2)
    assert (0, 2) in table.pairs(pairs_per_group=9, reuse_images=True)
    table.thumbs(i0="bad")
    assert (0, 2) not in table.pairs(pairs_per_group=9, reuse_images=True)
    assert (0, 1) in table.pairs(pairs_per_group=9, reuse_images=True)  # that was said


# Records


def test_records_know_prompt_group_source_and_size_without_reading_a_file(tmp_path: Path) -> None:
    table = Table(tmp_path, 3)
    table.rank([0], [1], [2])
    made = make_preferences(table.session.state()).records
    pair, group = made.pairs[0], made.groups[0]
    assert pair.prompt == "a cat" and pair.source == f"s, set {table.set.id[:8]}"
    assert pair.group == group.group == prompt_group("a cat")
    assert pair.chosen.size == (8, 6) and pair.chosen.pixels().shape == (6, 8, 3)
    assert [picture.digest for picture in group.pictures] == table.ids
    assert group.ratings[0] == -group.ratings[2] > 0 and math.isclose(group.ratings[1], 0)


def test_sets_without_a_prompt_are_groups_of_their_own(tmp_path: Path) -> None:
    for first in (0, 10):
        table = Table(tmp_path, 2, prompt="", first=first)
        table.compare(0, 1)
    made = make_preferences(table.session.state()).records
    assert len({pair.group for pair in made}) == 2


def test_only_some_sets_may_be_asked_for(tmp_path: Path) -> None:
    one, other = Table(tmp_path, 2), Table(tmp_path, 2, first=20)
    one.compare(0, 1)
    other.compare(0, 1)
    state = other.session.state()
    assert len(make_preferences(state).records) == 2
    some = make_preferences(state, set_ids=[other.set.id, "unknown"])
    assert [pair.chosen.digest for pair in some.records] == [other.ids[0]]
    assert "1 vote on 1 set" in some.report


def test_a_missing_image_is_left_out_and_told(tmp_path: Path) -> None:
    table = Table(tmp_path, 3)
    table.rank([0], [1], [2])
    table.session.images.path(table.ids[2]).unlink()
    made = make_preferences(table.session.state())
    assert made.records.pairs == () and len(made.records.groups[0].pictures) == 2
    assert len(made.problems) == 1 and table.ids[2] in made.report


def test_two_sizes_make_no_pair_and_a_pick_of_them_is_told(tmp_path: Path) -> None:
    session = SessionStore(tmp_path).session("s")
    made = session.add_set(
        [NewImage(np.zeros((6, 8, 3), np.uint8)), NewImage(np.zeros((8, 6, 3), np.uint8)),
         NewImage(np.ones((6, 8, 3), np.uint8))], "p",
    )  # fmt: skip
    ids = [image.id for image in made.images]
    session.vote({"kind": "best_worst", "set": made.id, "best": ids[0], "worst": ids[1]})
    preferences = make_preferences(session.state())
    assert preferences.records.pairs == ()
    assert "8 x 6 and 6 x 8" in preferences.report
    session.vote({"kind": "ranking", "set": made.id, "order": [[ids[0]], [ids[2]], [ids[1]]]})
    pair = make_preferences(session.state()).records[0]
    assert (pair.chosen.digest, pair.rejected.digest) == (ids[0], ids[2])


def test_two_sizes_make_no_inferred_pair(tmp_path: Path) -> None:
    session = SessionStore(tmp_path).session("s")
    made = session.add_set(
        [NewImage(np.zeros(shape, np.uint8)) for shape in ((6, 8, 3), (7, 8, 3), (8, 8, 3))], "p"
    )
    ids = [image.id for image in made.images]
    for i in range(6):
        for better, worse in ((0, 1), (1, 2)):
            vote = {"kind": "comparison", "left": ids[better], "right": ids[worse]}
            session.vote({**vote, "id": f"{i}-{better}", "set": made.id, "result": "left"})
    assert make_preferences(session.state()).records.pairs == ()


def test_a_session_without_votes_makes_nothing(tmp_path: Path) -> None:
    table = Table(tmp_path, 3)
    made = make_preferences(table.session.state())
    assert made.records.is_empty and made.problems == ()
    assert table.order() == [0, 1, 2] and table.pairs() == []
    with pytest.raises(ValueError, match="pairs_per_group"):
        PairRules(pairs_per_group=0)


# Ties


def ties(table: Table) -> list[tuple[int, int]]:
    found = make_preferences(table.session.state()).records.ties
    return [
        (table.ids.index(tie.chosen.path.stem), table.ids.index(tie.rejected.path.stem))
        for tie in found
        if tie.chosen.path is not None and tie.rejected.path is not None
    ]


def test_images_called_equal_are_ties_until_one_is_preferred(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    table.rank([2], [3, 0], [1])
    assert ties(table) == [(0, 3)]  # in the set's order
    undone = table.compare(1, 2, "tie")
    assert ties(table) == [(0, 3), (1, 2)]
    table.session.undo(undone)
    table.compare(3, 0)
    assert ties(table) == []
    assert table.judged().judgement(table.set.id).ties == []


def test_ties_are_no_pairs_and_no_reason_to_train(tmp_path: Path) -> None:
    table = Table(tmp_path, 2)
    table.compare(0, 1, "tie")
    records = make_preferences(table.session.state()).records
    assert len(records) == 0 and len(records.ties) == 1 and records.is_empty
    assert "1 tie" in records.summary()
