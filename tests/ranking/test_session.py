from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpo_core.metadata.reading import read_metadata
from dpo_core.pairs.latent_file import KnownLatent
from dpo_core.ranking.image_store import NewImage, identified_images
from dpo_core.ranking.pair_making import SessionJudgement, make_preferences
from dpo_core.ranking.session import Session, SessionState, SessionStore
from dpo_core.ranking.session_name import SessionNameError
from dpo_core.ranking.vote import CandidateSet, VoteError


def pixels(shade: int, width: int = 8, height: int = 6) -> np.ndarray:
    return np.full((height, width, 3), shade, dtype=np.uint8)


def images(count: int, first: int = 0) -> list[NewImage]:
    return [NewImage(pixels(first + i)) for i in range(count)]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return SessionStore(tmp_path).session("cats")


def best_worst(of: CandidateSet, best: int, worst: int, **more: Any) -> dict[str, Any]:
    ids = [image.id for image in of.images]
    return {"kind": "best_worst", "set": of.id, "best": ids[best], "worst": ids[worst], **more}


def vote_ids(state: SessionState) -> list[str]:
    return [vote["id"] for vote in state.votes]


# Images


def test_images_are_stored_once_by_content_with_prompt_and_metadata(session: Session) -> None:
    graph = '{"seed": 7, "text": "Käse"}'
    first = session.add_set([NewImage(pixels(1), {"prompt": graph}), *images(1, 2)], "a cat")
    path = session.images.path(first.images[0].id)
    with Image.open(path) as image:
        assert image.info["prompt"] == graph and image.info["dpo_prompt"] == "a cat"
        np.testing.assert_array_equal(np.asarray(image), pixels(1))
    assert read_metadata(path).prompt == "a cat"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    second = session.add_set([NewImage(pixels(1)), *images(1, 9)], "another prompt")
    assert second.images[0].id == first.images[0].id
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert len(list(session.images.folder.iterdir())) == 3
    assert session.images.present() == {i.id for one in (first, second) for i in one.images}


def test_floats_are_the_same_image_as_their_bytes_and_a_shape_is_part_of_it(
    session: Session,
) -> None:
    session.images.folder.mkdir(parents=True)
    made = session.images.add(
        [
            NewImage(pixels(51)),
            NewImage(np.full((6, 8, 3), 0.2, dtype=np.float32)),
            NewImage(np.asfortranarray(np.full((6, 8, 3), 0.2))),
            NewImage(pixels(51, 6, 8)),
        ],
        "",
    )
    one, as_floats, fortran, turned = (image.id for image in made)
    assert one == as_floats == fortran != turned
    assert (made[3].width, made[3].height) == (6, 8)


def test_images_identified_before_are_stored_under_those_ids(session: Session) -> None:
    shades = [np.full((6, 8, 3), i / 10, dtype=np.float32) for i in range(3)]
    found = identified_images(shades)
    known = [NewImage(stored, id=one) for one, stored in found]
    made = session.add_set([known[0], NewImage(shades[1]), known[2]], "p")
    assert [image.id for image in made.images] == [one for one, _ in found]
    for one, stored in found:
        np.testing.assert_array_equal(np.asarray(Image.open(session.images.path(one))), stored)


@pytest.mark.parametrize(
    "wrong",
    [
        NewImage(np.zeros((4, 4))),
        NewImage(np.zeros((4, 4, 4))),
        NewImage(np.zeros((0, 4, 3))),
        NewImage(np.full((4, 4, 3), np.nan)),
        NewImage(np.zeros((4, 4, 3), dtype=np.int64)),
        NewImage(pixels(1), {"": "x"}),
        NewImage(pixels(1), {"a\nb": "x"}),
        NewImage(pixels(1), {"a": "x" * 4_000_001}),
    ],
)
def test_what_is_no_image_is_refused_and_nothing_is_left_behind(
    session: Session, wrong: NewImage
) -> None:
    with pytest.raises(ValueError, match=r"image|chunk"):
        session.add_set([*images(1), wrong], "p")
    assert session.images.present() == set() and session.state().sets == {}


