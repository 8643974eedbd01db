"""What a page asks of pairs under review, in plain data: those of a session, and of a pair folder.

Every answer is a JSON object. A refusal has an HTTP status and says in one sentence what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..metadata.prompt_text import MAX_PROMPT_CHARS
from ..pairs.pattern import SidePattern
from ..pairs.problem import PairError, printable
from ..pairs.record import SPLITS
from ..ranking.image_store import identified_images
from ..ranking.pair_making import PairRules
from ..ranking.requests import MAX_PAIRS_PER_GROUP
from ..ranking.session import Session
from ..ranking.session_name import SessionNameError
from ..ranking.thumbnails import MAX_SIDE
from ..ranking.vote import VoteError
from ..ranking.vote_log import LogLockedError
from ..request import Answer, RequestRefused, query_number
from .curation import Curation, CurationStore
from .diary import RECORD_ID
from .edit import Edit, EditError
from .folder_review import RESCAN_SECONDS, FolderReview, Orphan
from .inconsistency import Choice
from .opening import read_image
from .review import (
    ORDERS,
    PROBLEMS,
    PairFilter,
    ReviewedImage,
    ReviewedPair,
    statistics,
    warnings,
)
from .session_review import SessionReview

USUAL_PAIRS, MOST_PAIRS = 50, 500
MAX_ORPHANS = 500
MAX_EDITS = 500
_FARTHEST = 2**53 - 1
_MOST_REVIEWS = 16


class Source(Protocol):
    """Where pairs under review come from."""

    def pairs(self) -> list[ReviewedPair]: ...

    def choices(self) -> Iterable[Choice]: ...

    def edit(self, edit_id: str, kind: str, pair: ReviewedPair, prompt: str) -> None: ...

    def undo(self, edit_id: str, undo_id: str) -> None: ...


@dataclass(frozen=True)
class ImageUrls:
    """Where a page gets images from.

    Attributes:
        of_session: by session and image.
        small_of_session: the thumbnail, of one that has one.
        of_scan: by scan and image; with True, its thumbnail.
    """

    of_session: Callable[[str, str], str]
    small_of_session: Callable[[str, str], str]
    of_scan: Callable[[str, str, bool], str]


class ReviewRequests:
    """Answers to what the review asks.

    Args:
        curation: a scanned folder by its id. Raises RequestRefused.
        store: all scanned folders.
        open_session: a session that is there. Raises SessionNameError, KeyError.
        changes: whether files of a scanned folder may be renamed.
        urls: of images.

    Every method raises RequestRefused.
    """

    def __init__(
        self,
        curation: Callable[[str], Curation],
        store: CurationStore,
        open_session: Callable[[str], Session],
        changes: Callable[[Curation], bool],
        urls: ImageUrls,
    ) -> None:
        self._curation, self._store = curation, store
        self._open_session, self._changes, self._urls = open_session, changes, urls
        self._sessions: dict[tuple[str, PairRules], SessionReview] = {}
        self._folders: dict[tuple[str, str, str], FolderReview] = {}

    # Pairs of a session

    def session_pairs(self, session: str, query: Mapping[str, str]) -> Answer:
        """A page of pairs."""
        opened, review = self._session(session, query)
        return _page(review, query, self._session_image(opened))

    def session_statistics(self, session: str, query: Mapping[str, str]) -> Answer:
        """Distributions, and what is worth a look."""
        return _told(self._session(session, query)[1])

    def session_orphans(self, session: str, query: Mapping[str, str]) -> Answer:
        """Images that are gone, and those in no set."""
        gone, strays = self._session(session, query)[1].orphans()
        return {
            "missing": [{"set_id": one, "image": image} for one, image in gone[:MAX_ORPHANS]],
            "missing_total": len(gone),
            "strays": strays[:MAX_ORPHANS],
            "strays_total": len(strays),
        }

    def session_edits(self, session: str, query: Mapping[str, str]) -> Answer:
        """What was changed and can be taken back, the newest first."""
        return _edits(self._session(session, query)[1].edits())

    def edit_session(
        self, session: str, body: Mapping[str, Any], query: Mapping[str, str]
    ) -> Answer:
        """Removes or flips a pair, gives its set another prompt, or mends what is gone."""
        opened, review = self._session(session, query)
        edit_id, kind = _id(body), body.get("kind")
        if kind == "mend":
            return self._mended(opened)
        if not review.was_made(edit_id):
            self._edit(review, edit_id, kind, body)
        return _edits(review.edits())

    def undo_session(
        self, session: str, body: Mapping[str, Any], query: Mapping[str, str]
    ) -> Answer:
        """Takes the edit `id` back; `undo_id` is the id of this."""
        review = self._session(session, query)[1]
        _changed(lambda: review.undo(_id(body), _id(body, "undo_id")))
        return _edits(review.edits())

    # Pairs of a folder

    def folder_pairs(self, scan: str, query: Mapping[str, str]) -> Answer:
        """A page of pairs, train and val together."""
        curation, review = self._folder(scan, query)
        page = _page(review, query, self._folder_image(curation))
        return page | {"state": curation.scan.status().state}

    def folder_statistics(self, scan: str, query: Mapping[str, str]) -> Answer:
        """Distributions, and what is worth a look."""
        return _told(self._folder(scan, query)[1])

    def folder_orphans(self, scan: str, query: Mapping[str, str]) -> Answer:
        """Images without a partner."""
        curation, review = self._folder(scan, query)
        show, orphans = self._folder_image(curation), review.orphans()
        return {
            "state": curation.scan.status().state,
            "orphans": [
                {
                    "side": one.side,
                    "pair": printable(one.place),
                    "reason": one.reason,
                    "image": show(_reviewed(one)),
                }
                for one in orphans[:MAX_ORPHANS]
            ],
            "total": len(orphans),
        }

    def folder_edits(self, scan: str, query: Mapping[str, str]) -> Answer:
        """What was changed and can be taken back, the newest first."""
        return _edits(self._folder(scan, query)[1].edits.edits())

    def edit_folder(self, scan: str, body: Mapping[str, Any], query: Mapping[str, str]) -> Answer:
        """Removes or flips a pair, gives it another prompt, drops an orphan or mends two."""
        _, review = self._folder(scan, query, changing=True)
        edit_id, kind = _id(body), body.get("kind")
        if not review.edits.was_made(edit_id):
            if kind == "drop":
                orphan = _orphan(review, body.get("image"))
                _changed(lambda: review.drop(edit_id, orphan))
            elif kind == "mend":
                two = _orphan(review, body.get("chosen")), _orphan(review, body.get("rejected"))
                _changed(lambda: review.mend(edit_id, *two))
            else:
                self._edit(review, edit_id, kind, body)
        return _edits(review.edits.edits())

    def undo_folder(self, scan: str, body: Mapping[str, Any], query: Mapping[str, str]) -> Answer:
        """Takes the edit `id` back; `undo_id` is the id of this."""
        _, review = self._folder(scan, query, changing=True)
        _changed(lambda: review.undo(_id(body), _id(body, "undo_id")))
        return _edits(review.edits.edits())

    def _edit(self, source: Source, edit_id: str, kind: Any, body: Mapping[str, Any]) -> None:
        if kind not in ("remove", "flip", "prompt"):
            raise RequestRefused(400, f"`kind` is {ascii(kind)[:60]}, no change of a pair.")
        prompt = body.get("prompt", "")
        if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT_CHARS:
            raise RequestRefused(400, "`prompt` must be a text, which may be empty.")
        pair = next((one for one in source.pairs() if one.id == body.get("pair")), None)
        if pair is None:
            raise RequestRefused(404, "There is no such pair any more. Look again.")
        seen = body.get("chosen", pair.chosen.id), body.get("rejected", pair.rejected.id)
        if seen != (pair.chosen.id, pair.rejected.id):
            raise RequestRefused(409, "This pair has changed since. Look again.")
        _changed(lambda: source.edit(edit_id, kind, pair, prompt))

    def _mended(self, session: Session) -> Answer:
        """Stores images that are gone anew, from the folders they came from."""
        gone = {image for _, image in SessionReview(session, PairRules()).orphans()[0]}
        mended = []
        prompts = {
            image.id: one.prompt for one in session.state().sets.values() for image in one.images
        }
        for known in self._store.known():
            if not gone:
                break
            try:
                curation = self._curation(known.id)
            except RequestRefused:
                continue  # it may no longer be read
            sources = [one for one in _sources(curation, session.name) if one[1] in gone]
            if sources and curation.scan.status().state == "new":  # not read since a restart
                curation.scan.start()
                curation.scan.wait(RESCAN_SECONDS)
            for image, stored in sources:
                found = curation.scan.image(image)
                if stored not in gone or found is None:
                    continue
                try:
                    new = read_image(curation.folder, found)
                    ((image_id, _),) = identified_images([new.pixels])
                    if image_id == stored:
                        session.store([new], prompts[stored])
                        gone.discard(stored)
                        mended.append(stored)
                except (PairError, OSError, ValueError):
                    continue
        return {"mended": mended, "missing": sorted(gone)[:MAX_ORPHANS], "total": len(gone)}

    def _session(self, name: str, query: Mapping[str, str]) -> tuple[Session, SessionReview]:
        rules = PairRules(query_number(query, "pairs_per_group", 1, 1, MAX_PAIRS_PER_GROUP))
        try:
            session = self._open_session(name)
        except SessionNameError as error:
            raise RequestRefused(400, str(error)) from error
        except KeyError as error:
            raise RequestRefused(404, f"There is no session {name!r}.") from error
        key = session.name, rules
        if key not in self._sessions:
            if len(self._sessions) >= _MOST_REVIEWS:
                self._sessions.clear()  # they are only kept for speed
            self._sessions[key] = SessionReview(session, rules)
        return session, self._sessions[key]

    def _folder(
        self, scan: str, query: Mapping[str, str], changing: bool = False
    ) -> tuple[Curation, FolderReview]:
        curation = self._curation(scan)
        if changing and not self._changes(curation):
            raise RequestRefused(409, "The files of this folder belong to this pack: leave them.")
        if changing and curation.scan.status().is_running:
            raise RequestRefused(409, "The folder is still being read. Wait until that is done.")
        texts = {side: query.get(f"{side}_pattern", f"{side}/{{}}") for side in _SIDES}
        key = scan, texts["chosen"], texts["rejected"]
        if key not in self._folders:
            try:
                patterns = [SidePattern.parse(texts[side], side) for side in _SIDES]
            except PairError as error:
                problem = error.problems[0]
                raise RequestRefused(400, f"{problem.what}.", [problem.fix]) from error
            if len(self._folders) >= _MOST_REVIEWS:
                self._folders.clear()
            self._folders[key] = FolderReview(curation, *patterns)
        review = self._folders[key]
        try:
            if review.edits.recover():
                review.look_again()
        except OSError as error:
            raise RequestRefused(
                507, f"A change that was broken off could not be finished ({error.strerror})."
            ) from error
        return curation, review

    def _session_image(self, session: Session) -> Callable[[ReviewedImage], Answer]:
        def shown(image: ReviewedImage) -> Answer:
            told = _image(image, self._urls.of_session(session.name, image.id))
            if session.images.thumbnails.has(image.id):
                told["thumbnail"] = self._urls.small_of_session(session.name, image.id)
            return told

        return shown

    def _folder_image(self, curation: Curation) -> Callable[[ReviewedImage], Answer]:
        def shown(image: ReviewedImage) -> Answer:
            told = _image(image, self._urls.of_scan(curation.id, image.id, False))
            if max(image.width, image.height) > MAX_SIDE:
                told["thumbnail"] = self._urls.of_scan(curation.id, image.id, True)
            return told

        return shown


_SIDES = ("chosen", "rejected")


def _page(
    source: Source, query: Mapping[str, str], shown: Callable[[ReviewedImage], Answer]
) -> Answer:
    limit = query_number(query, "limit", USUAL_PAIRS, 1, MOST_PAIRS)
    offset = query_number(query, "offset", 0, 0, _FARTHEST)
    wanted = _filter(query)
    pairs = source.pairs()
    found = wanted.applied(pairs)
    return {
        "total": len(found),
        "all": len(pairs),
        "pairs": [
            {
                "pair": one.id,
                "place": printable(one.place),
                "prompt": one.prompt,
                "chosen": shown(one.chosen),
                "rejected": shown(one.rejected),
                "probability": one.probability,
                "gap": one.gap,
                "explicit": one.explicit,
                "split": one.split,
                "at": one.at,
                "problems": list(one.problems),
            }
            for one in found[offset : offset + limit]
        ],
    }


def _told(source: Source) -> Answer:
    pairs = source.pairs()
    return {
        **statistics(pairs),
        "warnings": [
            {"kind": one.kind, "text": one.text, "count": one.count, "pairs": list(one.pairs)}
            for one in warnings(pairs, source.choices())
        ],
    }


def _edits(edits: Sequence[Edit]) -> Answer:
    return {
        "edits": [
            {
                "id": one.id,
                "kind": one.kind,
                "place": printable(one.place),
                "what": printable(one.what),
                "at": one.at,
            }
            for one in edits[:MAX_EDITS]
        ],
        "total": len(edits),
    }


def _filter(query: Mapping[str, str]) -> PairFilter:
    problems: list[str] = []
    choices = {"order": ORDERS, "split": SPLITS, "problem": ("any", *PROBLEMS)}
    for name, known in choices.items():
        if name in query and query[name] not in known:
            problems.append(f"`{name}` is {ascii(query[name])[:60]}, none of {', '.join(known)}.")
    numbers: dict[str, float | None] = {}
    for name in ("since", "until", "agreement_min", "agreement_max", "gap_min", "gap_max"):
        numbers[name] = _decimal(query.get(name))
        if name in query and numbers[name] is None:
            problems.append(f"`{name}` is {ascii(query[name])[:60]}, no number.")
    if problems:
        raise RequestRefused(400, "The request cannot be understood.", problems)
    return PairFilter(
        query.get("prompt", ""),
        split=query.get("split"),
        problem=query.get("problem"),
        order=query.get("order", ORDERS[0]),
        **numbers,  # type: ignore[arg-type]
    )


def _decimal(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None and len(text) <= 30 else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _image(image: ReviewedImage, url: str) -> Answer:
    told = {"id": image.id, "width": image.width, "height": image.height, "url": url}
    return told | ({"name": printable(image.name)} if image.name else {})


def _reviewed(orphan: Orphan) -> ReviewedImage:
    image = orphan.image
    return ReviewedImage(image.id, image.id, image.name, image.width, image.height)


def _orphan(review: FolderReview, image: Any) -> Orphan:
    for one in review.orphans():
        if one.image.id == image:
            return one
    raise RequestRefused(404, "There is no such image without a partner any more. Look again.")


def _sources(curation: Curation, session: str) -> list[tuple[str, str]]:
    """(image of the folder, image of the session) of all that was opened."""
    opened = curation.diary.read().opened
    return [
        pair
        for (name, _), some in opened.items()
        if name == session
        for one in some
        for pair in one.images.items()
    ]


def _changed(change: Callable[[], None]) -> None:
    try:
        change()
    except EditError as error:
        raise RequestRefused(409, str(error)) from error
    except VoteError as error:
        raise RequestRefused(400, "This change cannot be stored.", error.problems) from error
    except LogLockedError as error:
        raise RequestRefused(503, str(error)) from error
    except OSError as error:
        raise RequestRefused(
            507,
            f"This could not be changed ({error.strerror or error}). Check the disk, and that no "
            "other program has the files open.",
        ) from error


def _id(body: Mapping[str, Any], name: str = "id") -> str:
    given = body.get(name)
    if not isinstance(given, str) or not RECORD_ID.fullmatch(given):
        raise RequestRefused(
            400, f"`{name}` must be 1 to 64 letters, digits, dots, dashes or underscores."
        )
    return given
