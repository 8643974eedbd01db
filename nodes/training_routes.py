"""HTTP for the live chart: GET /dpo/training tells where every training that runs stands.

So a page that was reloaded, or opened in the middle, finds the node that trains. The rows are those
of the run: GET /dpo/runs/{id}/metrics.
"""

from __future__ import annotations

from aiohttp import web

from .answering import Answer, answered
from .host.live_metrics import training_now


def add_training_routes(routes: web.RouteTableDef) -> None:
    routes.get("/dpo/training")(answered(_training, "training"))


async def _training(request: web.Request) -> Answer:
    return {"training": training_now()}
