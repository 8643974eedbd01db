"""HTTP for the Runs panel and the chart: `/dpo/runs/...`, each also below `/api`.

| request | answer |
|---|---|
| GET /dpo/runs | all runs, the one last changed first |
| GET /dpo/runs/{id} | one run: settings, files, what it goes on from, its LoRAs and model card |
| GET /dpo/runs/{id}/metrics?after=STEP&most=N | rows of metrics, of the runs before it as well |
| POST /dpo/runs/{id}/delete | removes the run; `{"id": id, "continued_by": [ids]}` confirms |

Runs belong to everybody who uses this ComfyUI, as its models do.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import urlencode

import folder_paths
from aiohttp import web

from ..dpo_core.runs.pictures import PREVIEWS
from ..dpo_core.runs.requests import RunRequests
from ..dpo_core.runs.run_store import RunStore
from .answering import Answer, answered, body_of, off_the_loop
from .host.folders import runs_folder
from .host.run_diary import IN_TRAINING


def add_run_routes(routes: web.RouteTableDef) -> None:
    routes.get("/dpo/runs")(answered(_runs, "run"))
    routes.get("/dpo/runs/{run}")(answered(_run, "run"))
    routes.get("/dpo/runs/{run}/metrics")(answered(_metrics, "run"))
    routes.post("/dpo/runs/{run}/delete")(answered(_delete, "run"))


async def _runs(request: web.Request) -> Answer:
    return await off_the_loop(_requests().runs)


async def _run(request: web.Request) -> Answer:
    return await off_the_loop(_requests().run, request.match_info["run"])


async def _metrics(request: web.Request) -> Answer:
    return await off_the_loop(_requests().metrics, request.match_info["run"], request.query)


async def _delete(request: web.Request) -> Answer:
    body = await body_of(request)
    return await off_the_loop(_requests().delete, request.match_info["run"], body)


def _requests() -> RunRequests:
    return _requests_of(runs_folder(), Path(folder_paths.get_output_directory()))


@lru_cache
def _requests_of(runs: Path, output: Path) -> RunRequests:
    def url(run: str, file: str) -> str:
        """Where ComfyUI serves a picture of a run, below its own address."""
        folder = f"dpo/runs/{run}/{PREVIEWS}"
        return "/view?" + urlencode({"type": "output", "subfolder": folder, "filename": file})

    return RunRequests(RunStore(runs), IN_TRAINING, output, url)