@pytest.mark.parametrize("name", ["../votes", "x", "A" * 32, "a" * 32 + "\n", "a" * 31 + "/"])
def test_an_image_is_found_by_its_id_only(session: Session, name: str) -> None:
    with pytest.raises(ValueError, match="is not an image"):
        session.images.path(name)


# Sets


def test_a_set_is_known_by_its_content_and_stored_once(session: Session) -> None:
    one = session.add_set(images(3), "a\ncat ")
    again = session.add_set(images(3)[::-1], "a cat")
    assert again == one and one.prompt == "a cat"
    assert [image.id for image in one.images] == [i.id for i in again.images]
    assert len((session.folder / "votes.jsonl").read_text().splitlines()) == 1
    assert session.add_set(images(3), "a dog").id != one.id


def test_equal_images_in_a_batch_count_once(session: Session) -> None:
    assert len(session.add_set([*images(2), *images(2)], "p").images) == 2


@pytest.mark.parametrize("count", [0, 65])
def test_a_set_has_1_to_64_images(session: Session, count: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        session.add_set(images(count), "p")


# Votes


def test_a_stored_vote_is_there_for_another_session_object(session: Session) -> None:
    made = session.add_set(images(3), "p")
    stored, new = session.vote(best_worst(made, 0, 2, id="v1", colour="unknown field"))
    assert new and stored["colour"] == "unknown field" and stored["v"] == 1
    state = Session(session.folder).state()
    assert state.votes == (stored,) and list(state.sets) == [made.id]
    assert state.votes_on(made.id) == [stored] and state.votes_on("other") == []


def test_posting_a_vote_twice_counts_once(session: Session) -> None:
    made = session.add_set(images(3), "p")
    for named in ({"id": "v1"}, {}):
        vote = best_worst(made, 0, 2, **named)
        assert [session.vote(vote)[1] for _ in range(3)] == [True, False, False]
    assert session.vote(best_worst(made, 1, 2, id="v1"))[0]["best"] == made.images[0].id
    assert len(session.state().votes) == 2


def test_a_bad_vote_is_refused_and_leaves_no_line(session: Session) -> None:
    made = session.add_set(images(2), "p")
    for bad in (
        best_worst(made, 0, 0),
        best_worst(made, 0, 1, strikes=["unknown"]),
        best_worst(made, 0, 1, strikes=[f"set:{made.id}"]),
        best_worst(made, 0, 1, id=["list"]),
        {"kind": "set", "set": made.id},
        {},
    ):
        with pytest.raises(VoteError):
            session.vote(bad)
    assert len((session.folder / "votes.jsonl").read_text().splitlines()) == 1


def test_a_vote_in_a_session_that_is_not_there_makes_no_folder(tmp_path: Path) -> None:
    session = SessionStore(tmp_path).session("nothing")
    with pytest.raises(VoteError, match="no session"):
        session.vote({"kind": "undo", "id": "1", "strikes": ["2"]})
    assert list(tmp_path.iterdir()) == []


def test_undo_redo_and_replacement_strike_votes_out(session: Session) -> None:
    made = session.add_set(images(4), "p")
    session.vote(best_worst(made, 0, 3, id="a"))
    session.vote(best_worst(made, 1, 2, id="b"))
    session.undo("a", "u1")
    assert vote_ids(session.state()) == ["b"] and session.state().struck == 1
    session.undo("u1", "u2")  # the undo undone
    assert vote_ids(session.state()) == ["a", "b"]
    session.undo("u2", "u3")  # and that again
    assert vote_ids(session.state()) == ["b"]
    session.vote(best_worst(made, 2, 1, id="c", strikes=["b"]))
    assert vote_ids(session.state()) == ["c"]
    session.undo("c")
    assert vote_ids(session.state()) == ["b"]
    session.undo("b")
    session.undo("b")  # twice is once
    assert vote_ids(session.state()) == []


def test_a_preview_shows_what_a_vote_would_change_and_stores_nothing(session: Session) -> None:
    made = session.add_set(images(4), "p")
    session.vote(best_worst(made, 0, 3, id="a"))
    state = session.state()
    preview = state.with_votes([best_worst(made, 1, 2, id="b", strikes=["a"])])
    assert vote_ids(preview) == ["b"] and vote_ids(session.state()) == ["a"]
    pair = SessionJudgement(preview).chosen_pairs(made.id)[0]
    assert (pair.chosen, pair.rejected) == (made.images[1].id, made.images[2].id)
    with pytest.raises(VoteError):
        state.with_votes([best_worst(made, 1, 1)])


def test_records_of_newer_versions_and_forged_ones_are_counted_and_kept(session: Session) -> None:
    made = session.add_set(images(3), "p")
    log = session.folder / "votes.jsonl"
    strange = [
        {"v": 2, "id": "n1", "kind": "best_worst", "set": made.id},
        {"v": 1, "id": "n2", "kind": "hologram", "set": made.id, "strikes": ["a"]},
        {"v": 1, "id": "set:x", "kind": "set", "set": "x", "prompt": "", "images": []},
        {**best_worst(made, 0, 1), "v": 1, "id": "early", "strikes": ["later"]},
    ]
    session.vote(best_worst(made, 0, 2, id="a"))
    with log.open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in strange)
    session.vote(best_worst(made, 2, 0, id="later"))
    state = session.state()
    assert vote_ids(state) == ["a", "early", "later"]  # nothing strikes what comes after it
    assert state.passed_over == 3
    assert all(json.dumps(one) in log.read_text() for one in strange)


