"""The preference sessions of this ComfyUI, each open once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlencode

from ...dpo_core.ranking.requests import RankingRequests
from ...dpo_core.ranking.session import Session, SessionStore
from ...dpo_core.ranking.session_name import SessionNameError, session_name
from .folders import sessions_folder
from .user import users


def session_paths() -> list[str]:
    """All sessions: names, after the user and a slash where there are several."""
    return [
        f"{user}/{name}" if user else name
        for user in users()
        for name in _store(sessions_folder(user)).names()
    ]


def session_at(path: str) -> Session:
    """A session of :func:`session_paths`. Raises SessionNameError."""
    user, slash, name = path.rpartition("/")
    if slash and user not in users():
        raise SessionNameError(f"There is no session {path!r}.")
    return open_session(name, user)


def ranking_requests(user: str) -> RankingRequests:
    """Answers to what a user's page asks of the sessions."""
    return _requests(user, sessions_folder(user))


def has_session(name: str, user: str) -> bool:
    """True if there is a session of that name. Raises SessionNameError."""
    return session_name(name) in _store(sessions_folder(user)).names()


def open_session(name: str, user: str) -> Session:
    """A session, which need not exist yet.

    Raises:
        SessionNameError: the name is none, or its folder leads elsewhere.
    """
    store = _store(sessions_folder(user))
    session, root = store.session(name), store.root.resolve()
    images, latents = session.images, session.latents
    for folder in (session.folder, images.folder, images.thumbnails.folder, latents.folder):
        if not folder.resolve().is_relative_to(root):
            raise SessionNameError(
                f"The folder {folder} is a link that leads out of {root}. Put the folder itself "
                "there, or use another session."
            )
    return session


@lru_cache
def _store(root: Path) -> SessionStore:
    return SessionStore(root)


def session_urls(user: str) -> tuple[Callable[[str, str], str], Callable[[str, str], str]]:
    """Where ComfyUI serves an image of a session, and its thumbnail, below its own address."""

    def url(session: str, folder: str, file: str) -> str:
        sessions = f"dpo/users/{user}/sessions" if user else "dpo/sessions"
        place = {"type": "output", "subfolder": f"{sessions}/{session}/{folder}", "filename": file}
        return "/view?" + urlencode(place)

    return (
        lambda session, image: url(session, "images", f"{image}.png"),
        lambda session, image: url(session, "thumbnails", f"{image}.webp"),
    )


@lru_cache
def _requests(user: str, root: Path) -> RankingRequests:
    return RankingRequests(_store(root), *session_urls(user))
