"""Ranking as the widget does it: over HTTP, against a running server."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, node


def noise(seed: int, batch: int = 4, height: int = 16, width: int = 16) -> dict[str, Any]:
    """A node that gives a batch of different images."""
    return node("TestRandomImages", batch=batch, height=height, width=width, seed=seed)


def rank(images: list[Any], session: str, **inputs: Any) -> dict[str, Any]:
    """DPORankImages with its defaults; `inputs` replace and add."""
    settings: dict[str, Any] = {
        "images": images,
        "session": session,
        "mode": "best_worst",
        "use": "session",
        "pairs_per_group": 1,
        "wait": False,
    }
    return node("DPORankImages", **(settings | inputs))


def ranking(session: str, seed: int = 0, batch: int = 4, **inputs: Any) -> Prompt:
    """A batch of noise to rank; ids: images, rank, and what becomes of each output.

    `pairs` exports to output/<session>; `best` and `ranked` are saved below `best` and `ranked`.
    """
    return {
        "images": noise(seed, batch),
        "rank": rank(["images", 0], session, **inputs),
        "pairs": node("DPOExportPairFolder", pairs=["rank", 0], folder=session),
        "best": node("SaveImage", images=["rank", 1], filename_prefix=f"best/{session}"),
        "ranked": node("SaveImage", images=["rank", 2], filename_prefix=f"ranked/{session}"),
    }


def shown_set(result: RunResult, node_id: str = "rank") -> dict[str, Any]:
    """What the node tells the widget to show."""
    assert result.status == "success", result.error
    (shown,) = result.outputs[node_id]["dpo_set"]
    return shown


def get_set(server: ComfyServer, session: str, set_id: str, query: str = "") -> dict[str, Any]:
    """A set as the widget gets it."""
    reply = server.get(f"/dpo/sessions/{quote(session)}/sets/{set_id}{query}")
    assert reply.status == 200, reply.body
    return reply.json()


def image_ids(view: Mapping[str, Any]) -> list[str]:
    return [image["id"] for image in view["images"]]


def post_vote(server: ComfyServer, session: str, vote: Mapping[str, Any]) -> dict[str, Any]:
    """Posts a vote under a new id; the set after it."""
    body = {"v": 1, "id": str(uuid.uuid4()), **vote}
    reply = server.post(f"/dpo/sessions/{quote(session)}/votes", body)
    assert reply.status == 200, reply.body
    return reply.json()


def pick(
    server: ComfyServer, shown: Mapping[str, Any], best: int = 0, worst: int = 1
) -> dict[str, Any]:
    """Picks best and worst of a set by number; the widget's value afterwards."""
    session, set_id = shown["session"], shown["set_id"]
    ids = image_ids(get_set(server, session, set_id))
    vote = {"kind": "best_worst", "set": set_id, "best": ids[best], "worst": ids[worst]}
    return widget_value(post_vote(server, session, vote), shown["mode"])


def widget_value(view: Mapping[str, Any], mode: str = "best_worst") -> dict[str, Any]:
    """What the widget keeps after a vote."""
    return {
        "v": 1,
        "session": view["session"],
        "set_id": view["set_id"],
        "mode": mode,
        "revision": view["revision"],
    }
