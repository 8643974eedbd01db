"""Whose choices these are, where ComfyUI keeps several users apart (``--multi-user``).

Like ComfyUI itself this keeps the work of people who trust each other apart; it is no lock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

EVERYBODY = ""
"""The user where there is only one."""

_USER = re.compile(r"[A-Za-z0-9_-]{1,200}")


class UnknownUser(ValueError):
    """Nobody of that name uses this ComfyUI."""


def users() -> list[str]:
    """The ids of all users."""
    if not args.multi_user:
        return [EVERYBODY]
    return sorted(filter(_USER.fullmatch, PromptServer.instance.user_manager.users))


def user_of_request(request: web.Request) -> str:
    """The user a page's request names in its header. Raises UnknownUser."""
    if not args.multi_user:
        return EVERYBODY
    try:
        return _known(PromptServer.instance.user_manager.get_request_user_id(request))
    except KeyError as error:
        raise UnknownUser("This ComfyUI has several users: say who you are and reload.") from error


def user_of_ranking(ranking: Mapping[str, Any]) -> str:
    """The user that a `ranking` input names. Raises UnknownUser."""
    return _known(ranking.get("user")) if args.multi_user else EVERYBODY


def user_and_session(text: str) -> tuple[str, str]:
    """Whose session a node without a `ranking` input names, and its name: ``user/name``.

    Raises:
        UnknownUser: there are several users, and none of them is named.
    """
    if not args.multi_user:
        return EVERYBODY, text
    user, _, name = text.rpartition("/")
    if user not in users():
        raise UnknownUser(
            "This ComfyUI has several users: write whose session this is before its name, with a "
            f"slash between them. The users are {', '.join(users()) or 'not known yet'}."
        )
    return user, name


def _known(user: Any) -> str:
    if user not in users():
        raise UnknownUser(
            "This ComfyUI has several users, and the input `ranking` does not say whose choices "
            'these are. Reload the page; a script gives {"user": id}.'
        )
    return str(user)
