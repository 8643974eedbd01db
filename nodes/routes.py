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

The answer to a vote is sent when the vote is on the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from server import PromptServer

from ..dpo_core.ranking.requests import RankingRequests
from ..dpo_core.request import RequestRefused
from .answering import Answer, Handler, answered, body_of, off_the_loop
from .comparison_routes import add_comparison_routes
from .curation_routes import add_curation_routes
from .host.sessions import ranking_requests
from .host.user import user_of_request
from .host.waiting import WAITING_ROOM
from .review_routes import add_review_routes
from .run_routes import add_run_routes
from .training_routes import add_training_routes


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
    add_comparison_routes(server.routes)
    add_run_routes(server.routes)
    add_training_routes(server.routes)
    add_curation_routes(server.routes)
    add_review_routes(server.routes)


def add_routes(routes: web.RouteTableDef) -> None:
    routes.get("/dpo/sessions")(_answered(_sessions))
    routes.get("/dpo/sessions/{session}/sets")(_answered(_sets))
    routes.get("/dpo/sessions/{session}/sets/{set_id}")(_answered(_set))
    routes.post("/dpo/sessions/{session}/votes")(_answered(_vote))
    routes.post("/dpo/sessions/{session}/undo")(_answered(_undo))
    routes.get("/dpo/waiting")(_answered(_waiting))
    routes.post("/dpo/waiting/{prompt_id}/{node}/done")(_answered(_done))


def _answered(answer: Callable[[web.Request], Awaitable[Answer]]) -> Handler:
    async def seen(request: web.Request) -> Answer:
        WAITING_ROOM.seen()
        return await answer(request)

    return answered(seen, "session")


async def _sessions(request: web.Request) -> Answer:
    return await off_the_loop(_requests(request).sessions)


def _requests(request: web.Request) -> RankingRequests:
    return ranking_requests(user_of_request(request))


async def _sets(request: web.Request) -> Answer:
    return await off_the_loop(_requests(request).sets, request.match_info["session"])


async def _set(request: web.Request) -> Answer:
    names = request.match_info
    return await off_the_loop(
        _requests(request).set, names["session"], names["set_id"], request.query
    )


async def _vote(request: web.Request) -> Answer:
    body = await body_of(request)
    session = request.match_info["session"]
    return await off_the_loop(_requests(request).vote, session, body, request.query)


async def _undo(request: web.Request) -> Answer:
    body = await body_of(request)
    session = request.match_info["session"]
    return await off_the_loop(_requests(request).undo, session, body, request.query)


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
    await body_of(request)
    names, user = request.match_info, user_of_request(request)
    if not WAITING_ROOM.release(names["prompt_id"], names["node"], user):
        raise RequestRefused(404, "This node does not wait; it may have gone on already.")
    return {"ok": True}
