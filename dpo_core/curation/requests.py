"""What a page asks of scanned folders, in plain data: the same over any web server.

Every answer is a JSON object. A refusal has an HTTP status and says in one sentence what is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metadata.prompt_text import MAX_PROMPT_CHARS, tidy_prompt
from ..pairs.problem import PairError, PairProblem, printable
from ..ranking.session import Session, SessionState
from ..ranking.session_name import SessionNameError
from ..ranking.thumbnails import MAX_SIDE
from ..ranking.vote import DIGEST
from ..ranking.vote_log import LogLockedError
from ..request import Answer, RequestRefused, query_number, within
from .curation import Curation, CurationStore
from .diary import DiaryError
from .found_image import CONTENT_TYPES, MAX_FILE_BYTES, FoundImage
from .groups import Group
from .opening import open_images
from .progress import STATES, GroupProgress, Part, SessionProgress, counts

ORDERS = ("shuffled", "hardest", "largest", "newest")
USUAL_GROUPS, MOST_GROUPS = 50, 500
MAX_SAMPLES = 4
MAX_PROBLEMS = 200
MAX_SEARCH_CHARS = 1000
_BIGGEST = 2**53 - 1


@dataclass(frozen=True)
class ImageFile:
    """A file to be sent, and its content type."""

    path: Path
    content_type: str


class CurationRequests:
    """Answers to what the curation panel asks of folders.

    Args:
        store: the scanned folders.
        readable: the folder that a text names, resolved. Raises ValueError with a sentence for
            one that may not be read.
        open_session: a session by name, which need not exist yet. Raises SessionNameError.
        session_state: what a session holds, None if there is none. Raises SessionNameError.
        shown_set: the ranking widget's answer, of session, set and query.
        image_url: where the page gets an image from, by scan and image; with True, its thumbnail.

    Every method raises RequestRefused.
    """

    def __init__(
        self,
        store: CurationStore,
        readable: Callable[[str], Path],
        open_session: Callable[[str], Session],
        session_state: Callable[[str], SessionState | None],
        shown_set: Callable[[str, str, Mapping[str, str]], Answer],
        image_url: Callable[[str, str, bool], str],
    ) -> None:
        self._store, self._readable = store, readable
        self._open_session, self._session_state = open_session, session_state
        self._shown_set, self._image_url = shown_set, image_url

    def scans(self) -> Answer:
        """All folders that were scanned, the last opened first."""
        return {
            "scans": [
                {"scan": one.id, "folder": printable(str(one.folder)), "opened": one.opened}
                for one in self._store.known()
            ]
        }

    def start(self, body: Mapping[str, Any]) -> Answer:
        """Scans the folder `folder`, or looks again at what has changed in it.

        Args:
            body: `folder`, or `scan` of one that was scanned before.
        """
        text, scan = body.get("folder"), body.get("scan")
        if isinstance(scan, str):
            folder = self.curation(scan).folder
        elif isinstance(text, str):
            folder = self._allowed(text)
        else:
            raise RequestRefused(400, "`folder` must be the folder to look at.")
        curation = self._store.open(folder)
        curation.scan.start()
        return self._told(curation)

    def scan(self, scan: str) -> Answer:
        return self._told(self.curation(scan))

    def stop(self, scan: str) -> Answer:
        curation = self.curation(scan)
        curation.scan.stop()
        return self._told(curation)

    def problems(self, scan: str) -> Answer:
        """Images that cannot be used, and why."""
        curation = self.curation(scan)
        found = [one for one in curation.scan.findings().images.values() if one.problem]
        return {
            "problems": [
                {"name": printable(one.name), "problem": one.problem} for one in found
            ][:MAX_PROBLEMS],
            "total": len(found),
        }

    def groups(self, scan: str, query: Mapping[str, str]) -> Answer:
        """A page of groups, as a session has them.

        Args:
            query: `session`, `state` (of STATES, or `all`), `order` (of ORDERS), `seed` of the
                shuffled order, `search` in prompts, `limit`, `offset`.
        """
        curation = self.curation(scan)
        limit = query_number(query, "limit", USUAL_GROUPS, 1, MOST_GROUPS)
        offset = query_number(query, "offset", 0, 0, _BIGGEST)
        seed = query_number(query, "seed", 0, 0, _BIGGEST)
        state = _one_of(query, "state", ("all", *STATES))
        order = _one_of(query, "order", ORDERS)
        search = query.get("search", "")[:MAX_SEARCH_CHARS].casefold()
        progress = self._progress(curation, query.get("session", ""))
        every = [progress.of(group) for group in curation.groups().values()]
        found = [
            one
            for one in every
            if state in ("all", one.state) and search in (one.group.prompt or "").casefold()
        ]
        _sort(found, order, seed, progress)
        return {
            "scan": self._told(curation),
            "total": len(found),
            "counts": counts(every),
            "images": sum(len(one.group.images) for one in every),
            "copies": sum(len(ids) for one in every for ids in one.group.copies.values()),
            "groups": [self._summary(scan, one) for one in found[offset : offset + limit]],
        }

    def group(self, scan: str, group: str, query: Mapping[str, str]) -> Answer:
        """One group with all its images."""
        curation = self.curation(scan)
        found = self._progress(curation, query.get("session", "")).of(_group(curation, group))
        return self._summary(scan, found) | {
            "images": [self._image(scan, image) for image in found.group.images],
            "folded": {image: list(ids) for image, ids in found.group.copies.items()},
        }

    def open_group(
        self, scan: str, group: str, body: Mapping[str, Any], query: Mapping[str, str]
    ) -> Answer:
        """Gives images of a group to a session; the ranking widget's answer for their set.

        Args:
            body: `session`; `part`, a number of the group's parts, else the first that is not
                ranked.
            query: as for the widget's.
        """
        curation, session = self.curation(scan), self._session(body)
        with curation.opening:
            found = self._progress(curation, session.name).of(_group(curation, group))
            number = _part(found, body.get("part"))
            part = found.parts[number]
            problems: Sequence[str] = ()
            if part.opened is None or not self._is_whole(session, part):
                part, problems = self._give(curation, session, found.group, part)
        opened = part.opened
        if opened is None or part.state == "single":
            raise RequestRefused(
                409, "Fewer than two different images of this group can be read.", problems
            )
        shown = self._shown_set(session.name, opened.set_id, query)
        told = {"scan": scan, "group": group, "part": number, "parts": len(found.parts)}
        return shown | {"curation": told | {"left_out": list(problems)}}

    def set_aside(self, scan: str, group: str, kind: str, body: Mapping[str, Any]) -> Answer:
        """Skips a group, or finishes it early (`kind`), for `session` and under the id `id`."""
        curation, session = self.curation(scan), self._session(body)
        found = _group(curation, group)
        _written(lambda: curation.diary.set_aside(_id(body), kind, session.name, found.id))
        return self._after(curation, session.name, found)

    def give_prompt(self, scan: str, group: str, body: Mapping[str, Any]) -> Answer:
        """Gives `prompt` to a group's images, or to `images` of them, under the id `id`.

        Answers with the group they are in then.
        """
        curation, session = self.curation(scan), str(body.get("session", ""))
        found, prompt = _group(curation, group), body.get("prompt")
        if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT_CHARS:
            raise RequestRefused(400, "`prompt` must be a text, which may be empty.")
        here = {image.id for image in found.images}
        images = body.get("images", sorted(here))
        if not isinstance(images, list) or not images or not here.issuperset(map(str, images)):
            raise RequestRefused(400, "`images` must be images of this group.")
        copies = [copy for image in images for copy in found.copies.get(image, ())]
        given, text = [*images, *copies], tidy_prompt(prompt)
        _written(lambda: curation.diary.give_prompt(_id(body), given, text))
        after = next(one for one in curation.groups().values() if _holds(one, images[0]))
        return self._after(curation, session, after)

    def undo(self, scan: str, body: Mapping[str, Any]) -> Answer:
        """Takes back the skip, finish or prompt `id`; `undo_id` is the id of this."""
        curation = self.curation(scan)
        undo_id = _id(body, "undo_id")
        _written(lambda: curation.diary.undo(_id(body), undo_id))
        return self._told(curation)

    def image_file(self, scan: str, image: str) -> ImageFile:
        """The file of an image as it lies there."""
        curation = self.curation(scan)
        found = _image(curation, image)
        return ImageFile(_file(curation, found), CONTENT_TYPES[found.kind])

    def thumbnail_file(self, scan: str, image: str) -> ImageFile:
        """The small copy of an image; the image itself if that is small."""
        curation = self.curation(scan)
        found = _image(curation, image)
        path = _file(curation, found)
        try:
            small = curation.thumbnail(found)
        except PairError as error:
            raise RequestRefused(422, error.problems[0].what) from error
        if small is None:
            return ImageFile(path, CONTENT_TYPES[found.kind])
        return ImageFile(small, "image/webp")

    def curation(self, scan: str) -> Curation:
        """A scanned folder by its id, if it may still be read."""
        found = self._store.curation(scan)
        if found is None:
            raise RequestRefused(404, "This folder was not looked at yet. Open it again.")
        # Its name lies in a file below output, where uploads may lie, too: so it is asked again.
        if self._allowed(str(found.folder)) != found.folder:
            raise RequestRefused(403, "This folder now leads elsewhere. Open it again.")
        return found

    def _allowed(self, text: str) -> Path:
        try:
            return self._readable(text)
        except ValueError as error:
            raise RequestRefused(403, str(error)) from error

    def _session(self, body: Mapping[str, Any]) -> Session:
        try:
            return self._open_session(body.get("session"))  # type: ignore[arg-type]
        except SessionNameError as error:
            raise RequestRefused(400, str(error)) from error

    def _progress(self, curation: Curation, session: str) -> SessionProgress:
        try:
            state = self._session_state(session) if session else None
        except SessionNameError as error:
            raise RequestRefused(400, str(error)) from error
        return curation.progress(session if state is None else state.name, state)

    def _is_whole(self, session: Session, part: Part) -> bool:
        """True if nothing of what was given to the session has gone since."""
        if part.opened is None or part.opened.set_id not in session.state().sets:
            return False
        images = session.state().sets[part.opened.set_id].images
        return session.images.present().issuperset(image.id for image in images)

    def _give(
        self, curation: Curation, session: Session, group: Group, part: Part
    ) -> tuple[Part, tuple[str, ...]]:
        if group.prompt is None:
            raise RequestRefused(
                409,
                "It is not known what these images were made with. Give them a prompt first; it "
                "may be empty.",
            )
        try:
            made = open_images(session, curation.folder, part.images, group.prompt)
            if made.candidates is not None:
                curation.diary.opened(session.name, group.id, made.candidates.id, made.images)
        except ValueError as error:
            raise RequestRefused(409, f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
        except LogLockedError as error:
            raise RequestRefused(503, str(error)) from error
        except OSError as error:
            raise _unsaved(error) from error
        if made.candidates is None:
            return part, made.problems
        progress = self._progress(curation, session.name).of(group)
        for one in progress.parts:
            if one.opened is not None and one.opened.set_id == made.candidates.id:
                return one, made.problems
        return part, made.problems

    def _after(self, curation: Curation, session: str, group: Group) -> Answer:
        progress = self._progress(curation, session)
        every = [progress.of(one) for one in curation.groups().values()]
        now = next((one for one in every if one.group.id == group.id), None)
        told = None if now is None else self._summary(curation.id, now)
        return {"group": told, "counts": counts(every)}

    def _told(self, curation: Curation) -> Answer:
        status = curation.scan.status()
        images = curation.scan.findings().images.values()
        return {
            "scan": curation.id,
            "folder": printable(str(curation.folder)),
            "state": status.state,
            "listed": status.listed,
            "read": status.read,
            "from_index": status.from_index,
            "unusable": sum(1 for image in images if image.problem),
            "problems": [_problem(one) for one in status.problems[:MAX_PROBLEMS]],
            "error": status.error,
            "seconds": round(status.seconds, 3),
        }

    def _summary(self, scan: str, one: GroupProgress) -> Answer:
        group = one.group
        step = max(1, len(group.images) // MAX_SAMPLES)
        return {
            "group": group.id,
            "prompt": group.prompt,
            "width": group.width,
            "height": group.height,
            "count": len(group.images),
            "copies": sum(map(len, group.copies.values())),
            "newest": group.newest,
            "settled": group.settled,
            "state": one.state,
            "finished_early": one.finished_early,
            "set_aside": one.set_aside or None,
            "next_part": one.next_part,
            "parts": [
                {
                    "images": len(part.images),
                    "state": part.state,
                    "votes": part.votes,
                    "set_id": None if part.opened is None else part.opened.set_id,
                }
                for part in one.parts
            ],
            "samples": [
                self._image(scan, image) for image in group.images[::step][:MAX_SAMPLES]
            ],
        }

    def _image(self, scan: str, image: FoundImage) -> Answer:
        told: Answer = {
            "id": image.id,
            "name": printable(image.name),
            "width": image.width,
            "height": image.height,
            "url": self._image_url(scan, image.id, False),
            "at": image.at,
            "negative": image.negative,
            # As text: a page's numbers do not hold all 64 bits.
            "seed": None if image.seed is None else str(image.seed),
            "model": image.model,
        }
        if max(image.width, image.height) > MAX_SIDE:
            told["thumbnail"] = self._image_url(scan, image.id, True)
        return told


def _sort(
    found: list[GroupProgress], order: str, seed: int, progress: SessionProgress
) -> None:
    """Settled groups first: the others may grow while they are looked at."""
    if order == "hardest":
        found.sort(key=lambda one: (not one.group.settled, progress.hardness(one), one.group.id))
    elif order == "largest":
        found.sort(key=lambda one: (not one.group.settled, -len(one.group.images), one.group.id))
    elif order == "newest":
        found.sort(key=lambda one: (not one.group.settled, -one.group.newest, one.group.id))
    else:
        found.sort(key=lambda one: (not one.group.settled, _shuffled(one.group, seed)))


def _shuffled(group: Group, seed: int) -> bytes:
    """A group keeps its place among the others when new ones come."""
    return hashlib.blake2b(f"{seed} {group.id}".encode(), digest_size=8).digest()


def _group(curation: Curation, group: str) -> Group:
    found = curation.groups().get(group)
    if found is None:
        raise RequestRefused(
            404, "There is no such group. Its images may have changed: look at the folder again."
        )
    return found


def _part(found: GroupProgress, asked: Any) -> int:
    if asked is None:
        if found.next_part is None:
            raise RequestRefused(409, "Everything in this group is ranked already.")
        return found.next_part
    if type(asked) is not int or not 0 <= asked < len(found.parts):
        raise RequestRefused(400, f"`part` must be a number from 0 to {len(found.parts) - 1}.")
    return asked


def _holds(group: Group, image: str) -> bool:
    return any(one.id == image for one in group.images) or any(
        image in ids for ids in group.copies.values()
    )


def _image(curation: Curation, image: str) -> FoundImage:
    found = curation.scan.image(image) if DIGEST.fullmatch(image) else None
    if found is None or found.problem:
        raise RequestRefused(404, "There is no such image. Look at the folder again.")
    return found


def _file(curation: Curation, image: FoundImage) -> Path:
    """The image's file, which is still what it was: an image of its kind, inside the folder."""
    path = curation.folder / image.name
    if not within(curation.folder, path):
        raise RequestRefused(404, "This image is gone. Look at the folder again.")
    with open(path, "rb") as file:
        head = file.read(12)
    kinds = {
        "PNG": head.startswith(b"\x89PNG\r\n\x1a\n"),
        "JPEG": head.startswith(b"\xff\xd8\xff"),
        "WEBP": head.startswith(b"RIFF") and head[8:] == b"WEBP",
    }
    if not kinds[image.kind] or path.stat().st_size > MAX_FILE_BYTES:
        raise RequestRefused(404, "This image has changed. Look at the folder again.")
    return path


def _written(write: Callable[[], None]) -> None:
    try:
        write()
    except DiaryError as error:
        raise RequestRefused(400, str(error)) from error
    except LogLockedError as error:
        raise RequestRefused(503, str(error)) from error
    except OSError as error:
        raise _unsaved(error) from error


def _unsaved(error: OSError) -> RequestRefused:
    return RequestRefused(
        507, f"This could not be saved ({error.strerror or error}). Make room on the disk."
    )


def _id(body: Mapping[str, Any], name: str = "id") -> str:
    given = body.get(name)
    if not isinstance(given, str):
        raise RequestRefused(400, f"`{name}` must be an id of your own.")
    return given


def _one_of(query: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    given = query.get(name, known[0])
    if given not in known:
        problem = f"`{name}` is {ascii(given)[:60]}, none of {', '.join(known)}."
        raise RequestRefused(400, "The request cannot be understood.", [problem])
    return given


def _problem(problem: PairProblem) -> Answer:
    return {"what": problem.what, "where": problem.where, "fix": problem.fix}