def test_the_digest_of_a_set_changes_with_its_votes_alone(session: Session) -> None:
    one, other = session.add_set(images(3), "p"), session.add_set(images(3, 10), "p")
    session.vote(best_worst(one, 0, 2, id="a"))
    before = session.state()
    session.vote(best_worst(other, 0, 2, id="b"))
    after = session.state()
    assert after.digest([one.id]) == before.digest([one.id]) == before.digest()
    assert after.digest() != before.digest()
    session.undo("b")
    assert session.state().digest() == before.digest()


# Sessions


def test_sessions_do_not_mix(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    cats, dogs = store.session("cats"), store.session("dogs")
    made = cats.add_set(images(3), "p")
    dogs.add_set(images(2, 50), "p")
    cats.vote(best_worst(made, 0, 2, id="a"))
    with pytest.raises(VoteError, match="does not know"):
        dogs.vote(best_worst(made, 0, 2, id="a"))
    assert dogs.state().votes == () and store.names() == ["cats", "dogs"]
    assert store.session(" cats") is cats


def test_a_name_that_leads_elsewhere_or_differs_in_case_is_refused(tmp_path: Path) -> None:
    SessionStore(tmp_path / "root").session("Cats").add_set(images(2), "p")
    store = SessionStore(tmp_path / "root")
    for name in ("../cats", "cats", "a/b", ""):
        with pytest.raises(SessionNameError):
            store.session(name)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert store.session("Cats").state().sets


def _store_until_killed(folder: Path, run: int, pipe: int) -> None:
    session = Session(folder)
    for i in range(100_000):
        rng = np.random.default_rng([run, i])
        new = [NewImage(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(2)]
        latents = [KnownLatent(rng.random((4, 5, 5), np.float32)) for _ in new]
        made = session.add_set(new, f"{run}-{i}", latents)
        session.vote(best_worst(made, 0, 1, id=f"{run}-{i}"))
        os.write(pipe, f"{made.id}\n".encode())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kill_9_leaves_every_confirmed_set_with_whole_images_latents_and_its_vote(
    tmp_path: Path,
) -> None:
    rng = random.Random(3)
    confirmed: set[str] = set()
    for run in range(15):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            try:
                _store_until_killed(tmp_path / "s", run, theirs)
            finally:
                os._exit(1)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            first = pipe.readline()
            time.sleep(rng.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            lines = (first + pipe.read()).decode().split("\n")[:-1]
        confirmed.update(lines)
    session = Session(tmp_path / "s")
    state = session.state()
    assert confirmed <= {vote["set"] for vote in state.votes}
    for one in state.sets.values():  # also of sets that were not confirmed any more
        for image in one.images:
            with Image.open(session.images.path(image.id)) as file:
                file.load()
            assert state.picture(one.id, image.id).latent() is not None
    made = make_preferences(state)
    assert len(made.records) == len(state.votes) >= len(confirmed) and made.problems == ()


# Any history


def random_vote(rng: random.Random, sets: list[CandidateSet], known: list[str]) -> dict[str, Any]:
    one = rng.choice(sets)
    ids = [image.id for image in one.images]
    a, b = rng.sample(ids, 2)
    kind = rng.choice(["best_worst", "ranking", "comparison", "swap", "thumbs", "undo"])
    if kind == "undo" and known:
        return {"kind": "undo", "strikes": rng.sample(known, min(len(known), rng.randint(1, 2)))}
    fields: dict[str, Any] = {
        "best_worst": {"best": a, "worst": b},
        "ranking": {"order": [[a], [b]] if rng.random() < 0.5 else [[a, b]]},
        "comparison": {
            "left": a, "right": b,
            "result": rng.choice(["left", "right", "tie", "both_bad", "skip"]),
        },
        "swap": {"up": a, "down": b},
        "thumbs": {"labels": {a: rng.choice(["good", "bad", "none"])}},
    }.get(kind, {})  # fmt: skip
    if not fields:
        return random_vote(rng, sets, known)
    vote = {"kind": kind, "set": one.id, **fields}
    if known and rng.random() < 0.2:
        vote["strikes"] = [rng.choice(known)]
    return vote


def surviving(votes: list[dict[str, Any]]) -> list[str]:
    """By the definition: a vote counts unless a later one that counts strikes it."""

    def counts(i: int) -> bool:
        return not any(
            votes[i]["id"] in later.get("strikes", []) and counts(j)
            for j, later in enumerate(votes)
            if j > i
        )

    return [one["id"] for i, one in enumerate(votes) if one["kind"] != "undo" and counts(i)]


@pytest.mark.parametrize("seed", range(12))
def test_any_history_replays_to_the_same_state_and_pairs(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    session = SessionStore(tmp_path).session("s")
    sets = [session.add_set(images(rng.randint(2, 5), 20 * i), f"p{i % 2}") for i in range(3)]
    votes: list[dict[str, Any]] = []
    for i in range(25):
        vote = {**random_vote(rng, sets, [one["id"] for one in votes]), "id": f"{i}"}
        votes.append(vote)
        session.vote(vote)
        if rng.random() < 0.3:
            session.vote(rng.choice(votes))  # a browser that sends again
        if rng.random() < 0.2:
            with (session.folder / "votes.jsonl").open("ab") as file:
                file.write(b'{"id": "to')
        if rng.random() < 0.2:
            session = Session(session.folder)
    state, fresh = session.state(), Session(session.folder).state()
    assert vote_ids(state) == surviving(votes)
    assert (state.votes, state.struck, state.digest()) == (
        fresh.votes, fresh.struck, fresh.digest(),
    )  # fmt: skip
    ours, theirs = make_preferences(state), make_preferences(fresh)
    assert ours.records.digest == theirs.records.digest
    assert ours.records == theirs.records and ours.report == theirs.report
    for one in SessionJudgement(state).voted:
        made = SessionJudgement(state).chosen_pairs(one)
        used = [image for pair in made for image in (pair.chosen, pair.rejected)]
        assert len(used) == len(set(used))
        assert all(pair.explicit or pair.probability >= 0.65 for pair in made)


# What tells whether something changed


def test_the_fingerprint_follows_votes_and_deletion_but_not_new_images(session: Session) -> None:
    before = session.fingerprint()
    candidates = session.add_set(images(2), "a cat")
    assert session.fingerprint() == before
    vote, _ = session.vote(best_worst(candidates, 0, 1))
    chosen = session.fingerprint()
    assert chosen != before
    session.undo(vote["id"])
    assert session.fingerprint() == before
    shutil.rmtree(session.folder)
    gone = session.fingerprint()
    assert gone not in (before, chosen)
    session.add_set(images(2), "a cat")
    assert session.fingerprint() == gone


def test_the_set_of_a_vote_of_its_undo_and_of_the_undo_of_that(session: Session) -> None:
    candidates = session.add_set(images(2), "a cat")
    vote, _ = session.vote(best_worst(candidates, 0, 1))
    undo, _ = session.undo(vote["id"])
    redo, _ = session.undo(undo["id"])
    assert {session.set_of(one["id"]) for one in (vote, undo, redo)} == {candidates.id}
    assert session.set_of("unknown") is None
