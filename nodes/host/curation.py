"""The scanned folders of this ComfyUI and the review of pairs, for each user once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import urlencode

import folder_paths

from ...dpo_core.curation.curation import Curation, CurationStore
from ...dpo_core.curation.requests import CurationRequests
from ...dpo_core.curation.review_requests import ImageUrls, ReviewRequests
from ...dpo_core.ranking.session import Session, SessionState
from .folders import curation_folder, readable_folder
from .sessions import has_session, open_session, ranking_requests, session_urls


def curation_requests(user: str) -> CurationRequests:
    """Answers to what a user's page asks of folders."""
    return _answers(user, curation_folder(user))[0]


def review_requests(user: str) -> ReviewRequests:
    """Answers to what a user's page asks of pairs under review."""
    return _answers(user, curation_folder(user))[1]


@lru_cache
def _answers(user: str, root: Path) -> tuple[CurationRequests, ReviewRequests]:
    # Images that are ranked already, previews of runs and thumbnails are no generations.
    ours = Path(folder_paths.get_output_directory()).resolve() / "dpo"
    store = CurationStore(root, [ours])

    def session_state(name: str) -> SessionState | None:
        return open_session(name, user).state() if has_session(name, user) else None

    def known_session(name: str) -> Session:
        if not has_session(name, user):
            raise KeyError(name)
        return open_session(name, user)

    def image_url(scan: str, image: str, small: bool) -> str:
        path = f"/dpo/curation/scans/{scan}/images/{image}{'/thumbnail' if small else ''}"
        return path + ("?" + urlencode({"user": user}) if user else "")

    def changes(curation: Curation) -> bool:
        return not curation.folder.is_relative_to(ours)

    folders = CurationRequests(
        store,
        readable_folder,
        lambda name: open_session(name, user),
        session_state,
        ranking_requests(user).set,
        image_url,
    )
    urls = ImageUrls(*session_urls(user), image_url)
    return folders, ReviewRequests(folders.curation, store, known_session, changes, urls)
