"""The preference sessions of this ComfyUI, each open once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import urlencode

from ...dpo_core.ranking.requests import RankingRequests
from ...dpo_core.ranking.session import Session, SessionStore
from ...dpo_core.ranking.session_name import SessionNameError
from .folders import sessions_folder


def session_store() -> SessionStore:
    """All sessions below the output folder."""
    return _store(sessions_folder())


def ranking_requests() -> RankingRequests:
    """Answers to what a page asks of these sessions."""
    return _requests(sessions_folder())


def open_session(name: str) -> Session:
    """A session, which need not exist yet.

    Raises:
        SessionNameError: the name is none, or its folder leads elsewhere.
    """
    session = session_store().session(name)
    root = session_store().root.resolve()
    folders = (session.folder, session.images.folder, session.images.thumbnails.folder)
    for folder in folders:
        if not folder.resolve().is_relative_to(root):
            raise SessionNameError(
                f"The folder {folder} is a link that leads out of {root}. Put the folder itself "
                "there, or use another session."
            )
    return session


@lru_cache
def _store(root: Path) -> SessionStore:
    return SessionStore(root)


@lru_cache
def _requests(root: Path) -> RankingRequests:
    return RankingRequests(_store(root), image_url, thumbnail_url)


def image_url(session: str, image_id: str) -> str:
    """Where ComfyUI serves an image of a session, below its own address."""
    return _view_url(session, "images", f"{image_id}.png")


def thumbnail_url(session: str, image_id: str) -> str:
    """Where ComfyUI serves an image's thumbnail, below its own address."""
    return _view_url(session, "thumbnails", f"{image_id}.webp")


def _view_url(session: str, folder: str, file: str) -> str:
    place = {"type": "output", "subfolder": f"dpo/sessions/{session}/{folder}", "filename": file}
    return "/view?" + urlencode(place)
