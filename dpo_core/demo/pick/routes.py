"""Addresses of the page and what answers them.

| request | answer |
|---|---|
| GET / | the page, and the files it consists of |
| GET /images/{session}/{id}.png | an image of a session |
| GET /pictures/{id}.png | a picture drawn before or after the training |
| GET /dpo/sessions/{session}/sets | as in ComfyUI, and so the next three |
| GET /dpo/sessions/{session}/sets/{set_id} | |
| POST /dpo/sessions/{session}/votes | |
| POST /dpo/sessions/{session}/undo | |
| GET /demo/state | everything else the page shows |
| POST /demo/train | trains on the picks |
| POST /demo/more | draws more groups |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...ranking.image_store import ImageStore
from ...ranking.session_name import SessionNameError
from ...request import RequestRefused, within
from .local_server import Reply, Request
from .page_files import PageFiles
from .studio import Studio


class Routes:
    """Answers a page's requests. Raises RequestRefused."""

    def __init__(self, studio: Studio, files: PageFiles) -> None:
        self._studio, self._files = studio, files

    def __call__(self, request: Request) -> Reply:
        if request.method == "POST":
            return Reply.of(self._post(request))
        match request.path:
            case ("images", session, name):
                return self._session_image(session, name)
            case ("pictures", name):
                pictures = self._studio.pictures
                return _image(pictures, name, pictures.folder)
            case ("dpo", "sessions", session, "sets"):
                return Reply.of(self._studio.requests.sets(session))
            case ("dpo", "sessions", session, "sets", set_id):
                return Reply.of(self._studio.requests.set(session, set_id, request.query))
            case ("demo", "state"):
                return Reply.of(self._studio.state())
        if (file := self._files.read(request.path)) is None:
            raise _nothing()
        return Reply(*file)

    def _post(self, request: Request) -> dict[str, Any]:
        studio = self._studio
        match request.path:
            case ("dpo", "sessions", session, "votes"):
                return studio.requests.vote(session, request.body, request.query)
            case ("dpo", "sessions", session, "undo"):
                return studio.requests.undo(session, request.body, request.query)
            case ("demo", "train"):
                studio.train()
            case ("demo", "more"):
                studio.more()
            case _:
                raise _nothing()
        return studio.state()

    def _session_image(self, session: str, name: str) -> Reply:
        store = self._studio.store
        try:
            images = store.session(session).images if session in store.names() else None
        except SessionNameError:
            images = None
        if images is None:
            raise _nothing()
        return _image(images, name, store.root)


def _image(images: ImageStore, name: str, root: Path) -> Reply:
    """An image by `<id>.png`; a link that leads out of `root` is none."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or suffix != "png":
        raise _nothing()
    try:
        file = images.path(stem)
    except ValueError as error:
        raise _nothing() from error
    if not within(root, file):
        raise _nothing()
    return Reply(file.read_bytes(), "image/png", lasting=True)


def _nothing() -> RequestRefused:
    return RequestRefused(404, "There is nothing here.")
