"""The routes of curation in a real ComfyUI: from a folder to votes, and what they refuse."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostkit.pair_folder import write_pairs
from hostkit.ranking import pick, ranking, shown_set
from hostkit.server import ComfyServer, Reply
from toykit.generations import write_generation

SCANS = "/dpo/curation/scans"


def scanned(server: ComfyServer, folder: str, user: str | None = None) -> dict[str, Any]:
    headers = {} if user is None else {"Comfy-User": user}
    reply = server.post(SCANS, {"folder": folder}, headers)
    assert reply.status == 200, reply.body
    scan = reply.json()
    while scan["state"] in ("listing", "reading"):
        time.sleep(0.02)
        scan = server.get(f"{SCANS}/{scan['scan']}", headers).json()
    assert scan["state"] == "done", scan
    return scan


def groups(server: ComfyServer, scan: dict[str, Any], query: str = "") -> list[dict[str, Any]]:
    reply = server.get(f"/api{SCANS}/{scan['scan']}/groups?session=curated{query}")
    assert reply.status == 200, reply.body
    found: list[dict[str, Any]] = reply.json()["groups"]
    return found


@pytest.fixture(scope="module")
def generations(comfy_server: ComfyServer) -> Path:
    folder = comfy_server.base_dir / "output" / "generations"
    for number, suffix in enumerate(("png", "jpg", "webp")):
        for seed in range(3):
            name, prompt = f"{number}_{seed}.{suffix}", f"prompt {number}"
            write_generation(folder / name, prompt, 10 * number + seed, (500, 60))
    return folder


@pytest.fixture
def scan(comfy_server: ComfyServer, generations: Path) -> dict[str, Any]:
    return scanned(comfy_server, "generations")


def test_a_folder_becomes_groups_sets_votes_and_pairs(
    comfy_server: ComfyServer, scan: dict[str, Any]
) -> None:
    assert (scan["read"], scan["unusable"]) == (9, 0)
    found = groups(comfy_server, scan, "&order=largest")
    assert sorted(one["prompt"] for one in found) == ["prompt 0", "prompt 1", "prompt 2"]
    first = f"{SCANS}/{scan['scan']}/groups/{found[0]['group']}"
    shown = comfy_server.post(f"{first}/open?pairs_per_group=1", {"session": "curated"}).json()
    ids = [image["id"] for image in shown["images"]]
    assert len(ids) == 3 and shown["prompt"] == found[0]["prompt"]
    assert comfy_server.get(shown["images"][0]["url"]).body.startswith(b"\x89PNG")
    vote = {"v": 1, "id": "curated-1", "kind": "best_worst", "set": shown["set_id"],
            "best": ids[0], "worst": ids[2]}  # fmt: skip
    answer = comfy_server.post("/dpo/sessions/curated/votes", vote)
    assert answer.status == 200 and answer.json()["totals"]["pairs"] == 1
    second = f"{SCANS}/{scan['scan']}/groups/{found[1]['group']}"
    body = {"session": "curated", "id": "skip-1"}
    assert comfy_server.post(f"{second}/skip", body).json()["counts"] == {
        "todo": 1, "begun": 0, "done": 1, "skipped": 1, "single": 0,
    }  # fmt: skip
    again = scanned(comfy_server, "generations")
    assert again["from_index"] == 9
    states = {one["group"]: one["state"] for one in groups(comfy_server, again)}
    assert sorted(states.values()) == ["done", "skipped", "todo"]


def test_images_are_sent_as_images_and_nothing_else(
    comfy_server: ComfyServer, scan: dict[str, Any]
) -> None:
    kinds = set()
    for group in groups(comfy_server, scan):
        image = group["samples"][0]
        with urllib.request.urlopen(comfy_server.url + image["url"]) as reply:
            kinds.add(reply.headers["Content-Type"])
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
        with urllib.request.urlopen(comfy_server.url + image["thumbnail"]) as reply:
            assert reply.headers["Content-Type"] == "image/webp"
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.read()[8:12] == b"WEBP"
    assert kinds == {"image/png", "image/jpeg", "image/webp"}


HOSTILE = ["..", "%2e%2e", "..%2f..%2fuser", "%00", "a" * 3000, quote("ä" * 20), "0_0.png"]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_scan_group_or_image_is_refused(
    comfy_server: ComfyServer, scan: dict[str, Any], name: str
) -> None:
    before = sorted(comfy_server.base_dir.joinpath("output").rglob("*"))
    for path in (f"{SCANS}/{name}", f"{SCANS}/{scan['scan']}/groups/{name}",
                 f"{SCANS}/{scan['scan']}/images/{name}",
                 f"{SCANS}/{scan['scan']}/images/{name}/thumbnail"):  # fmt: skip
        assert comfy_server.get(path).status in (400, 404), path
    for path in (f"{SCANS}/{name}/stop", f"{SCANS}/{scan['scan']}/groups/{name}/open"):
        assert comfy_server.post(path, {"session": "curated"}).status in (400, 404, 405)
    assert sorted(comfy_server.base_dir.joinpath("output").rglob("*")) == before


def posts(scan: str, group: str) -> dict[str, dict[str, Any]]:
    body = {"session": "strange", "id": "x1", "prompt": "evil", "undo_id": "x2"}
    one = f"{SCANS}/{scan}/groups/{group}"
    paths = [SCANS, f"{SCANS}/{scan}/stop", f"{SCANS}/{scan}/undo"]
    paths += [f"{one}/{name}" for name in ("open", "skip", "finish", "prompt")]
    return {path: {**body, "folder": "generations"} for path in paths}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data"}, 415),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_other_sites_change_nothing(
    comfy_server: ComfyServer, scan: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    before = groups(comfy_server, scan)
    for path, body in posts(scan["scan"], before[0]["group"]).items():
        assert comfy_server.post(path, body, headers).status == status, path
    assert groups(comfy_server, scan) == before
    assert not (comfy_server.base_dir / "output/dpo/sessions/strange").exists()


def test_nothing_changes_by_get_or_by_a_body_that_is_none(
    comfy_server: ComfyServer, scan: dict[str, Any]
) -> None:
    before = groups(comfy_server, scan)
    for path in posts(scan["scan"], before[0]["group"]):
        if path != SCANS:
            assert comfy_server.get(path).status in (404, 405), path
        if not path.endswith("/stop"):
            for body in (None, [], "x", {"session": 3, "id": 4}, {"folder": ["x"]}):
                assert comfy_server.post(path, body).status == 400, (path, body)
        assert comfy_server.post(path, {"x": "x" * 600_000}).status == 413
    assert groups(comfy_server, scan) == before


def test_names_and_prompts_with_html_come_as_text(
    comfy_server: ComfyServer, generations: Path
) -> None:
    evil = "<img src=x onerror=alert(1)>"
    folder = comfy_server.base_dir / "input" / "evil"
    for seed in range(2):
        write_generation(folder / f"{evil}\n{seed}.png", evil, seed)
    scan = scanned(comfy_server, "evil")
    with urllib.request.urlopen(f"{comfy_server.url}{SCANS}/{scan['scan']}/groups") as reply:
        assert reply.headers["Content-Type"].startswith("application/json")
    (group,) = groups(comfy_server, scan)
    assert group["prompt"] == evil and group["samples"][0]["name"].startswith(f"{evil}\\n")


def test_pairs_of_a_session_and_of_a_folder_are_reviewed_and_changes_taken_back(
    comfy_server: ComfyServer,
) -> None:
    shown = shown_set(comfy_server.queue(ranking("reviewed", seed=900)))
    pick(comfy_server, shown)
    write_pairs(comfy_server.base_dir / "input" / "reviewed", 3)
    scan = scanned(comfy_server, "reviewed")["scan"]
    for of, count in (("sessions/reviewed", 1), (f"scans/{scan}", 3)):
        path = f"/dpo/curation/{of}/pairs"
        page = comfy_server.get(path).json()
        assert page["total"] == count
        (pair, *_) = page["pairs"]
        assert comfy_server.get(pair["chosen"]["url"]).status == 200
        body = {"id": "e1", "kind": "remove", "pair": pair["pair"], "undo_id": "u1"}
        for headers, status in (({"Content-Type": "text/plain"}, 415),
                                ({"Origin": "http://evil.example"}, 403)):  # fmt: skip
            for end in ("edits", "undo"):
                assert comfy_server.post(f"{path}/{end}", body, headers).status == status
        edits = comfy_server.post(f"/api{path}/edits", body).json()
        assert [one["id"] for one in edits["edits"]] == ["e1"]
        assert comfy_server.get(path).json()["total"] == count - 1
        assert comfy_server.get(f"{path}/statistics").json()["pairs"] == count - 1
        assert comfy_server.post(f"{path}/undo", body).json()["edits"] == []
        assert comfy_server.get(path).json()["pairs"] == page["pairs"]
        for end in ("/orphans", "/edits", "/statistics"):
            assert comfy_server.get(path + end).status == 200
    for path in ("sessions/..%2f/pairs", "sessions/none/pairs", "scans/none/pairs"):
        assert comfy_server.get(f"/dpo/curation/{path}").status in (400, 404)


def test_users_have_scans_of_their_own_and_only_open_folders_are_looked_at(
    shared_server: ComfyServer, tmp_path: Path
) -> None:
    server = shared_server
    for seed in range(2):
        write_generation(server.base_dir / "input" / "common" / f"{seed}.png", "a cat", seed)
    one, other = (
        server.post("/users", {"username": name}).json() for name in ("clara", "dora")
    )

    def asked(path: str, user: str) -> Reply:
        return server.get(path, {"Comfy-User": user})

    scan = scanned(server, "common", one)["scan"]
    assert asked(f"{SCANS}/{scan}", one).status == 200
    assert asked(f"{SCANS}/{scan}", other).status == 404
    assert asked(SCANS, other).json() == {"scans": []}
    (group,) = asked(f"{SCANS}/{scan}/groups", one).json()["groups"]
    image = group["samples"][0]["url"]
    assert server.get(image).status == 200  # as a page asks for an image: without headers
    assert server.get(image.replace(one, other)).status == 404
    assert server.get(image.replace(one, "nobody")).status == 403
    assert server.get(image.partition("?")[0]).status == 403
    assert server.get(f"{SCANS}/{scan}").status == 403  # who says nobody is nobody
    path = f"{SCANS}/{scan}/groups/{group['group']}/open"
    assert server.post(path, {"session": "s"}, {"Comfy-User": one}).status == 200
    assert (server.base_dir / f"output/dpo/users/{one}/sessions/s/votes.jsonl").is_file()

    # This server listens to others: no folder but its own.
    write_generation(tmp_path / "a.png", "secret", 1)
    (server.base_dir / "input" / "link").symlink_to(tmp_path)
    for folder in (str(tmp_path), "/", "..", "link", "../output/../..", "\0", "~"):
        reply = server.post(SCANS, {"folder": folder}, {"Comfy-User": one})
        assert reply.status == 403, folder
