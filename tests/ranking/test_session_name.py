from __future__ import annotations

import pytest

from dpo_core.ranking.session_name import SessionNameError, same_session, session_name


@pytest.mark.parametrize(
    "name", ["default", "my cats 2", "Кошки", "猫の写真", "a.b-c_d", "cat 🐈", "x" * 80, "console"]
)
def test_names_people_give_are_kept(name: str) -> None:
    assert session_name(name) == name


def test_blanks_around_a_name_and_the_form_of_its_accents_do_not_matter() -> None:
    assert session_name("  cafe\u0301 ") == "caf\u00e9"


@pytest.mark.parametrize(
    "name",
    [
        "", "   ", ".", "..", "../x", "a/b", "a\\b", "/etc", "C:", "a:b", "a\0b", "a\nb", "x.",
        ".hidden", "con", "NUL", "com1.txt", "LPT9", "a*", 'a"b', "a|b", "x" * 81, "猫" * 67,
        "a\u202eb", "a\u200bb", "\ud800", "~/\n",
    ],
)  # fmt: skip
def test_names_that_are_no_plain_folder_everywhere_are_refused(name: str) -> None:
    with pytest.raises(SessionNameError, match="session name"):
        session_name(name)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(SessionNameError):
        session_name(["a"])  # type: ignore[arg-type]


def test_names_that_some_system_takes_for_one_folder() -> None:
    assert same_session("Cats", "cats") and same_session("STRASSE", "straße")
    assert not same_session("cats", "cat") and not same_session("x2", "x²")
