"""HTTP for the curation panel: `/dpo/curation/...`, each also below `/api`.

docs/curation_api.md says what is in them.

| request | answer |
|---|---|
| GET /dpo/curation/scans | the folders that were looked at |
| POST /dpo/curation/scans | looks at `folder`, or looks again |
| GET /dpo/curation/scans/{scan} | how far that is |
| POST /dpo/curation/scans/{scan}/stop | stops it |
| GET /dpo/curation/scans/{scan}/problems | images that cannot be used |
| GET /dpo/curation/scans/{scan}/groups | a page of groups, as a session has them |
| GET /dpo/curation/scans/{scan}/groups/{group} | one group with its images |
| POST /dpo/curation/scans/{scan}/groups/{group}/open | a set of `session`, as the widget gets it |
| POST /dpo/curation/scans/{scan}/groups/{group}/skip | not now |
| POST /dpo/curation/scans/{scan}/groups/{group}/finish | enough of it |
| POST /dpo/curation/scans/{scan}/groups/{group}/prompt | gives its images a prompt |
| POST /dpo/curation/scans/{scan}/undo | takes one of the last three back |
| GET /dpo/curation/scans/{scan}/images/{image} | an image's file |
| GET /dpo/curation/scans/{scan}/images/{image}/thumbnail | its small copy |

Images are named by ids of the scan, never by a path. What a folder's files say is sent as JSON or
as an image of the type it was found to be, and as nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from ..dpo_core.curation.requests import CurationRequests, ImageFile
from ..dpo_core.request import RequestRefused
from .answering import Answer, answered, body_of, off_the_loop
from .host.curation import curation_requests
from .host.user import UnknownUser, user_of_ranking, user_of_request

_SCANS = "/dpo/curation/scans"
_SCAN = f"{_SCANS}/{{scan}}"
_GROUP = f"{_SCAN}/groups/{{group}}"
_IMAGE = f"{_SCAN}/images/{{image}}"
_IMAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The id is another one when the file has changed.
    "Cache-Control": "private, max-age=86400, immutable",
}


def add_curation_routes(routes: web.RouteTableDef) -> None:
    routes.get(_SCANS)(answered(_scans, "folder"))
    routes.post(_SCANS)(answered(_start, "folder"))
    routes.get(_SCAN)(answered(_scan, "folder"))
    routes.post(f"{_SCAN}/stop")(answered(_stop, "folder"))
    routes.get(f"{_SCAN}/problems")(answered(_problems, "folder"))
    routes.get(f"{_SCAN}/groups")(answered(_groups, "folder"))
    routes.get(_GROUP)(answered(_group, "folder"))
    routes.post(f"{_GROUP}/open")(answered(_open, "folder"))
    routes.post(f"{_GROUP}/skip")(answered(_set_aside("skipped"), "folder"))
    routes.post(f"{_GROUP}/finish")(answered(_set_aside("finished"), "folder"))
    routes.post(f"{_GROUP}/prompt")(answered(_prompt, "folder"))
    routes.post(f"{_SCAN}/undo")(answered(_undo, "folder"))
    routes.get(_IMAGE)(_sent(CurationRequests.image_file))
    routes.get(f"{_IMAGE}/thumbnail")(_sent(CurationRequests.thumbnail_file))


async def _scans(request: web.Request) -> Answer:
    return await off_the_loop(_requests(request).scans)


async def _start(request: web.Request) -> Answer:
    return await off_the_loop(_requests(request).start, await body_of(request))


async def _scan(request: web.Request) -> Answer:
    return await off_the_loop(_requests(request).scan, request.match_info["scan"])


async def _stop(request: web.Request) -> Answer:
    await body_of(request)
    return await off_the_loop(_requests(request).stop, request.match_info["scan"])


async def _problems(request: web.Request) -> Answer:
    return await off_the_loop(_requests(request).problems, request.match_info["scan"])


async def _groups(request: web.Request) -> Answer:
    scan = request.match_info["scan"]
    return await off_the_loop(_requests(request).groups, scan, request.query)


async def _group(request: web.Request) -> Answer:
    names = request.match_info
    return await off_the_loop(
        _requests(request).group, names["scan"], names["group"], request.query
    )


async def _open(request: web.Request) -> Answer:
    body, names = await body_of(request), request.match_info
    return await off_the_loop(
        _requests(request).open_group, names["scan"], names["group"], body, request.query
    )


def _set_aside(kind: str) -> Callable[[web.Request], Awaitable[Answer]]:
    async def answer(request: web.Request) -> Answer:
        body, names = await body_of(request), request.match_info
        return await off_the_loop(
            _requests(request).set_aside, names["scan"], names["group"], kind, body
        )

    return answer


async def _prompt(request: web.Request) -> Answer:
    body, names = await body_of(request), request.match_info
    return await off_the_loop(
        _requests(request).give_prompt, names["scan"], names["group"], body
    )


async def _undo(request: web.Request) -> Answer:
    body = await body_of(request)
    return await off_the_loop(_requests(request).undo, request.match_info["scan"], body)


def _sent(
    file_of: Callable[[CurationRequests, str, str], ImageFile],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        names = request.match_info
        try:
            requests = curation_requests(_viewer(request))
            found = await asyncio.get_running_loop().run_in_executor(
                None, file_of, requests, names["scan"], names["image"]
            )
        except RequestRefused as refused:
            return web.json_response(refused.answer(), status=refused.status)
        except UnknownUser as error:
            return web.json_response({"error": str(error), "problems": []}, status=403)
        except OSError:
            gone = {"error": "This image cannot be read.", "problems": []}
            return web.json_response(gone, status=404)
        headers = {**_IMAGE_HEADERS, "Content-Type": found.content_type}
        return web.FileResponse(found.path, headers=headers)

    return handler


def _viewer(request: web.Request) -> str:
    """A page's images are asked for without its headers: the address says whose they are."""
    user = request.query.get("user")
    return user_of_request(request) if user is None else user_of_ranking({"user": user})


def _requests(request: web.Request) -> CurationRequests:
    return curation_requests(user_of_request(request))
