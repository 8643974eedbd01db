"""The page's server: whom it answers, and what it gives away."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from dpo_core.demo.pick.local_server import LocalServer
from dpo_core.demo.pick.page_files import PageFiles
from dpo_core.demo.pick.routes import Routes
from dpo_core.demo.pick.studio import PickSettings, Studio
from dpo_core.ranking.image_store import NewImage
from dpo_core.request import MAX_BODY_BYTES

ROOT = Path(__file__).resolve().parents[2]


class Page:
    """What asks the server: a browser, or something that would like to pass for one."""

    def __init__(self, server: LocalServer) -> None:
        address = urlsplit(server.url)
        self.host, self.port = f"127.0.0.1:{server.port}", server.port
        self.token = address.path.split("/")[1]

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        **headers: str,
    ) -> tuple[int, Any]:
        """Status and content; `headers` with _ for -, which replace those a page sends."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Host": self.host}
        if method == "POST":
            sent |= {"Content-Type": "application/json", "Origin": f"http://{self.host}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        where = f"/{self.token if token is None else token}{path}"
        connection.request(method, where, data if method == "POST" else None, sent)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.getheader("Content-Type") == "application/json"
        return response.status, json.loads(content) if is_json and content else content

    def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", path, body, **headers)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.ask("GET", path, **headers)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A session with one set of four; nothing is drawn or trained."""
    made = Studio(tmp_path_factory.mktemp("pick"), PickSettings())
    random = np.random.default_rng(0)
    images = [NewImage(random.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(4)]
    made.session.add_set(images, "a tree by day")
    return made


@pytest.fixture(scope="module")
def page(studio: Studio) -> Iterator[Page]:
    server = LocalServer(Routes(studio, PageFiles()))
    server.start()
    yield Page(server)
    server.stop()


@pytest.fixture
def candidates(studio: Studio) -> Any:
    (only,) = studio.session.state().sets.values()
    return only


def votes(studio: Studio) -> str:
    return (studio.session.folder / "votes.jsonl").read_text()


def best_worst(candidates: Any, vote_id: str, best: int = 0, worst: int = 1) -> dict[str, Any]:
    images = [image.id for image in candidates.images]
    return {
        "v": 1, "id": vote_id, "kind": "best_worst", "set": candidates.id,
        "best": images[best], "worst": images[worst],
    }


def test_the_page_and_all_its_files_are_served(page: Page) -> None:
    status, text = page.get("/pick")
    assert status == 200 and b"./pick.mjs" in text and b"./ranking/ranking.css" in text
    own = (ROOT / "dpo_core" / "demo" / "pick" / "page").rglob("*.mjs")
    shared = (ROOT / "web" / "ranking").rglob("*.mjs")
    for file in own:
        assert page.get(f"/{file.name}") == (200, file.read_bytes())
    for file in shared:
        path = file.relative_to(ROOT / "web").as_posix()
        assert page.get(f"/{path}") == (200, file.read_bytes())


@pytest.mark.parametrize(
    "path",
    [
        "/index.htm", "/../pyproject.toml", "/ranking/../../pyproject.toml", "/%2e%2e/ranking.js",
        "/ranking/..%2f..%2fpyproject.toml", "/ranking.js", "/ranking//etc/passwd", "/etc/passwd",
        "/images/picks-0/../votes.jsonl", "/images/picks-0/..%2fvotes.jsonl",
        "/images/..%2f..%2fx/00000000000000000000000000000000.png", "/images/%00/a.png",
        "/pictures/..%2fresult.json", "/pictures/result.json", "/sessions/picks-0/votes.jsonl",
        "/dpo/sessions/..%2fpicks-0/sets", "/demo/train",
    ],
)
def test_no_path_leads_to_another_file(page: Page, path: str) -> None:
    status, answer = page.get(path)
    assert status in (400, 404) and set(answer) == {"error", "problems"}


def test_an_image_of_the_session_is_served_unless_it_is_a_link_out(
    page: Page, studio: Studio, candidates: Any, tmp_path: Path
) -> None:
    image = candidates.images[0].id
    status, content = page.get(f"/images/picks-0/{image}.png")
    assert status == 200 and content == studio.session.images.path(image).read_bytes()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    link = studio.session.images.path("f" * 32)
    link.symlink_to(secret)
    assert page.get(f"/images/picks-0/{'f' * 32}.png")[0] == 404
    link.unlink()


@pytest.mark.parametrize("token", ["", "x", "pick", "a" * 24, "%c3%a9%00"])
def test_without_the_token_there_is_nothing(page: Page, token: str) -> None:
    for method, path in (("GET", "/pick"), ("GET", "/demo/state"), ("POST", "/demo/train")):
        status, answer = page.ask(method, path, token=token)
        assert status == 404 and "printed last" in answer["error"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""],
)
def test_a_name_that_was_made_to_lead_here_is_refused(page: Page, host: str) -> None:
    for method, path in (("GET", "/demo/state"), ("GET", "/pick"), ("POST", "/demo/train")):
        status, _ = page.ask(method, path, Host=host.format(port=page.port))
        assert status == 403


def test_localhost_is_this_machine(page: Page) -> None:
    assert page.get("/demo/state", Host=f"localhost:{page.port}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_another_page_changes_nothing(
    page: Page, studio: Studio, candidates: Any, headers: dict[str, str]
) -> None:
    before = votes(studio)
    sent = {name: value.format(port=page.port) for name, value in headers.items()}
    vote = best_worst(candidates, "foreign")
    assert page.post("/dpo/sessions/picks-0/votes", vote, **sent)[0] == 403
    assert votes(studio) == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_taken(page: Page, studio: Studio, candidates: Any, kind: str) -> None:
    before = votes(studio)
    vote = best_worst(candidates, "form")
    assert page.post("/dpo/sessions/picks-0/votes", vote, Content_Type=kind)[0] == 415
    assert page.post("/dpo/sessions/picks-0/votes", b"{torn")[0] == 400
    assert page.post("/dpo/sessions/picks-0/votes", b"[]")[0] == 400
    assert votes(studio) == before


def test_a_body_too_large_is_not_read(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        head = (
            f"POST /{page.token}/demo/train HTTP/1.1\r\nHost: {page.host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
        )
        connection.sendall(head.encode())  # and nothing of what it announces
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_body_of_no_length_and_other_methods_are_refused(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        head = (
            f"POST /{page.token}/demo/train HTTP/1.1\r\nHost: {page.host}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 411")
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert page.ask(method, "/demo/state")[0] == 501


def test_it_listens_to_this_machine_alone(page: Page) -> None:
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", page.port), timeout=2)


def test_reading_changes_nothing_and_a_vote_is_on_the_disk_when_it_is_answered(
    page: Page, studio: Studio, candidates: Any
) -> None:
    before = votes(studio)
    place = f"/dpo/sessions/picks-0/sets/{candidates.id}"
    for path in ("/pick", "/demo/state", "/dpo/sessions/picks-0/sets", place, "/demo/more"):
        page.get(path)
    assert votes(studio) == before

    status, view = page.post("/dpo/sessions/picks-0/votes", best_worst(candidates, "v1"))
    assert status == 200 and votes(studio).count('"v1"') == 1
    images = [image.id for image in candidates.images]
    assert [(p["chosen"], p["rejected"]) for p in view["pairs"]] == [(images[0], images[1])]
    state = page.get("/demo/state")[1]
    assert state["pairs"] == 1 and state["groups"] == [{"set_id": candidates.id, "ranked": True}]

    undo = {"vote_id": "v1", "undo_id": "u1"}
    assert page.post("/dpo/sessions/picks-0/undo", undo)[1]["pairs"] == []
    assert page.get("/demo/state")[1]["groups"] == [{"set_id": candidates.id, "ranked": False}]


def test_an_order_makes_a_pair_of_its_ends(page: Page, candidates: Any) -> None:
    a, b, c, d = (image.id for image in candidates.images)
    vote = {
        "v": 1, "id": "order", "kind": "ranking", "set": candidates.id,
        "order": [[c], [a], [d], [b]],
    }
    pairs = page.post("/dpo/sessions/picks-0/votes?mode=rank", vote)[1]["pairs"]
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [(c, b)]
    assert page.get("/demo/state")[1]["pairs"] == 1
    page.post("/dpo/sessions/picks-0/undo", {"vote_id": "order", "undo_id": "u2"})


def test_a_tournament_is_ranked_once_it_is_played(page: Page, candidates: Any) -> None:
    def ranked() -> bool:
        return bool(page.get("/demo/state")[1]["groups"][0]["ranked"])

    # Four images play four matches, whoever meets whom.
    images = [image.id for image in candidates.images]
    pairs = [(a, b) for i, a in enumerate(images) for b in images[i + 1 :]]
    for number, (left, right) in enumerate(pairs):
        vote = {
            "v": 1, "id": f"m{number}", "kind": "comparison", "set": candidates.id,
            "left": left, "right": right, "result": "left",
        }
        assert not ranked() or number >= 4
        assert page.post("/dpo/sessions/picks-0/votes?mode=side_by_side", vote)[0] == 200
    assert ranked()
    for number in range(len(pairs)):
        undo = {"vote_id": f"m{number}", "undo_id": f"n{number}"}
        page.post("/dpo/sessions/picks-0/undo", undo)
    assert not ranked()


def test_too_few_picks_are_not_trained_on(page: Page, studio: Studio) -> None:
    status, answer = page.post("/demo/train")
    assert status == 409 and "4 pairs are needed" in answer["error"]
    assert page.get("/demo/state")[1]["job"] is None and studio.run.checkpoints() == []


def test_a_port_that_is_taken_is_one_clear_sentence(page: Page) -> None:
    with pytest.raises(ValueError, match=f"Port {page.port} cannot be used .*--port"):
        LocalServer(lambda request: None, page.port)  # type: ignore[arg-type,return-value]
