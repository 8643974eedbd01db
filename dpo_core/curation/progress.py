"""How far a session has come with the groups of a folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..ranking.circle import circle_of
from ..ranking.completion import is_ranked
from ..ranking.pair_making import SessionJudgement
from ..ranking.session import SessionState
from ..ranking.vote import MAX_IMAGES, Vote
from .diary import Diary, Opened
from .found_image import FoundImage
from .groups import Group, in_shares

STATES = ("todo", "begun", "done", "skipped", "single")
"""`single`: one picture alone, with nothing to prefer it to."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images of a group that are ranked together.

    Attributes:
        images: those still there.
        opened: the set of the session they were given to, None if they were not yet.
        votes: on that set.
        state: "todo", "begun", "done" or "single".
    """

    images: tuple[FoundImage, ...]
    opened: Opened | None
    votes: int
    state: str


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """A group as a session has it: `state` is one of STATES.

    Attributes:
        set_aside: the diary's record that skipped or finished it, to be taken back; else empty.
        finished_early: a person said that it is enough.
    """

    group: Group
    parts: tuple[Part, ...]
    state: str
    set_aside: str
    finished_early: bool

    @property
    def next_part(self) -> int | None:
        """The first part that is not ranked yet; None if all are."""
        for number, part in enumerate(self.parts):
            if part.state in ("todo", "begun"):
                return number
        return None


class SessionProgress:
    """What a session's votes and a diary say of groups.

    Args:
        state: None for a session that has nothing yet.
    """

    def __init__(self, session: str, state: SessionState | None, diary: Diary) -> None:
        self._session, self._state, self._diary = session, state, diary
        self._votes: dict[str, list[Vote]] = defaultdict(list)
        self._of_prompt: Counter[str] = Counter()
        self._known: dict[str, GroupProgress] = {}
        for vote in state.votes if state is not None else ():
            self._votes[vote["set"]].append(vote)
            self._of_prompt[state.sets[vote["set"]].prompt] += 1  # type: ignore[union-attr]

    def of(self, group: Group) -> GroupProgress:
        known = self._known.get(group.id)
        if known is None or known.group is not group:
            known = self._known[group.id] = self._worked_out(group)
        return known

    def _worked_out(self, group: Group) -> GroupProgress:
        key = self._session, group.id
        record, kind = self._diary.set_aside.get(key, ("", ""))
        parts = self._parts(group, self._diary.opened.get(key, []))
        return GroupProgress(
            group, tuple(parts), _state(parts, kind), record, kind == "finished"
        )

    def hardness(self, one: GroupProgress) -> tuple[float, ...]:
        """Sorts the hardest first: what is begun, the closest leaders first; then what has the
        fewest votes under its prompt, then the most images."""
        group = one.group
        votes = self._of_prompt[group.prompt or ""]
        if one.state == "begun":
            return 0, self._lead(one), votes, -len(group.images)
        return 1, 0, votes, -len(group.images)

    def _lead(self, one: GroupProgress) -> float:
        """How sure it is which image is best: 0 if not at all, at most a half."""
        leads = []
        for part in one.parts:
            if self._state is None or part.opened is None or not part.votes:
                continue
            set_id = part.opened.set_id
            judged = SessionJudgement(circle_of(self._state, set_id))
            best, *others = judged.standings(set_id)
            if others:
                ratings = judged.ratings(self._state.sets[set_id].prompt)
                chance = (
                    ratings.probability(best.image, others[0].image) if best.compared else 0.5
                )
                leads.append(abs(chance - 0.5))
        return min(leads, default=0.0)

    def _parts(self, group: Group, opened: Sequence[Opened]) -> list[Part]:
        parts = [self._opened_part(group, one) for one in opened]
        given = {image for one in opened for image in one.images}
        rest = tuple(
            image
            for image in group.images
            if given.isdisjoint((image.id, *group.copies.get(image.id, ())))
        ) if given else group.images
        if len(rest) == 1 and (others := [part for part in parts if part.images]):
            rest = others[-1].images[-1:] + rest  # or it could be compared with nothing
        for share in in_shares(rest, MAX_IMAGES) if rest else []:
            parts.append(Part(share, None, 0, "todo" if len(share) > 1 else "single"))
        return parts

    def _opened_part(self, group: Group, opened: Opened) -> Part:
        images = tuple(
            image
            for image in group.images
            if any(one in opened.images for one in (image.id, *group.copies.get(image.id, ())))
        )
        candidates = None if self._state is None else self._state.sets.get(opened.set_id)
        if candidates is None:  # the session was deleted since
            return Part(images, None, 0, "todo" if len(images) > 1 else "single")
        if len(candidates.images) < 2:
            return Part(images, opened, 0, "single")
        votes = self._votes.get(opened.set_id, [])
        state = "done" if is_ranked(candidates, votes) else "begun" if votes else "todo"
        return Part(images, opened, len(votes), state)


def counts(groups: Iterable[GroupProgress]) -> Mapping[str, int]:
    """How many groups are in each of STATES."""
    found = Counter(one.state for one in groups)
    return {state: found[state] for state in STATES}


def _state(parts: Sequence[Part], set_aside: str) -> str:
    states = {part.state for part in parts}
    if "done" in states and states <= {"done", "single"}:
        return "done"  # also of a group that was skipped, and then ranked after all
    if set_aside == "skipped":
        return "skipped"
    if states <= {"single"}:
        return "single"
    if set_aside == "finished":
        return "done"
    return "begun" if states & {"begun", "done"} else "todo"
