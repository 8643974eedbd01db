"""HTTP for the review of pairs: `/dpo/curation/...`, each also below `/api`.

`{pairs}` is `sessions/{session}/pairs` or, for a scanned pair folder, `scans/{scan}/pairs`.
docs/curation_api.md says what is in them.

| request | answer |
|---|---|
| GET /dpo/curation/{pairs} | a page of pairs |
| GET /dpo/curation/{pairs}/statistics | distributions, and what is worth a look |
| GET /dpo/curation/{pairs}/orphans | what is gone, or has no partner |
| GET /dpo/curation/{pairs}/edits | what was changed and can be taken back |
| POST /dpo/curation/{pairs}/edits | changes a pair |
| POST /dpo/curation/{pairs}/undo | takes a change back |

The answer to a change is sent when it is on the disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from ..dpo_core.curation.review_requests import ReviewRequests
from .answering import Answer, answered, body_of, off_the_loop
from .host.curation import review_requests
from .host.user import user_of_request

_Ask = Callable[[ReviewRequests, str, Mapping[str, str]], Answer]
_Change = Callable[[ReviewRequests, str, Mapping[str, Any], Mapping[str, str]], Answer]


def add_review_routes(routes: web.RouteTableDef) -> None:
    for name, asked, changed in (
        (
            "session",
            {
                "": ReviewRequests.session_pairs,
                "/statistics": ReviewRequests.session_statistics,
                "/orphans": ReviewRequests.session_orphans,
                "/edits": ReviewRequests.session_edits,
            },
            {"/edits": ReviewRequests.edit_session, "/undo": ReviewRequests.undo_session},
        ),
        (
            "scan",
            {
                "": ReviewRequests.folder_pairs,
                "/statistics": ReviewRequests.folder_statistics,
                "/orphans": ReviewRequests.folder_orphans,
                "/edits": ReviewRequests.folder_edits,
            },
            {"/edits": ReviewRequests.edit_folder, "/undo": ReviewRequests.undo_folder},
        ),
    ):
        path = f"/dpo/curation/{name}s/{{{name}}}/pairs"
        for end, ask in asked.items():
            routes.get(path + end)(answered(_asked(name, ask), name))
        for end, change in changed.items():
            routes.post(path + end)(answered(_changed(name, change), name))


def _asked(name: str, ask: _Ask) -> Callable[[web.Request], Awaitable[Answer]]:
    async def answer(request: web.Request) -> Answer:
        requests = review_requests(user_of_request(request))
        return await off_the_loop(ask, requests, request.match_info[name], request.query)

    return answer


def _changed(name: str, change: _Change) -> Callable[[web.Request], Awaitable[Answer]]:
    async def answer(request: web.Request) -> Answer:
        body = await body_of(request)
        requests = review_requests(user_of_request(request))
        return await off_the_loop(change, requests, request.match_info[name], body, request.query)

    return answer
