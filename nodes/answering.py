"""Answers to HTTP requests below `/dpo`: JSON in, JSON out, refusals in one form.

Refused requests have a status from 400 on and `{"error": one sentence, "problems": [...]}`. Other
sites are kept out by the host, and by the content type: a form or a script of theirs cannot send it
without being asked about first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from ..dpo_core.request import MAX_BODY_BYTES, RequestRefused, read_body
from .host.user import UnknownUser

Answer = Mapping[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answered(answer: Callable[[web.Request], Awaitable[Answer]], noun: str) -> Handler:
    """A handler that sends what ``answer`` gives.

    Args:
        answer: raises RequestRefused, UnknownUser or OSError.
        noun: what could not be read where the disk is at fault.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        status = 200
        try:
            data = await answer(request)
        except RequestRefused as refused:
            status, data = refused.status, refused.answer()
        except UnknownUser as error:
            status, data = 403, {"error": str(error), "problems": []}
        except OSError as error:
            logging.exception("DPO: a %s could not be read", noun)
            status = 500
            data = {"error": f"The {noun} could not be read ({error.strerror}).", "problems": []}
        return web.json_response(data, status=status, headers={"Cache-Control": "no-store"})

    return handler


async def body_of(request: web.Request) -> Mapping[str, Any]:
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


async def off_the_loop(answer: Callable[..., Answer], *arguments: Any) -> Answer:
    """Disks may be slow and locks held: the server goes on meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(None, answer, *arguments)
