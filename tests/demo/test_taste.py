from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dpo_core.demo.pictures import ATTRIBUTES, draw, sample_scene
from dpo_core.demo.taste import DEFAULT_TASTE, TASTES, taste


def test_warm_is_red_minus_blue() -> None:
    picture = np.zeros((4, 4, 3), np.float32)
    picture[:2] = (0.75, 0.1, 0.25)
    assert TASTES["warm"].score(picture) == pytest.approx(0.25)
    assert TASTES["cool"].score(picture) == pytest.approx(-0.25)


def test_low_horizon_finds_the_edge_below_a_graded_sky() -> None:
    picture = np.zeros((64, 64, 3))
    picture[:40] = np.linspace(0.2, 0.9, 40)[:, None, None]
    picture[40:] = (0.3, 0.5, 0.2)
    picture[10:60, 20:40] = 1.0  # A subject in front, narrower than half the picture.
    assert TASTES["low_horizon"].score(picture) == 40 / 64
    assert TASTES["high_horizon"].score(picture) == -40 / 64


def test_clean_counts_a_lone_speck_and_not_a_straight_edge() -> None:
    picture = np.zeros((8, 8, 3))
    picture[:, 4:] = 0.5
    assert TASTES["clean"].score(picture) == 0.0
    picture[2, 2] = 1.0
    assert TASTES["clean"].score(picture) == pytest.approx(-1 / 64)


@pytest.mark.parametrize(
    ("name", "trait", "low", "high"),
    [
        ("warm", "warmth", -0.5, 0.5),
        ("cool", "warmth", 0.5, -0.5),
        ("low_horizon", "horizon", 0.48, 0.72),
        ("high_horizon", "horizon", 0.72, 0.48),
        ("clean", "damage", 0.8, 0.0),
    ],
)
def test_a_taste_follows_its_trait_in_scenes_of_every_kind(
    name: str, trait: str, low: float, high: float
) -> None:
    rng = np.random.default_rng(0)
    score = TASTES[name].score
    followed = []
    for land in ATTRIBUTES["land"]:
        for time in ATTRIBUTES["time"]:
            for _ in range(4):
                scene = replace(sample_scene(rng), land=land, time=time, warmth=0.0, damage=0.3)
                worse, better = (
                    score(draw(replace(scene, **{trait: value}), np.random.default_rng(7)))
                    for value in (low, high)
                )
                followed.append(better > worse)
    assert np.mean(followed) >= 0.95


def test_scores_do_not_depend_on_the_number_type() -> None:
    rng = np.random.default_rng(2)
    picture = draw(sample_scene(rng), rng)
    for each in TASTES.values():
        exact = each.score(picture.astype(np.float64))
        assert each.score(picture) == pytest.approx(exact, abs=1e-6)


def test_an_unknown_taste_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="no taste named 'sweet'") as error:
        taste("sweet")
    assert all(name in str(error.value) for name in TASTES)
    assert taste(DEFAULT_TASTE) is TASTES[DEFAULT_TASTE]
