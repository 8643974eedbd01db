"""docs/curation_api.md names what there is: routes, and the fields of answers."""

from __future__ import annotations

import re
from pathlib import Path

from toykit.generations import write_generation

from dpo_core.curation.curation import CurationStore
from dpo_core.curation.progress import STATES
from dpo_core.curation.requests import ORDERS, CurationRequests
from dpo_core.ranking.requests import RankingRequests
from dpo_core.ranking.session import SessionStore

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "curation_api.md").read_text(encoding="utf-8")
NAMED = {*re.findall(r"`([a-z_]+)`", TEXT), *re.findall(r'"([a-z_]+)"', TEXT)}


def test_it_names_every_route_of_the_module(tmp_path: Path) -> None:
    docstring = (ROOT / "nodes" / "curation_routes.py").read_text(encoding="utf-8")
    routes = re.findall(r"^\| ((?:GET|POST) /\S+) \|", docstring, re.MULTILINE)
    assert len(routes) >= 14
    assert [route for route in routes if not re.search(rf"`{re.escape(route)}[`?]", TEXT)] == []


def test_it_names_every_field_state_and_order(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for seed in range(2):
        write_generation(tmp_path / "a" / f"{seed}.png", "a cat", seed, (400, 8))
    sessions = SessionStore(tmp_path / "sessions")
    widget = RankingRequests(sessions, lambda name, image: "url")
    ask = CurationRequests(
        CurationStore(tmp_path / "curation"), Path, sessions.session,
        lambda name: sessions.session(name).state(), widget.set,
        lambda scan, image, small: "url",
    )  # fmt: skip
    scan = ask.start({"folder": str(tmp_path / "a")})
    ask.curation(scan["scan"]).scan.wait(30)
    page = ask.groups(scan["scan"], {})
    (group,) = page["groups"]
    shown = ask.open_group(scan["scan"], group["group"], {"session": "s"}, {})
    whole = ask.group(scan["scan"], group["group"], {"session": "s"})
    for part in (scan, page, group, whole, group["samples"][0], whole["parts"][0],
                 shown["curation"], {"curation": 0}, ask.scans()["scans"][0],
                 ask.problems(scan["scan"])):  # fmt: skip
        assert part.keys() <= NAMED, part.keys() - NAMED
    assert {*STATES, *ORDERS} <= NAMED
