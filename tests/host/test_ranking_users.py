"""Ranking in a ComfyUI that runs for several users."""

from __future__ import annotations

import io
import uuid
from typing import Any

import pytest
from hostkit.judging import judge, judging
from hostkit.ranking import ranking, shown_set
from hostkit.server import ComfyServer, Reply, RunResult
from hostkit.workflows import node
from PIL import Image


@pytest.fixture(scope="module")
def server(shared_server: ComfyServer) -> ComfyServer:
    return shared_server


@pytest.fixture(scope="module")
def users(server: ComfyServer) -> tuple[str, str]:
    anna, ben = (server.post("/users", {"username": name}).json() for name in ("anna", "ben"))
    return anna, ben


def asked(server: ComfyServer, path: str, user: str | None) -> Reply:
    return server.get(path, {} if user is None else {"Comfy-User": user})


def shown_to(server: ComfyServer, user: str, seed: int, **value: Any) -> dict[str, Any]:
    return shown_set(ranked(server, user, seed, **value))


def ranked(server: ComfyServer, user: str, seed: int, **value: Any) -> RunResult:
    prompt = ranking("default", seed=seed, ranking={"user": user, **value})
    prompt["pairs"]["inputs"]["folder"] = f"pairs of {user}"
    return server.queue(prompt)


def test_each_user_has_sessions_and_images_of_their_own(
    server: ComfyServer, users: tuple[str, str]
) -> None:
    anna, ben = users
    of_anna, of_ben = shown_to(server, anna, 1), shown_to(server, ben, 2)
    path = f"/dpo/sessions/default/sets/{of_anna['set_id']}"
    view = asked(server, path, anna).json()
    assert asked(server, path, ben).status == 404
    for image in view["images"]:
        assert server.get(image["url"]).status == 200

    ids = [image["id"] for image in view["images"]]
    vote = {
        "v": 1, "id": str(uuid.uuid4()), "kind": "best_worst", "set": of_anna["set_id"],
        "best": ids[0], "worst": ids[1],
    }  # fmt: skip
    votes = "/dpo/sessions/default/votes"
    assert server.post(votes, vote, {"Comfy-User": ben}).status == 400  # no such set of his
    assert server.post(votes, vote, {"Comfy-User": anna}).status == 200

    assert "pairs" in ranked(server, anna, 1).outputs
    assert "pairs" not in ranked(server, ben, 2).outputs
    sessions = [asked(server, "/dpo/sessions", user).json()["sessions"] for user in users]
    assert [one["votes"] for (one,) in sessions] == [1, 0]
    # Whose they are is part of the name, where no page says who asks.
    _, combo = server.object_info("DPOLoadPreferences")["input"]["required"]["session"]
    assert sorted(combo["options"]) == sorted(f"{user}/default" for user in users)
    loaded = server.queue({
        "load": node("DPOLoadPreferences", session=f"{anna}/default"),
        "report": node("PreviewAny", source=["load", 1]),
    })
    assert "1 vote on 1 set" in loaded.outputs["report"]["text"][0]
    assert of_ben["set_id"] != of_anna["set_id"]


def test_who_does_not_say_who_they_are_is_told_to(
    server: ComfyServer, users: tuple[str, str]
) -> None:
    for user in (None, "nobody", "../default", "__system"):
        reply = asked(server, "/dpo/sessions", user)
        assert reply.status == 403 and "several users" in reply.json()["error"]
        value = {} if user is None else {"user": user}
        result = server.queue(ranking("default", seed=3, ranking=value))
        assert result.status == "error" and "several users" in result.error
    folder = server.base_dir / "output" / "dpo"
    assert sorted(path.name for path in folder.iterdir()) == ["users"]
    assert sorted(path.name for path in (folder / "users").iterdir()) == sorted(users)


def test_a_node_waits_for_its_own_user(server: ComfyServer, users: tuple[str, str]) -> None:
    anna, ben = users
    prompt = ranking("default", seed=5, wait=True, ranking={"user": anna})
    prompt_id = server.submit(prompt)
    server.wait_for_event("dpo.set", prompt_id=prompt_id)
    assert asked(server, "/dpo/waiting", ben).json() == {"waiting": []}
    assert len(asked(server, "/dpo/waiting", anna).json()["waiting"]) == 1
    done = f"/dpo/waiting/{prompt_id}/rank/done"
    assert server.post(done, {}, {"Comfy-User": ben}).status == 404
    assert server.post(done, {}, {"Comfy-User": anna}).status == 200
    assert server.wait(prompt_id, timeout=30).status == "success"


def test_a_judge_keeps_what_it_says_in_the_session_of_the_user_it_names(
    server: ComfyServer, users: tuple[str, str]
) -> None:
    anna, _ = users
    refused = server.queue(judging("mine", judge("contrast")))
    assert "write whose session this is before its name" in refused.error and anna in refused.error
    prompt = judging(f"{anna}/mine", judge("contrast"))
    prompt["pairs"]["inputs"]["folder"] = "mine"
    result = server.queue(prompt)
    (shown, *_) = result.outputs["judged"]["images"]
    assert Image.open(io.BytesIO(server.image(shown))).size == (16, 16)
    assert asked(server, "/dpo/sessions", anna).json()["sessions"][-1]["name"] == "mine"
