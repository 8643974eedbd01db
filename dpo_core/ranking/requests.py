"""What a page asks of the sessions, in plain data: the same over any web server.

Every answer is a JSON object. A refusal has an HTTP status and says in one sentence what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ..request import Answer, RequestRefused, within
from .circle import PairCount, circle_of
from .pair_making import PairRules, SessionJudgement
from .session import LOG_NAME, Session, SessionState, SessionStore
from .session_name import SessionNameError, session_name
from .vote import MAX_IMAGES, CandidateSet, VoteError
from .vote_log import LogLockedError

VIEW_VERSION = 1
MODES = ("best_worst", "rank", "side_by_side", "thumbs")
MAX_PAIRS_PER_GROUP = MAX_IMAGES // 2
"""An image is used once in a group."""


class RankingRequests:
    """Answers to what the ranking widget asks.

    Args:
        store: the sessions.
        image_url: where the page gets an image from, by session and image id.
        thumbnail_url: where it gets the small copy from, the file `Session.images.thumbnails.path`;
            left out, it is given the images alone.

    Every method raises RequestRefused.
    """

    def __init__(
        self,
        store: SessionStore,
        image_url: Callable[[str, str], str],
        thumbnail_url: Callable[[str, str], str] | None = None,
    ) -> None:
        self._store = store
        self._image_url = image_url
        self._thumbnail_url = thumbnail_url
        self._pairs: dict[str, PairCount] = {}

    def sessions(self) -> Answer:
        """All sessions: name, sets, votes, pairs."""
        found = []
        for name in self._store.names():
            try:
                state = self._open(name).state()
            except (RequestRefused, OSError):
                continue  # a folder that no session could have made, or that went away
            found.append({"name": name, **self._totals(state, PairRules())})
        return {"sessions": found}

    def sets(self, session: str) -> Answer:
        """The sets of a session, newest first."""
        opened = self._open(session)
        state, times = opened.state(), opened.set_times()
        votes = Counter(vote["set"] for vote in state.votes)
        return {
            "sets": [
                {
                    "set_id": one.id,
                    "prompt": one.prompt,
                    "images": len(one.images),
                    "votes": votes[one.id],
                    "at": times.get(one.id, 0),
                }
                for one in list(state.sets.values())[::-1]
            ]
        }

    def set(self, session: str, set_id: str, query: Mapping[str, str]) -> Answer:
        """One set: its images, votes, the pairs it makes and the standings.

        Args:
            query: `mode` and `pairs_per_group` as on the node; both may be left out.
        """
        rules = _rules(query)
        return self._set(self._open(session), set_id, rules)

    def vote(self, session: str, vote: Mapping[str, Any], query: Mapping[str, str]) -> Answer:
        """Stores a vote, durably, and answers with the set it was on."""
        rules = _rules(query)
        opened = self._open(session)
        stored, _ = _written(lambda: opened.vote(vote))
        return self._set(opened, opened.set_of(stored["id"]), rules)

    def undo(self, session: str, body: Mapping[str, Any], query: Mapping[str, str]) -> Answer:
        """Strikes out the vote `vote_id`; the undo is the vote `undo_id`."""
        rules = _rules(query)
        opened = self._open(session)
        undo = {"id": body.get("undo_id"), "kind": "undo", "strikes": [body.get("vote_id")]}
        stored, _ = _written(lambda: opened.vote(undo))
        return self._set(opened, opened.set_of(stored["id"]), rules)

    def _open(self, name: str) -> Session:
        try:
            name = session_name(name)
            # Looked for first: asking for names that are not there must not fill the memory.
            if not within(self._store.root, self._store.root / name / LOG_NAME):
                raise RequestRefused(404, f"There is no session {name!r}.")
            return self._store.session(name)
        except SessionNameError as error:
            raise RequestRefused(400, str(error)) from error

    def _set(self, session: Session, set_id: str | None, rules: PairRules) -> Answer:
        state = session.state()
        if set_id is None or set_id not in state.sets:
            raise RequestRefused(404, f"The session {session.name!r} has no such set of images.")
        candidates = state.sets[set_id]
        judged = SessionJudgement(circle_of(state, set_id))
        return {
            "v": VIEW_VERSION,
            "session": session.name,
            "set_id": set_id,
            "prompt": candidates.prompt,
            "revision": state.digest([set_id]),
            "seed": int(set_id[:8], 16),
            "images": self._images(session, candidates),
            "votes": state.votes_on(set_id),
            "pairs": [
                {
                    "chosen": pair.chosen,
                    "rejected": pair.rejected,
                    "explicit": pair.explicit,
                    "probability": pair.probability,
                }
                for pair in judged.chosen_pairs(set_id, rules)
            ],
            "standings": [
                {
                    "id": one.image,
                    "rating": one.rating,
                    "deviation": one.deviation,
                    "label": one.label,
                }
                for one in judged.standings(set_id)
            ],
            "totals": self._totals(state, rules),
        }

    def _images(self, session: Session, candidates: CandidateSet) -> list[Answer]:
        """With a `thumbnail` where there is one; those that are missing are made for later."""
        found: list[Answer] = [
            {
                "id": image.id,
                "width": image.width,
                "height": image.height,
                "url": self._image_url(session.name, image.id),
            }
            for image in candidates.images
        ]
        if self._thumbnail_url is not None:
            thumbnails = session.images.thumbnails
            missing = thumbnails.missing(candidates.images)
            if missing:
                thumbnails.make_later(missing)
            for image, one in zip(candidates.images, found, strict=True):
                if thumbnails.is_wanted(image) and image.id not in missing:
                    one["thumbnail"] = self._thumbnail_url(session.name, image.id)
        return found

    def _totals(self, state: SessionState, rules: PairRules) -> Answer:
        counter = self._pairs.setdefault(state.name, PairCount())
        pairs = counter.count(state, rules)
        return {"sets": len(state.sets), "votes": len(state.votes), "pairs": pairs}


def _written(write: Callable[[], Any]) -> Any:
    try:
        return write()
    except VoteError as error:
        raise RequestRefused(400, "This vote cannot be stored.", error.problems) from error
    except LogLockedError as error:
        raise RequestRefused(503, str(error)) from error
    except OSError as error:
        raise RequestRefused(
            507,
            f"The choice could not be saved ({error.strerror or error}). Make room on the disk, "
            "then choose again.",
        ) from error


def _rules(query: Mapping[str, str]) -> PairRules:
    problems = []
    mode = query.get("mode", MODES[0])
    if mode not in MODES:
        problems.append(f"`mode` is {ascii(mode)[:60]}, none of {', '.join(MODES)}.")
    text = query.get("pairs_per_group", "1")
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= number <= MAX_PAIRS_PER_GROUP:
        problems.append(
            f"`pairs_per_group` is {ascii(text)[:60]}, no number of 1 to {MAX_PAIRS_PER_GROUP}."
        )
    if problems:
        raise RequestRefused(400, "The request cannot be understood.", problems)
    return PairRules(pairs_per_group=number)
