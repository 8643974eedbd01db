"""Two ways to draw, compared picture by picture without saying which is which.

Each couple is a set of two images in a session, in the order of their content ids, so that neither
place nor time says whose a picture is; on which side it is shown follows from the set's id. Picks
are ordinary votes. What was said counts once it is revealed, and from then on nothing more is taken
of those couples, which are not blind any more. That holds for judges, too: a tally beside what they
said of each picture would tell whose it is. Where no person takes part, theirs is revealed at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..pairs.record import counted
from ..ranking.image_store import NewImage
from ..ranking.session import Session, SessionState
from ..ranking.vote import set_id as id_of_set
from .answer_key import AnswerKey
from .couple import Couple, CoupleError, NewCouple, Sides
from .outcome import PERSON, Outcome, is_answered, outcome_of
from .tally import Tally


@dataclass(frozen=True)
class ComparisonState:
    """A comparison at one moment.

    Attributes:
        session: the votes.
        sides: what is compared.
        couples: in the order they came, without those whose images the session has lost.
        revealed: what was said of each set when it was revealed.
    """

    session: SessionState
    sides: Sides
    couples: tuple[Couple, ...]
    revealed: Mapping[str, Outcome]

    @cached_property
    def asked(self) -> tuple[Couple, ...]:
        """The couples that differ."""
        return tuple(couple for couple in self.couples if couple.set_id)

    @property
    def identical(self) -> int:
        return len(self.couples) - len(self.asked)

    @cached_property
    def answered(self) -> frozenset[str]:
        """The sets a person has said something on, be it to pass over it."""
        return frozenset(one.set_id for one in self.asked if is_answered(self.session, one))

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """What the votes say now of each set they say something of."""
        found = {one.set_id: outcome_of(self.session, one) for one in self.asked}
        return {set_id: outcome for set_id, outcome in found.items() if outcome is not None}

    @cached_property
    def counting(self) -> dict[str, Outcome]:
        """What counts: all that is revealed."""
        known = {couple.set_id for couple in self.asked}
        return {set_id: one for set_id, one in self.revealed.items() if set_id in known}

    @property
    def has_person(self) -> bool:
        """Whether a person takes part, whose choices on what judges have revealed are no part."""
        by_judge = {set_id for set_id, one in self.revealed.items() if one.by != PERSON}
        return bool(self.answered - by_judge)

    @property
    def hidden(self) -> int:
        """How many couples are judged that are not revealed."""
        return len(self.outcomes.keys() - self.counting.keys())

    @property
    def changed(self) -> int:
        """Of how many revealed couples the votes now say something else, which is not counted."""
        return sum(
            self.outcomes.get(set_id) != outcome
            for set_id, outcome in self.counting.items()
            if set_id in self.revealed
        )

    @property
    def judges(self) -> Counter[str]:
        """How many of the outcomes that count are whose; a person's under `PERSON`."""
        return Counter(outcome.by for outcome in self.counting.values())

    def tally(self, outcomes: Mapping[str, Outcome]) -> Tally:
        """All outcomes together; identical pictures count once there is something besides them."""
        alone = not outcomes and self.asked
        return Tally.of(outcomes.values(), 0 if alone else self.identical)

    def by_prompt(self, outcomes: Mapping[str, Outcome]) -> dict[str, Tally]:
        """The tally of each prompt that has outcomes, in the order they came."""
        said: dict[str, list[Outcome]] = {}
        identical: Counter[str] = Counter()
        for couple in self.couples:
            prompt = self.prompt(couple)
            if not couple.set_id:
                said.setdefault(prompt, [])
                identical[prompt] += 1
            elif couple.set_id in outcomes:
                said.setdefault(prompt, []).append(outcomes[couple.set_id])
        return {prompt: Tally.of(one, identical[prompt]) for prompt, one in said.items()}

    def prompt(self, couple: Couple) -> str:
        """What a couple was drawn with, as it was corrected since."""
        candidates = self.session.sets.get(couple.set_id)
        return couple.prompt if candidates is None else candidates.prompt


class BlindComparison:
    """The comparison of two sides in a session, on the disk."""

    def __init__(self, session: Session, sides: Sides) -> None:
        self.session, self.sides = session, sides
        self._key = AnswerKey(session.folder)

    @classmethod
    def find(cls, session: Session, comparison: str) -> BlindComparison | None:
        """A comparison by its id, if the session has it."""
        entry = AnswerKey(session.folder).entry(comparison)
        return None if entry is None else cls(session, entry.sides)

    @property
    def id(self) -> str:
        return self.sides.comparison

    def add(self, couple: NewCouple, metadata: Mapping[str, str]) -> Couple:
        """Stores two pictures to be compared, durably; the same again count once.

        Args:
            couple: the pictures, under a tidy prompt.
            metadata: text chunks for the files of both; it must not say which is which.

        Raises:
            CoupleError: the same two were compared the other way round.
            LogLockedError, ValueError, OSError: as `Session.add_set`.
        """
        (a, _), (b, _) = couple.a, couple.b
        self.session.folder.mkdir(parents=True, exist_ok=True)
        voted_on = "" if a == b else id_of_set(couple.prompt, [a, b])
        # Before the images: without them it is passed over, and they would be nobody's without it.
        stored = self._key.add(self.sides, Couple(voted_on, couple.prompt, a, b))
        if stored.a != a:
            raise CoupleError(
                [
                    f"In the session {self.session.name!r} the same pictures were compared with "
                    f"{self.sides.a.name} and {self.sides.b.name} the other way round: exchange "
                    "`images_a` and `images_b`, or use another session."
                ]
            )
        if voted_on:
            both = sorted((couple.a, couple.b), key=lambda one: one[0])
            images = [NewImage(pixels, metadata, image_id) for image_id, pixels in both]
            self.session.add_set(images, couple.prompt)
        return stored

    def state(self) -> ComparisonState:
        """The comparison as it is on disk now."""
        state, entry = self.session.state(), self._key.entry(self.id)
        if entry is None:
            return ComparisonState(state, self.sides, (), {})
        couples = tuple(
            one
            for one in entry.couples
            if not one.set_id
            or (one.set_id in state.sets and state.sets[one.set_id].image_ids == {one.a, one.b})
        )
        return ComparisonState(state, self.sides, couples, entry.revealed)

    def reveal(self) -> ComparisonState:
        """Tells whose the pictures are that were judged so far; what was said of them stays.

        Raises:
            LogLockedError, OSError: it could not be written, and nothing is told.
        """
        return self._told(self.state())

    def reveal_judged(self) -> ComparisonState:
        """Reveals what judges said, unless a person takes part: then that is for them to do.

        Raises as `reveal`.
        """
        state = self.state()
        return state if state.has_person else self._told(state)

    def _told(self, state: ComparisonState) -> ComparisonState:
        new = {
            set_id: outcome
            for set_id, outcome in state.outcomes.items()
            if set_id not in state.revealed
        }
        if not new:
            return state
        self._key.reveal(self.id, new)
        return self.state()


def progress(state: ComparisonState) -> str:
    """How much of it is judged, which says nothing of who is preferred."""
    if not state.couples:
        return "no couples of pictures are left"
    if not state.asked:
        return "both sides drew the same pictures, so there is nothing to compare"
    judged = len(state.answered | state.outcomes.keys() | state.counting.keys())
    return f"{judged} of {counted(len(state.asked), 'couple')} of pictures judged"
