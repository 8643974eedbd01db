from __future__ import annotations

from dpo_core.pairs.problem import PairError, PairProblem, printable


def test_the_message_groups_by_kind_and_tells_each_fix_once() -> None:
    error = PairError(
        [
            PairProblem("Sizes differ", "a.png", "Crop them."),
            PairProblem("Damaged", "b.png", "Save again."),
            PairProblem("Sizes differ", "c.png", "Crop them."),
        ],
        "Not usable",
    )
    assert str(error) == (
        "Not usable:\n"
        "Sizes differ (2):\n  - a.png\n  - c.png\n  Fix: Crop them.\n"
        "Damaged:\n  - b.png\n  Fix: Save again."
    )
    assert len(error.problems) == 3


def test_a_long_list_of_one_kind_is_capped_and_counted() -> None:
    error = PairError([PairProblem("Damaged", f"{i}.png", "Save again.") for i in range(57)])
    text = str(error)
    assert "Damaged (57):" in text and "- 19.png" in text and "- 20.png" not in text
    assert "... and 37 more" in text


def test_names_with_control_or_undecodable_characters_can_be_shown() -> None:
    assert printable("a\nb\udcff é.png") == "a\\nb\\udcff é.png"
