"""HTTP for the live chart: GET /dpo/training tells where every training that runs stands.

A page that was reloaded, or opened while a training runs, finds its node with it; the rows are
those of the run: GET /dpo/runs/{id}/metrics.
"""

from __future__ import annotations

from aiohttp import web
from server import PromptServer

from .host.live_metrics import training_now

PATH = "/dpo/training"


def register_training_routes() -> None:
    """Adds the route to the running server; does nothing where there is none, as in tests."""
    server = getattr(PromptServer, "instance", None)
    if server is None or PATH in {getattr(route, "path", None) for route in server.routes}:
        return
    server.routes.get(PATH)(_training)


async def _training(request: web.Request) -> web.StreamResponse:
    return web.json_response(
        {"training": training_now()}, headers={"Cache-Control": "no-store"}
    )
