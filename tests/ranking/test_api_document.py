"""docs/ranking_api.md names what there is: kinds of votes, and the fields of an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dpo_core.ranking.given_votes import given_votes
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.requests import RankingRequests
from dpo_core.ranking.session import SessionStore
from dpo_core.ranking.vote import LABELS, RESULTS

TEXT = (Path(__file__).parents[2] / "docs" / "ranking_api.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(line) for line in TEXT.splitlines() if line.startswith('{"votes"')]


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path)


def test_its_examples_are_stored_as_they_stand(store: SessionStore) -> None:
    assert len(EXAMPLES) == 4
    session = store.session("api")
    generator = np.random.default_rng(0)
    images = [
        NewImage(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(4)
    ]
    batch = session.add_set(images, "a cat")
    ids = [image.id for image in batch.images]
    for example in EXAMPLES:
        for vote in given_votes(example, batch.id, ids, session.problems):
            session.vote(vote)
    assert [vote["kind"] for vote in session.state().votes] == [
        example["votes"][0]["kind"] for example in EXAMPLES
    ]

    requests = RankingRequests(store, lambda name, image: "url", lambda name, image: "thumbnail")
    answer = requests.set("api", batch.id, {})
    fields = set(re.findall(r"`([a-z_]+)`", TEXT))
    named = fields | set(re.findall(r'"([a-z_]+)"', TEXT))
    assert answer.keys() - {"v"} <= fields
    for part in ("images", "pairs", "standings"):
        assert answer[part] and answer[part][0].keys() <= named, part
    assert answer["totals"].keys() <= named


def test_it_names_every_kind_of_vote_and_result() -> None:
    kinds = ["best_worst", "ranking", "comparison", "swap", "thumbs", "remove", "prompt", "undo"]
    assert [kind for kind in kinds if f"| `{kind}` |" not in TEXT] == []
    assert len(RESULTS) == 5 and len(LABELS) == 3
    for result in (*RESULTS, *LABELS):
        assert f"`{result}`" in TEXT or f'"{result}"' in TEXT
