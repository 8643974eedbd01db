"""What a page is told of a comparison, before and after the reveal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_core.comparison.comparison import BlindComparison
from dpo_core.comparison.couple import Couple, NewCouple, Side, Sides
from dpo_core.comparison.requests import ComparisonRequests
from dpo_core.ranking.image_store import identified_images
from dpo_core.ranking.session import Session
from dpo_core.request import RequestRefused

SIDES = Sides(Side("base"), Side("mine"))
TEXT = Path(__file__).parents[2] / "docs" / "ranking_api.md"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "blind")


def add(session: Session, number: int, exchanged: bool = False) -> Couple:
    drawn = np.random.default_rng(number).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    a, b = identified_images(list(drawn))
    couple = NewCouple("a cat", b, a) if exchanged else NewCouple("a cat", a, b)
    return BlindComparison(session, SIDES).add(couple, {"prompt": "{}"})


def ask(session: Session) -> ComparisonRequests:
    return ComparisonRequests(session, lambda s, i: f"{s}/{i}.png", lambda s, i: f"{s}/{i}.webp")


def vote(session: Session, one: Couple, result: str) -> None:
    left, right = sorted((one.a, one.b))
    session.vote(
        {"kind": "comparison", "set": one.set_id, "left": left, "right": right, "result": result}
    )


def judge(session: Session, one: Couple) -> None:
    order = [[image] for image in sorted((one.a, one.b))]
    session.vote({"kind": "ranking", "set": one.set_id, "order": order, "by": "judge"})


def test_before_the_reveal_no_answer_depends_on_whose_a_picture_is(
    session: Session, tmp_path: Path
) -> None:
    other = Session(tmp_path / "other" / "blind")
    for one in (session, other):
        for number in range(3):
            couple = add(one, number, exchanged=one is other)
            if number < 2:
                vote(one, couple, "left")
            judge(one, couple)
    known, exchanged = (ask(one).state(SIDES.comparison) for one in (session, other))
    assert known == exchanged
    assert [one["answered"] for one in known["couples"]] == [True, True, False]
    assert (known["hidden"], known["result"]) == (3, None)
    assert "mine" not in json.dumps(known)


def test_the_reveal_names_the_pictures_of_what_was_judged_and_of_nothing_else(
    session: Session,
) -> None:
    first, second = add(session, 0), add(session, 1)
    vote(session, first, "left" if first.a < first.b else "right")
    answer = ask(session).reveal(SIDES.comparison)
    result = answer["result"]
    assert (result["a"], result["b"], result["ties"]) == (1, 0, 0)
    assert [one["name"] for one in result["sides"]] == ["base", "mine"]
    assert result["share"]["trials"] == 1 and result["share"]["value"] == 0.0
    (row,) = result["prompts"]
    assert row["pictures"] == [
        {"set_id": first.set_id, "a": f"blind/{first.a}.png", "b": f"blind/{first.b}.png",
         "result": "a", "by": ""}
    ]  # fmt: skip
    assert second.a not in json.dumps(answer)
    assert ask(session).state(SIDES.comparison) == answer


def test_what_cannot_be_answered_is_said(session: Session) -> None:
    add(session, 0)
    for call, status in (("state", 404), ("reveal", 404)):
        with pytest.raises(RequestRefused, match="no such blind comparison") as refused:
            getattr(ask(session), call)("0" * 16)
        assert refused.value.status == status
    with pytest.raises(RequestRefused, match="Nothing has been judged yet") as refused:
        ask(session).reveal(SIDES.comparison)
    assert refused.value.status == 409


def test_the_document_names_every_field(session: Session) -> None:
    text = TEXT.read_text(encoding="utf-8")
    vote(session, add(session, 0), "left")
    fields: set[str] = set()

    def collect(value: Any) -> None:
        for one in value.values() if isinstance(value, dict) else value:
            if isinstance(one, (dict, list)):
                collect(one)
        if isinstance(value, dict):
            fields.update(value)

    collect(ask(session).reveal(SIDES.comparison))
    assert [one for one in sorted(fields - {"v"}) if not re.search(f'[`"]{one}[`"]', text)] == []
