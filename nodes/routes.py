"""HTTP for the ranking widget: `/dpo/...`, each also below `/api`; JSON in, JSON out.

| request | answer |
|---|---|
| GET /dpo/sessions | all sessions |
| GET /dpo/sessions/{session}/sets | the sets of a session, newest first |
| GET /dpo/sessions/{session}/sets/{set_id} | one set: images, votes, pairs, standings |
| POST /dpo/sessions/{session}/votes | stores a vote; the set it was on |
| POST /dpo/sessions/{session}/undo | strikes out `vote_id` by the vote `undo_id`; the set |
| GET /dpo/waiting | nodes that hold the queue |
| POST /dpo/waiting/{prompt_id}/{node}/done | lets one go on |

The answer to a vote is sent when the vote is on the disk. Refused requests have a status from 400
on and `{"error": one sentence, "problems": [...]}`. Other sites are kept out by the host, and by
the content type: a form or a script of theirs cannot send it without being asked about first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from server import PromptServer

from ..dpo_core.ranking.requests import (
    MAX_BODY_BYTES,
    RankingRequests,
    RequestRefused,
    read_body,
)
from .host.sessions import ranking_requests
from .host.user import UnknownUser, user_of_request
from .host.waiting import WAITING_ROOM

Answer = Mapping[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def register_routes() -> None:
    """Adds the routes to the running server; does nothing where there is none, as in tests."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    paths = {getattr(route, "path", None) for route in server.routes}
    if "/dpo/sessions" in paths:  # the host would not start with two of a kind
        logging.warning("DPO: this pack is installed twice. Remove one of the two folders.")
        return
    add_routes(server.routes)


def add_routes(routes: web.RouteTableDef) -> None:
    routes.get("/dpo/sessions")(_answered(_sessions))
    routes.get("/dpo/sessions/{session}/sets")(_answered(_sets))
    routes.get("/dpo/sessions/{session}/sets/{set_id}")(_answered(_set))
    routes.post("/dpo/sessions/{session}/votes")(_answered(_vote))
    routes.post("/dpo/sessions/{session}/undo")(_answered(_undo))
    routes.get("/dpo/waiting")(_answered(_waiting))
    routes.post("/dpo/waiting/{prompt_id}/{node}/done")(_answered(_done))


def _answered(answer: Callable[[web.Request], Awaitable[Answer]]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        WAITING_ROOM.seen()
        status = 200
        try:
            data = await answer(request)
        except RequestRefused as refused:
            status, data = refused.status, refused.answer()
        except UnknownUser as error:
            status, data = 403, {"error": str(error), "problems": []}
        except OSError as error:
            logging.exception("DPO: a session could not be read")
            status = 500
            data = {"error": f"The session could not be read ({error.strerror}).", "problems": []}
        return web.json_response(data, status=status, headers={"Cache-Control": "no-store"})

    return handler


async def _sessions(request: web.Request) -> Answer:
    return await _off_the_loop(_requests(request).sessions)


def _requests(request: web.Request) -> RankingRequests:
    return ranking_requests(user_of_request(request))


async def _sets(request: web.Request) -> Answer:
    return await _off_the_loop(_requests(request).sets, request.match_info["session"])


async def _set(request: web.Request) -> Answer:
    names = request.match_info
    return await _off_the_loop(
        _requests(request).set, names["session"], names["set_id"], request.query
    )


async def _vote(request: web.Request) -> Answer:
    body = await _body(request)
    session = request.match_info["session"]
    return await _off_the_loop(_requests(request).vote, session, body, request.query)


async def _undo(request: web.Request) -> Answer:
    body = await _body(request)
    session = request.match_info["session"]
    return await _off_the_loop(_requests(request).undo, session, body, request.query)


async def _waiting(request: web.Request) -> Answer:
    return {
        "waiting": [
            {
                "node": one.node,
                "prompt_id": one.prompt_id,
                "session": one.session,
                "set_id": one.set_id,
            }
            for one in WAITING_ROOM.waiting(user_of_request(request))
        ]
    }


async def _done(request: web.Request) -> Answer:
    await _body(request)
    names, user = request.match_info, user_of_request(request)
    if not WAITING_ROOM.release(names["prompt_id"], names["node"], user):
        raise RequestRefused(404, "This node does not wait; it may have gone on already.")
    return {"ok": True}


async def _body(request: web.Request) -> Mapping[str, Any]:
    """The JSON object of a request, of which no more is read than may be kept."""
    if request.content_type != "application/json":
        raise RequestRefused(415, "The request's content type must be application/json.")
    data = bytearray()
    if (request.content_length or 0) <= MAX_BODY_BYTES:
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                break
    else:
        raise RequestRefused(413, f"The request is larger than {MAX_BODY_BYTES // 1024} KB.")
    return read_body(bytes(data))


async def _off_the_loop(answer: Callable[..., Answer], *arguments: Any) -> Answer:
    """Disks may be slow and locks held: the server goes on meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(None, answer, *arguments)
