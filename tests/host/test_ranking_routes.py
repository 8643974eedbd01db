"""The routes of the ranking widget in a real ComfyUI: what they answer, and what they refuse."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostkit.ranking import get_set, image_ids, noise, post_vote, rank, ranking, shown_set
from hostkit.server import ComfyServer

resource = pytest.importorskip("resource")
VOTES, UNDO = "/dpo/sessions/routes/votes", "/dpo/sessions/routes/undo"


@pytest.fixture(scope="module")
def shown(comfy_server: ComfyServer) -> dict[str, Any]:
    """A set of 8 images in the session `routes`."""
    return shown_set(comfy_server.queue(ranking("routes", seed=200, batch=8)))


@pytest.fixture
def ids(comfy_server: ComfyServer, shown: dict[str, Any]) -> list[str]:
    return image_ids(get_set(comfy_server, "routes", shown["set_id"]))


def comparison(set_id: str, left: str, right: str, **more: Any) -> dict[str, Any]:
    vote = {"v": 1, "id": str(uuid.uuid4()), "kind": "comparison", "set": set_id}
    return {**vote, "left": left, "right": right, "result": "left", **more}


def sessions_folder(server: ComfyServer) -> Path:
    return server.base_dir / "output" / "dpo" / "sessions"


def log_of(server: ComfyServer, session: str) -> list[dict[str, Any]]:
    text = (sessions_folder(server) / session / "votes.jsonl").read_text()
    records = []
    for line in text.split("\n"):
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


@pytest.fixture
def unchanged(comfy_server: ComfyServer, shown: dict[str, Any]) -> Iterator[None]:
    """Nothing below the output folder may have changed in the test."""
    output = comfy_server.base_dir / "output"

    def content() -> list[tuple[str, int]]:
        return [(str(p), p.stat().st_mtime_ns) for p in sorted(output.rglob("*")) if p.is_file()]

    before = content()
    yield
    assert content() == before


# What is answered


def test_a_vote_its_undo_and_the_undo_of_that(
    comfy_server: ComfyServer, shown: dict[str, Any], ids: list[str]
) -> None:
    empty = get_set(comfy_server, "routes", shown["set_id"])
    vote = {
        "v": 1, "id": "pick", "kind": "best_worst", "set": shown["set_id"],
        "best": ids[0], "worst": ids[5],
    }  # fmt: skip
    view = comfy_server.post(VOTES + "?mode=best_worst&pairs_per_group=4", vote).json()
    assert [one["id"] for one in view["votes"]] == ["pick"] and view["votes"][0]["at"] > 0
    assert {(p["chosen"], p["rejected"], p["explicit"]) for p in view["pairs"]} == {
        (ids[0], ids[5], True)
    }
    assert view["standings"][0]["id"] == ids[0] and view["standings"][-1]["id"] == ids[5]
    assert view["standings"][0]["deviation"] > 0 and view["standings"][0]["label"] == "none"
    assert view["totals"] == {"pairs": 1, "votes": 1, "sets": 1}
    assert view["revision"] != empty["revision"]
    again = comfy_server.post(VOTES, vote).json()
    assert (again["votes"], again["revision"]) == (view["votes"], view["revision"])
    undone = comfy_server.post(UNDO, {"vote_id": "pick", "undo_id": "undo"}).json()
    assert undone["votes"] == [] and undone["revision"] == empty["revision"]
    assert comfy_server.post(UNDO, {"vote_id": "pick", "undo_id": "undo"}).json() == undone
    redone = comfy_server.post(UNDO, {"vote_id": "undo", "undo_id": "redo"}).json()
    assert redone == again
    comfy_server.post(UNDO, {"vote_id": "pick", "undo_id": "last"})


def test_sets_are_listed_newest_first(comfy_server: ComfyServer) -> None:
    before = time.time() * 1000
    first = shown_set(comfy_server.queue(ranking("listed", seed=201, batch=2, prompt="one")))
    second = shown_set(comfy_server.queue(ranking("listed", seed=202, batch=3, prompt="two")))
    newest, oldest = comfy_server.get("/dpo/sessions/listed/sets").json()["sets"]
    assert before - 1000 < oldest.pop("at") <= newest.pop("at") <= time.time() * 1000
    assert newest == {"set_id": second["set_id"], "prompt": "two", "images": 3, "votes": 0}
    assert oldest == {"set_id": first["set_id"], "prompt": "one", "images": 2, "votes": 0}


def test_a_session_of_any_letters_has_images_a_page_can_get(comfy_server: ComfyServer) -> None:
    name = "Käse & Brot #1 100% +x"
    view = get_set(
        comfy_server, name, shown_set(comfy_server.queue(ranking(name, seed=203)))["set_id"]
    )
    assert comfy_server.get(view["images"][0]["url"]).body.startswith(b"\x89PNG")


def test_votes_posted_at_once_are_all_stored_and_each_once(
    comfy_server: ComfyServer, shown: dict[str, Any], ids: list[str]
) -> None:
    votes = [comparison(shown["set_id"], ids[i], ids[j]) for i in range(8) for j in range(i)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda vote: comfy_server.post(VOTES, vote), votes * 3))
    assert {reply.status for reply in replies} == {200}
    stored = [record["id"] for record in log_of(comfy_server, "routes")]
    assert len(stored) == len(set(stored)) and {vote["id"] for vote in votes} <= set(stored)
    # Each answer knows of its own vote.
    for vote, reply in zip(votes * 3, replies, strict=True):
        assert vote["id"] in [one["id"] for one in reply.json()["votes"]]


def test_a_vote_that_waits_for_the_disk_does_not_hold_up_the_server(
    comfy_server: ComfyServer, shown: dict[str, Any], ids: list[str]
) -> None:
    vote = comparison(shown["set_id"], ids[0], ids[1])
    with (sessions_folder(comfy_server) / "routes" / "votes.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(comfy_server.post, VOTES, vote)
            time.sleep(0.3)
            started = time.monotonic()
            assert comfy_server.get("/prompt").status == 200
            assert time.monotonic() - started < 1 and not reply.done()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert reply.result(10).status == 200


# What is refused


@pytest.mark.parametrize(
    "session",
    [
        "..", "%2e%2e", "..%2f..%2fetc", "%2fetc%2fpasswd", "a%5cb", "a%00b", "C:", "con",
        "nowhere", "%ff%fe", "%e2%80%ae", "x" * 300,
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", ["sets", "votes", "undo"])
@pytest.mark.usefixtures("unchanged")
def test_a_session_that_is_none_is_refused(
    comfy_server: ComfyServer, session: str, what: str
) -> None:
    path = f"/dpo/sessions/{session}/{what}"
    reply = comfy_server.get(path) if what == "sets" else comfy_server.post(path, {"id": "a"})
    assert reply.status in (400, 404)


@pytest.mark.usefixtures("unchanged")
def test_a_session_that_is_a_link_elsewhere_is_none(
    comfy_server: ComfyServer, tmp_path: Path
) -> None:
    (tmp_path / "votes.jsonl").write_text("")
    link = sessions_folder(comfy_server) / "elsewhere"
    link.symlink_to(tmp_path)
    try:
        assert comfy_server.get("/dpo/sessions/elsewhere/sets").status == 404
        assert comfy_server.post("/dpo/sessions/elsewhere/votes", {"id": "a"}).status == 404
        listed = comfy_server.get("/dpo/sessions").json()["sessions"]
        assert "elsewhere" not in [one["name"] for one in listed]
    finally:
        link.unlink()


@pytest.mark.parametrize("set_id", ["0" * 32, "..", "%2e%2e%2f", "x", "%00"])
def test_a_set_that_is_none_is_refused(comfy_server: ComfyServer, set_id: str) -> None:
    reply = comfy_server.get(f"/dpo/sessions/routes/sets/{set_id}")
    assert reply.status in (400, 404)


@pytest.mark.parametrize(
    "query",
    [
        "mode=x", "pairs_per_group=0", "pairs_per_group=33", "pairs_per_group=-1",
        "pairs_per_group=1e9", "pairs_per_group=%D9%A1", "pairs_per_group=" + "9" * 5000,
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(
    comfy_server: ComfyServer, shown: dict[str, Any], query: str
) -> None:
    reply = comfy_server.get(f"/dpo/sessions/routes/sets/{shown['set_id']}?{query}")
    assert reply.status == 400 and len(reply.json()["problems"]) == 1


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("path", [VOTES, UNDO, "/dpo/waiting/a/b/done"])
@pytest.mark.usefixtures("unchanged")
def test_only_json_is_taken(comfy_server: ComfyServer, path: str, kind: str) -> None:
    reply = comfy_server.post(path, {"id": "a"}, {"Content-Type": kind})
    assert reply.status == 415 and reply.json()["problems"] == []


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Origin": "null://a"}],
)
@pytest.mark.usefixtures("unchanged")
def test_other_sites_are_refused(
    comfy_server: ComfyServer, shown: dict[str, Any], ids: list[str], headers: dict[str, str]
) -> None:
    vote = comparison(shown["set_id"], ids[0], ids[1])
    for prefix in ("", "/api"):
        assert comfy_server.post(prefix + VOTES, vote, headers).status == 403


@pytest.mark.parametrize("path", [VOTES, UNDO, "/dpo/waiting/a/b/done"])
@pytest.mark.usefixtures("unchanged")
def test_reading_never_changes_anything(comfy_server: ComfyServer, path: str) -> None:
    assert comfy_server.get(path).status in (404, 405)


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '"a"', "3", "null", "[" * 100_000, '{"id": "a"', "\ufffd"],
    ids=lambda body: body[:5],
)
@pytest.mark.parametrize("path", [VOTES, UNDO])
@pytest.mark.usefixtures("unchanged")
def test_a_body_that_is_no_object_is_refused(
    comfy_server: ComfyServer, path: str, body: str
) -> None:
    status, answer = _raw(comfy_server, path, body.encode())
    assert status == 400 and "JSON" in answer["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": None}, {"kind": ["a"]}, {"set": {"a": 1}}, {"set": None}, {"left": 3},
        {"right": ["a"]}, {"left": "../../etc/passwd"}, {"result": {}}, {"v": "1"}, {"v": 2},
        {"id": "set:x"}, {"id": "../a"}, {"id": 7}, {"id": "x" * 65}, {"strikes": "all"},
        {"strikes": [None]}, {"strikes": ["unknown"]}, {"extra": float("nan")},
        {"extra": "\ud800"}, {"kind": "set", "images": []}, {"kind": "undo"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("unchanged")
def test_a_vote_of_wrong_types_is_refused_with_what_is_wrong(
    comfy_server: ComfyServer, shown: dict[str, Any], ids: list[str], change: dict[str, Any]
) -> None:
    reply = comfy_server.post(VOTES, comparison(shown["set_id"], ids[0], ids[1]) | change)
    assert reply.status == 400 and reply.json()["problems"]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"vote_id": "nothing", "undo_id": "u"}, {"vote_id": 3, "undo_id": "u"},
        {"vote_id": ["a"], "undo_id": "u"}, {"vote_id": "pick", "undo_id": None},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("unchanged")
def test_an_undo_of_nothing_is_refused(comfy_server: ComfyServer, body: dict[str, Any]) -> None:
    reply = comfy_server.post(UNDO, body)
    assert reply.status == 400 and reply.json()["problems"]


def _raw(server: ComfyServer, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


@pytest.mark.usefixtures("unchanged")
def test_no_more_is_read_than_may_be_kept(comfy_server: ComfyServer) -> None:
    large = json.dumps({"id": "a", "extra": "x" * 600_000}).encode()
    status, answer = _raw(comfy_server, VOTES, large)
    assert status == 413 and "512 KB" in answer["error"]
    connection = http.client.HTTPConnection("127.0.0.1", comfy_server.port, timeout=30)
    connection.putrequest("POST", VOTES)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(9):  # 576 KB, with no end in sight
        connection.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    reply = connection.getresponse()
    assert reply.status == 413
    connection.close()


# What goes wrong with the disk


def test_a_session_deleted_meanwhile_is_told_and_begins_anew(comfy_server: ComfyServer) -> None:
    prompt = ranking("deleted", seed=204)
    shown = shown_set(comfy_server.queue(prompt))
    ids = image_ids(get_set(comfy_server, "deleted", shown["set_id"]))
    vote = comparison(shown["set_id"], ids[0], ids[1])
    path = "/dpo/sessions/deleted/votes"
    view = comfy_server.post(path, vote).json()
    assert view["totals"]["votes"] == 1
    shutil.rmtree(sessions_folder(comfy_server) / "deleted")
    lost = comfy_server.post(path, vote)
    assert lost.status == 404 and "There is no session 'deleted'" in lost.json()["error"]
    assert comfy_server.get(f"/dpo/sessions/deleted/sets/{shown['set_id']}").status == 404
    result = comfy_server.queue(prompt)  # what was chosen is gone, and so it runs again
    assert result.status == "success" and "best" not in result.outputs
    assert comfy_server.post(path, vote).json()["totals"]["votes"] == 1


def test_a_full_disk_is_told_and_nothing_is_half_written(comfy_server: ComfyServer) -> None:
    shown = shown_set(comfy_server.queue(ranking("full", seed=205)))
    ids = image_ids(get_set(comfy_server, "full", shown["set_id"]))
    folder = sessions_folder(comfy_server) / "full"
    log = folder / "votes.jsonl"
    with log.open("ab") as file:  # so that the server's own log has room where ours has none
        file.write(b"\n" * 3_000_000)
    before = sorted(folder.rglob("*"))
    vote = comparison(shown["set_id"], ids[0], ids[1])
    large = {"images": noise(206, 2, 1200, 1200), "rank": rank(["images", 0], "full")}
    with _file_size_limit(comfy_server, log.stat().st_size + 10):
        refused = comfy_server.post("/dpo/sessions/full/votes", vote)
        assert refused.status == 507 and "could not be saved" in refused.json()["error"]
        result = comfy_server.queue(large)
        assert result.status == "error" and "Make room on the disk" in result.error
    assert sorted(folder.rglob("*")) == before  # no image, and no part of one
    view = comfy_server.post("/dpo/sessions/full/votes", vote).json()
    assert [one["id"] for one in view["votes"]] == [vote["id"]]
    assert comfy_server.queue(large).status == "success"


class _file_size_limit:
    """No file of the server may grow beyond `size`: what a full disk is to it."""

    def __init__(self, server: ComfyServer, size: int) -> None:
        self._process, self._size = server.process_id, size

    def __enter__(self) -> None:
        self._before = resource.prlimit(self._process, resource.RLIMIT_FSIZE)
        limits = (self._size, self._before[1])
        resource.prlimit(self._process, resource.RLIMIT_FSIZE, limits)

    def __exit__(self, *error: object) -> None:
        resource.prlimit(self._process, resource.RLIMIT_FSIZE, self._before)


def test_kill_9_between_votes_loses_nothing_that_was_confirmed(comfy_server: ComfyServer) -> None:
    server = comfy_server
    confirmed: list[str] = []
    shown = shown_set(server.queue(ranking("killed", seed=207, batch=8)))
    ids = image_ids(get_set(server, "killed", shown["set_id"]))

    def vote_on() -> None:
        path = f"/dpo/sessions/{quote('killed')}/votes"
        for i in range(100_000):
            vote = comparison(shown["set_id"], ids[i % 7], ids[7])
            try:
                if server.post(path, vote).status == 200:
                    confirmed.append(vote["id"])
            except (OSError, http.client.HTTPException):
                return

    voters = [threading.Thread(target=vote_on) for _ in range(3)]
    for voter in voters:
        voter.start()
    deadline = time.monotonic() + 30
    while len(confirmed) < 40 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.process_id is not None
    os.kill(server.process_id, signal.SIGKILL)
    for voter in voters:
        voter.join(30)
    server.stop()
    server.start()
    view = get_set(server, "killed", shown["set_id"])
    assert len(confirmed) >= 40
    assert set(confirmed) <= {vote["id"] for vote in view["votes"]}
    # And it goes on from there.
    view = post_vote(server, "killed", comparison(shown["set_id"], ids[0], ids[7]))
    assert view["totals"]["votes"] == len(view["votes"]) > len(confirmed)
    result = server.queue(ranking("killed", seed=207, batch=8))
    assert result.status == "success" and "best" in result.outputs
