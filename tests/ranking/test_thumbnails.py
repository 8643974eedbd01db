from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.requests import RankingRequests
from dpo_core.ranking.session import Session, SessionStore


def picture(seed: int, height: int = 500, width: int = 1000) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3), np.uint8)
    noise[:, : width // 2, 0] += 180  # the left half is red
    return noise


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return SessionStore(tmp_path).session("cats")


def stored(session: Session, *pictures: np.ndarray) -> list[str]:
    made = session.add_set([NewImage(one) for one in pictures], "a cat")
    return [image.id for image in made.images]


class Page:
    def __init__(self, session: Session) -> None:
        store = SessionStore(session.folder.parent)
        self.session = store.session("cats")
        self._requests = RankingRequests(
            store, lambda s, one: f"full:{s}:{one}", lambda s, one: f"small:{s}:{one}"
        )

    def thumbnails(self) -> list[str | None]:
        (set_id,) = self.session.state().sets
        shown = self._requests.set("cats", set_id, {})["images"]
        assert all(image["url"] == f"full:cats:{image['id']}" for image in shown)
        return [image.get("thumbnail") for image in shown]


def test_a_stored_image_has_a_small_copy_beside_it(session: Session) -> None:
    (one,) = stored(session, picture(1))
    path = session.images.thumbnails.path(one)
    assert path == session.folder / "thumbnails" / f"{one}.webp"
    with Image.open(path) as image:
        assert (image.format, image.size) == ("WEBP", (384, 192))
        small = np.asarray(image.convert("RGB")).astype(int)
    assert small[:, :180, 0].mean() > 190 and small[:, 200:, 0].mean() < 50
    assert path.stat().st_size < 60_000
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_image_as_small_as_its_thumbnail_would_be_has_none(session: Session) -> None:
    stored(session, picture(1, 384, 384), picture(2, 385, 100))
    assert len(list(session.images.thumbnails.folder.iterdir())) == 1
    assert [bool(one) for one in Page(session).thumbnails()] == [False, True]


def test_a_set_tells_its_thumbnails(session: Session) -> None:
    ids = stored(session, picture(1), picture(2))
    assert Page(session).thumbnails() == [f"small:cats:{one}" for one in ids]


def test_missing_ones_are_left_out_and_are_there_for_the_next_page(session: Session) -> None:
    ids = stored(session, picture(1), picture(2))
    paths = [session.images.thumbnails.path(one) for one in ids]
    with Image.open(paths[1]) as image:
        before = np.asarray(image.convert("RGB"))
    paths[0].unlink()
    paths[1].write_bytes(b"")  # what a power cut may leave
    session.images.path(ids[0]).unlink()  # of this one there will be none
    page = Page(session)
    assert page.thumbnails() == [None, None]
    deadline = time.monotonic() + 20
    while not paths[1].stat().st_size and time.monotonic() < deadline:
        time.sleep(0.01)
    assert page.thumbnails() == [None, f"small:cats:{ids[1]}"]
    with Image.open(paths[1]) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), before)


def test_the_same_images_again_get_back_a_thumbnail_that_was_deleted(session: Session) -> None:
    (one,) = stored(session, picture(1))
    session.images.thumbnails.path(one).unlink()
    stored(session, picture(1))
    assert session.images.thumbnails.has(one)


def test_a_set_is_stored_where_thumbnails_cannot_be(session: Session) -> None:
    session.folder.mkdir(parents=True)
    (session.folder / "thumbnails").write_text("in the way")
    (one,) = stored(session, picture(1))
    assert session.images.path(one).is_file() and Page(session).thumbnails() == [None]


def test_no_thumbnail_is_written_through_a_link(session: Session, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    session.folder.mkdir(parents=True)
    (session.folder / "thumbnails").symlink_to(elsewhere)
    stored(session, picture(1))
    page = Page(session)
    assert page.thumbnails() == [None]
    # The work beside the answer has ended once a second one can be begun.
    assert page.session.images.thumbnails._at_work.acquire(timeout=20)
    assert list(elsewhere.iterdir()) == []
