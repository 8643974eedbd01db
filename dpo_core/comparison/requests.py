"""What a page asks of blind comparisons, in plain data: the same over any web server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ranking.session import Session
from ..ranking.vote_log import LogLockedError
from ..request import Answer, RequestRefused
from .comparison import BlindComparison, ComparisonState, progress
from .couple import Couple
from .report import judged_by
from .tally import Tally, verdict

VIEW_VERSION = 1


class ComparisonRequests:
    """Answers to what a page asks of the comparisons of one session.

    Until a couple is revealed no answer depends on which of its pictures is whose.

    Args:
        session: an existing one.
        image_url: where the page gets an image from, by session and image id.
        thumbnail_url: where it gets the small copy from.

    Every method raises RequestRefused and OSError.
    """

    def __init__(
        self,
        session: Session,
        image_url: Callable[[str, str], str],
        thumbnail_url: Callable[[str, str], str],
    ) -> None:
        self._session = session
        self._image_url = image_url
        self._thumbnail_url = thumbnail_url

    def state(self, comparison: str) -> Answer:
        """How far a comparison is, and its result as far as that may be told."""
        return self._answer(self._find(comparison).state())

    def reveal(self, comparison: str) -> Answer:
        """Tells whose the pictures judged so far are; asked again it tells the same."""
        found = self._find(comparison)
        state = found.state()
        if not state.outcomes and not state.revealed and state.asked:
            raise RequestRefused(409, "Nothing has been judged yet. Judge a couple, then reveal.")
        try:
            return self._answer(found.reveal())
        except LogLockedError as error:
            raise RequestRefused(503, str(error)) from error
        except OSError as error:
            raise RequestRefused(
                507,
                f"The reveal could not be saved ({error.strerror or error}), so nothing is told. "
                "Make room on the disk, then try again.",
            ) from error

    def _find(self, comparison: str) -> BlindComparison:
        found = BlindComparison.find(self._session, comparison)
        if found is None:
            raise RequestRefused(
                404, f"The session {self._session.name!r} has no such blind comparison."
            )
        return found

    def _answer(self, state: ComparisonState) -> Answer:
        return {
            "v": VIEW_VERSION,
            "session": state.session.name,
            "comparison": state.sides.comparison,
            "couples": [
                {"set_id": one.set_id, "answered": one.set_id in state.answered}
                for one in state.asked
            ],
            "identical": state.identical,
            "hidden": state.hidden,
            "progress": progress(state),
            "result": self._result(state),
        }

    def _result(self, state: ComparisonState) -> Answer | None:
        tally = state.tally(state.counting)
        if tally.share is None:
            return None
        rows = state.by_prompt(state.counting)
        pictures: dict[str, list[Answer]] = {prompt: [] for prompt in rows}
        for couple in state.asked:
            if couple.set_id in state.revealed and couple.set_id in state.counting:
                pictures[state.prompt(couple)].append(self._pictures(state, couple))
        return {
            **_counts(tally),
            "sides": [{"name": one.name, "made_with": one.made_with} for one in state.sides],
            "share": tally.share._asdict(),
            "words": verdict(tally, state.sides),
            "judged_by": judged_by(state),
            "changed": state.changed,
            "prompts": [
                {"prompt": prompt, **_counts(one), "pictures": pictures[prompt]}
                for prompt, one in rows.items()
            ],
        }

    def _pictures(self, state: ComparisonState, couple: Couple) -> Answer:
        outcome = state.counting[couple.set_id]
        return {
            "set_id": couple.set_id,
            "a": self._url(state, couple.set_id, couple.a),
            "b": self._url(state, couple.set_id, couple.b),
            "result": outcome.result,
            "by": outcome.by,
        }

    def _url(self, state: ComparisonState, set_id: str, image_id: str) -> str:
        images = state.session.sets[set_id].images
        thumbnails = self._session.images.thumbnails
        (image,) = (one for one in images if one.id == image_id)
        small = thumbnails.is_wanted(image) and thumbnails.has(image_id)
        return (self._thumbnail_url if small else self._image_url)(state.session.name, image_id)


def _counts(tally: Tally) -> dict[str, Any]:
    return {"a": tally.a, "b": tally.b, "ties": tally.ties, "identical": tally.identical}
