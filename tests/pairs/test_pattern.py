from __future__ import annotations

import pytest

from dpo_core.pairs.pattern import SidePattern, place, split_of
from dpo_core.pairs.problem import PairError


def placed(name: str, chosen: str, rejected: str) -> tuple[str, str] | None:
    return place(name, SidePattern.parse(chosen, "chosen"), SidePattern.parse(rejected, "rejected"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chosen/a", ("chosen", "a")),
        ("rejected/cats/a", ("rejected", "cats/a")),
        ("chosen/train/a", ("chosen", "train/a")),
        ("train/chosen/a", ("chosen", "train/a")),
        ("val/rejected/cats/a", ("rejected", "val/cats/a")),
        ("a", None),
        ("chosen", None),
        ("elsewhere/chosen/a", None),
        ("not_chosen/a", None),
    ],
)
def test_the_default_layouts(name: str, expected: tuple[str, str] | None) -> None:
    assert placed(name, "chosen/{}", "rejected/{}") == expected


def test_a_pattern_of_file_names_mirrors_subfolders() -> None:
    assert placed("cats/a_good", "{}_good", "{}_bad") == ("chosen", "cats/a")
    assert placed("cats/bad_a", "good_{}", "bad_{}") == ("rejected", "cats/a")
    assert placed("val/a_bad", "{}_good", "{}_bad") == ("rejected", "val/a")
    assert placed("_good", "{}_good", "{}_bad") is None


def test_the_name_may_be_a_folder() -> None:
    assert placed("007/best", "{}/best", "{}/worst") == ("chosen", "007")


def test_an_image_fitting_both_patterns_belongs_to_the_longer() -> None:
    assert placed("a_good", "{}_good", "{}") == ("chosen", "a")
    assert placed("a", "{}_good", "{}") == ("rejected", "a")
    assert placed("a_bad", "{}", "{}_bad") == ("rejected", "a")


def test_special_characters_of_a_pattern_are_taken_literally() -> None:
    assert placed("a (1.5)", "{} (1.5)", "{}.+") == ("chosen", "a")
    assert placed("a_b", "{} (1.5)", "{}.+") is None


def test_backslashes_and_a_leading_dot_are_understood() -> None:
    assert placed("good/a", "good\\{}", "./bad/{}") == ("chosen", "a")
    assert placed("bad/a", "good\\{}", "./bad/{}") == ("rejected", "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chosen", "exactly one"),
        ("", "exactly one"),
        ("{}/{}", "exactly one"),
        ("{0}_good", "exactly one"),
        ("{}_{x}", "braces"),
        ("/data/{}", "absolute"),
        ("C:\\data\\{}", "absolute"),
        ("~/{}", "absolute"),
        ("../{}", "leads out"),
        ("a/../../{}", "leads out"),
        ("a//{}", "leads out"),
        ("chosen/{}.png", "extension"),
    ],
)
def test_bad_patterns_are_refused(text: str, message: str) -> None:
    with pytest.raises(PairError, match=f"The rejected pattern.*{message}"):
        SidePattern.parse(text, "rejected")


def test_the_split_is_the_first_folder_of_a_pairs_name() -> None:
    assert split_of("train/a") == "train"
    assert split_of("Val/cats/a") == "val"
    assert split_of("cats/val/a") is None
    assert split_of("train") is None
