"""HTTP for blind comparisons: `/dpo/...`, each also below `/api`; JSON in, JSON out.

| request | answer |
|---|---|
| GET /dpo/sessions/{session}/comparisons/{comparison} | how far it is, and what counts |
| POST /dpo/sessions/{session}/comparisons/{comparison}/reveal | whose the judged pictures are |
"""

from __future__ import annotations

from aiohttp import web

from ..dpo_core.comparison.answer_key import KEY_NAME
from ..dpo_core.comparison.requests import ComparisonRequests
from ..dpo_core.ranking.session_name import SessionNameError, session_name
from ..dpo_core.request import RequestRefused, within
from .answering import Answer, answered, body_of, off_the_loop
from .host.folders import sessions_folder
from .host.sessions import open_session, session_urls
from .host.user import user_of_request

PATH = "/dpo/sessions/{session}/comparisons/{comparison}"


def add_comparison_routes(routes: web.RouteTableDef) -> None:
    routes.get(PATH)(answered(_comparison, "session"))
    routes.post(f"{PATH}/reveal")(answered(_reveal, "session"))


async def _comparison(request: web.Request) -> Answer:
    return await off_the_loop(_state, *_named(request))


async def _reveal(request: web.Request) -> Answer:
    await body_of(request)
    return await off_the_loop(_revealed, *_named(request))


def _named(request: web.Request) -> tuple[str, str, str]:
    names = request.match_info
    return user_of_request(request), names["session"], names["comparison"]


def _state(user: str, session: str, comparison: str) -> Answer:
    return _requests(user, session).state(comparison)


def _revealed(user: str, session: str, comparison: str) -> Answer:
    return _requests(user, session).reveal(comparison)


def _requests(user: str, session: str) -> ComparisonRequests:
    try:
        name, root = session_name(session), sessions_folder(user)
        # Looked for first: asking for names that are not there must not fill the memory.
        if not within(root, root / name / KEY_NAME):
            raise RequestRefused(404, f"The session {name!r} has no blind comparison.")
        return ComparisonRequests(open_session(name, user), *session_urls(user))
    except SessionNameError as error:
        raise RequestRefused(400, str(error)) from error
