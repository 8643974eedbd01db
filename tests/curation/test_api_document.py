"""docs/curation_api.md names what there is: routes, and the fields of answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from toykit.generations import write_generation

from dpo_core.curation.curation import CurationStore
from dpo_core.curation.edit import KINDS
from dpo_core.curation.progress import STATES
from dpo_core.curation.requests import ORDERS, CurationRequests
from dpo_core.curation.review import ORDERS as PAIR_ORDERS
from dpo_core.curation.review import PROBLEMS
from dpo_core.curation.review_requests import ImageUrls, ReviewRequests
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.requests import RankingRequests
from dpo_core.ranking.session import SessionStore

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "curation_api.md").read_text(encoding="utf-8")
NAMED = {*re.findall(r"`([a-z_]+)`", TEXT), *re.findall(r'"([a-z_]+)"', TEXT)}


def test_it_names_every_route_of_the_module(tmp_path: Path) -> None:
    modules = [ROOT / "nodes" / name for name in ("curation_routes.py", "review_routes.py")]
    docstrings = "".join(module.read_text(encoding="utf-8") for module in modules)
    routes = re.findall(r"^\| ((?:GET|POST) /\S+) \|", docstrings, re.MULTILINE)
    assert len(routes) >= 20
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


def test_it_names_what_a_review_tells(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    for side, seed in (("chosen", 1), ("rejected", 2)):
        write_generation(pairs / side / "1.png", "a cat", seed, (400, 8))
    write_generation(pairs / "chosen" / "2.png", "a cat", 3)
    store = CurationStore(tmp_path / "curation")
    curation = store.open(pairs)
    curation.scan.start()
    curation.scan.wait(30)
    session = SessionStore(tmp_path / "sessions").session("s")
    shades = [NewImage(np.full((4, 4, 3), shade, np.uint8)) for shade in range(2)]
    session.add_set(shades, "a cat")
    ask = ReviewRequests(
        lambda scan: curation, store, lambda name: session, lambda one: True,
        ImageUrls(lambda s, i: "", lambda s, i: "", lambda s, i, small: ""),
    )  # fmt: skip
    page, told = ask.folder_pairs("scan", {}), ask.folder_statistics("scan", {})
    orphans = ask.folder_orphans("scan", {})
    edits = ask.edit_folder(
        "scan", {"id": "e", "kind": "flip", "pair": page["pairs"][0]["pair"]}, {}
    )
    mended = ask.edit_session("s", {"id": "m", "kind": "mend"}, {})
    for part in (page, page["pairs"][0], page["pairs"][0]["chosen"], told, told["warnings"][0],
                 told["prompts"][0], told["sizes"][0], told["aspects"][0], orphans,
                 orphans["orphans"][0], edits, edits["edits"][0], mended,
                 ask.session_pairs("s", {}), ask.session_orphans("s", {})):  # fmt: skip
        assert part.keys() <= NAMED, part.keys() - NAMED
    kinds = {"few_pairs", "one_prompt", "inconsistent", "no_prompt", "unsure"}
    assert {*KINDS, *PROBLEMS, *PAIR_ORDERS, *kinds} <= NAMED
