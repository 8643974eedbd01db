from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpo_core.pairs.latent_file import KnownLatent
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.pair_making import make_preferences
from dpo_core.ranking.session import Session


def images(count: int, first: int = 0) -> list[NewImage]:
    return [NewImage(np.full((6, 8, 3), first + i, np.uint8)) for i in range(count)]


def latents(count: int, first: float = 0.5, vae: str = "") -> list[KnownLatent]:
    return [KnownLatent(np.full((4, 3, 4), first + i, np.float32), vae) for i in range(count)]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "cats")


def test_each_image_keeps_its_latent_through_to_the_pairs(session: Session) -> None:
    made = session.add_set(images(3), "a cat", latents(3, vae="x.safetensors"))
    ids = [image.id for image in made.images]
    session.vote({"kind": "best_worst", "set": made.id, "best": ids[2], "worst": ids[0]})
    (pair,) = make_preferences(Session(session.folder).state()).records
    chosen, rejected = pair.chosen.latent(), pair.rejected.latent()
    assert chosen is not None and rejected is not None
    assert (chosen.values == 2.5).all() and (rejected.values == 0.5).all()
    assert chosen.vae == "x.safetensors"
    without = Session(session.folder.parent / "dogs")
    assert without.add_set(images(3), "a cat").id == made.id
    without.vote({"kind": "best_worst", "set": made.id, "best": ids[2], "worst": ids[0]})
    records = make_preferences(without.state()).records
    assert records[0].chosen.latent() is None and not (without.folder / "latents").exists()
    assert records[0].key == pair.key


def test_equal_images_have_one_latent_and_the_last_given_stays(session: Session) -> None:
    made = session.add_set([*images(1), *images(1)], "a cat", latents(2))
    path = session.latents.path(made.images[0].id)
    assert [entry.name for entry in session.latents.folder.iterdir()] == [path.name]
    before = path.stat().st_ino
    session.add_set(images(1), "a cat", latents(1, 1.5))
    assert path.stat().st_ino == before  # the same again: not written
    session.add_set(images(1), "a cat", latents(1, 9))
    found = session.state().picture(made.id, made.images[0].id).latent()
    assert found is not None and (found.values == 9).all()
    session.add_set(images(1), "a cat")
    assert path.is_file()


def test_another_number_of_latents_stores_nothing(session: Session) -> None:
    with pytest.raises(ValueError, match="2 latents of 3 images"):
        session.add_set(images(3), "a cat", latents(2))
    assert not session.folder.exists()


@pytest.mark.parametrize("name", ["../votes", "x", "A" * 32, "a" * 31 + "/"])
def test_a_latent_is_found_by_an_images_id_only(session: Session, name: str) -> None:
    with pytest.raises(ValueError, match="is not an image"):
        session.latents.path(name)
