"""Preference sessions: a person's choices, with the images they were made among.

`<root>/<name>/` holds `images/<id>.png` and `votes.jsonl`, which is the only truth: everything
else is replayed from it. See `vote` for the records. `thumbnails/<id>.webp` are made again when
they are missing. `latents/<id>.safetensors` are what images were decoded from, where that is known.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..metadata.prompt_text import MAX_PROMPT_CHARS, tidy_prompt
from ..pairs.latent_file import KnownLatent
from ..pairs.problem import PairError
from ..pairs.record import Picture
from .completion import is_ranked
from .image_store import ImageStore, NewImage
from .latent_store import LATENTS, LatentStore
from .session_name import SessionNameError, same_session, session_name
from .vote import (
    BY_JUDGE,
    MAX_IMAGES,
    MAX_STRIKES,
    Candidate,
    CandidateSet,
    Vote,
    VoteError,
    encode_record,
    identified,
    overruled_votes,
    read_set,
    set_record,
    vote_problems,
)
from .vote_log import LogReading, VoteLog

LOG_NAME = "votes.jsonl"


@dataclass(frozen=True)
class SessionState:
    """What a log says, after every strike: an immutable value, the same for the same log.

    Attributes:
        name: of the session.
        sets: every candidate set by its id, in the order they came, with its corrected prompt.
        votes: the votes that count, oldest first; no undos, and no corrections of prompts.
        struck: how many votes were struck out.
        passed_over: how many lines no vote could be made of: damaged, or of a newer version.
        folder: of the images.
    """

    name: str
    sets: Mapping[str, CandidateSet]
    votes: tuple[Vote, ...]
    struck: int
    passed_over: int
    folder: Path
    corrections: tuple[Vote, ...] = ()
    """Of prompts: those that count, oldest first."""
    overruled: tuple[Vote, ...] = ()
    """Of judges: those that would count if no person had voted on their sets, oldest first."""

    def votes_on(self, set_id: str) -> list[Vote]:
        """The votes that count on one set, oldest first."""
        return [vote for vote in self.votes if vote["set"] == set_id]

    def is_ranked(self, set_id: str) -> bool:
        """Whether a set has the votes that one of the ways of ranking asks for."""
        return set_id in self.sets and is_ranked(self.sets[set_id], self.votes_on(set_id))

    def digest(self, set_ids: Iterable[str] | None = None) -> str:
        """Hex digest of the votes that count, on some sets or on all."""
        wanted = None if set_ids is None else set(set_ids)
        hasher = hashlib.blake2b(digest_size=16)
        for vote in (*self.votes, *self.corrections):
            if wanted is None or vote["set"] in wanted:
                hasher.update(encode_record(vote))
        return hasher.hexdigest()

    def with_votes(self, votes: Iterable[Vote]) -> SessionState:
        """As it would be after these votes, without storing them; for a preview.

        Raises VoteError. What they strike no longer counts, but strikes are not themselves undone.
        """
        new = [identified(vote) for vote in votes]
        problems = [problem for vote in new for problem in vote_problems(vote, self.sets)]
        if problems:
            raise VoteError(problems)
        struck = {vote_id for vote in new for vote_id in vote.get("strikes", [])}
        kept = [vote for vote in self.votes if vote["id"] not in struck]
        added = [vote for vote in new if vote["kind"] not in ("undo", "prompt")]
        votes = [*kept, *added]
        given_way = overruled_votes(votes)
        return replace(self, votes=tuple(vote for vote in votes if vote not in given_way))

    def picture(self, set_id: str, image_id: str) -> Picture:
        """An image of a set, as training takes it. Raises KeyError."""
        for image in self.sets[set_id].images:
            if image.id == image_id:
                return Picture.from_file(
                    self.folder / f"{image_id}.png",
                    size=(image.width, image.height),
                    digest=image_id,
                    latent=LatentStore(self.folder.parent / LATENTS).path(image_id),
                )
        raise KeyError(image_id)

    def pixels(self, set_ids: Iterable[str]) -> list[list[NDArray[np.uint8]]]:
        """The images of some sets, each (height, width, 3); without what the session has lost."""
        found: list[list[NDArray[np.uint8]]] = []
        for set_id in set_ids:
            images = self.sets[set_id].images if set_id in self.sets else ()
            found.append([])
            for image in images:
                with suppress(PairError):
                    values = self.picture(set_id, image.id).pixels()
                    found[-1].append((255 * values).round().astype(np.uint8))
        return found


class Session:
    """One session on disk; any number of them, in any process, may be open on one folder."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.folder = folder
        self.images = ImageStore(folder / "images")
        self.latents = LatentStore(folder / LATENTS)
        self._log = VoteLog(folder / LOG_NAME)
        self._lock = threading.RLock()
        self._replay = _Replay(generation=0)
        self._state: SessionState | None = None
        self._state_digest = ""

    def add_set(
        self,
        images: Sequence[NewImage],
        prompt: str,
        latents: Sequence[KnownLatent] = (),
    ) -> CandidateSet:
        """Stores images to be ranked together under one prompt, durably.

        The same images and prompt are the same set, in whatever order; images of equal content
        count once.

        Args:
            images: 1 to MAX_IMAGES.
            prompt: what they were made with.
            latents: what each image was decoded from, in the same order; none if not known.

        Raises:
            ValueError: none or more than MAX_IMAGES, one that is no image, too long a prompt,
                another number of latents.
            OSError: no room, no permission.
        """
        if not 1 <= len(images) <= MAX_IMAGES:
            raise ValueError(f"{len(images)} images to rank: give 1 to {MAX_IMAGES} at a time")
        prompt = _checked_prompt(prompt)
        if latents and len(latents) != len(images):
            raise ValueError(f"{len(latents)} latents of {len(images)} images")
        stored = self.store(images, prompt)
        if latents:
            pairs = zip(stored, latents, strict=True)
            self.latents.add({image.id: latent for image, latent in pairs})
        return self.add_stored(stored, prompt)

    def store(self, images: Sequence[NewImage], prompt: str) -> list[Candidate]:
        """Stores images for a set to come, so that not all of a large one are in memory at once.

        Raises as `add_set` does.
        """
        self.images.folder.mkdir(parents=True, exist_ok=True)
        return self.images.add(images, _checked_prompt(prompt))

    def add_stored(self, stored: Sequence[Candidate], prompt: str) -> CandidateSet:
        """`add_set` of images that `store` has stored. Raises as that does."""
        if not 1 <= len(stored) <= MAX_IMAGES:
            raise ValueError(f"{len(stored)} images to rank: give 1 to {MAX_IMAGES} at a time")
        candidates = CandidateSet.of(_checked_prompt(prompt), stored)
        self._log.append(set_record(candidates))
        return self.state().sets[candidates.id]

    def vote(self, vote: Vote) -> tuple[Vote, bool]:
        """Stores a vote; it is on the disk before this returns.

        Without an `id` it gets the digest of its content. The same id counts once, and the first
        record under it stays.

        Returns:
            The stored record, and whether it is new.

        Raises:
            VoteError: what is wrong with it; nothing was stored.
            LogLockedError, OSError: it could not be written; send it again with the same id.
        """
        full = identified(vote)
        if not self.folder.is_dir():
            raise VoteError([f"There is no session {self.name!r}."])
        return self._log.append(full, lambda log: _require(full, log))

    def problems(self, vote: Vote, earlier: Collection[str] = ()) -> list[str]:
        """Everything that keeps a vote from being stored; empty if nothing does.

        Args:
            vote: as for `vote`.
            earlier: ids of votes that will be stored before it.
        """
        self._log.read()
        try:
            return _problems(identified(vote), self._log, earlier)
        except VoteError as error:
            return list(error.problems)

    def undo(self, vote_id: str, undo_id: str | None = None) -> tuple[Vote, bool]:
        """Strikes out one vote, with a vote. Raises as `vote` does."""
        undo_id = undo_id or secrets.token_hex(16)
        return self.vote({"id": undo_id, "kind": "undo", "strikes": [vote_id]})

    def set_of(self, vote_id: str) -> str | None:
        """The set a vote was on, or the votes an undo struck out; None for an unknown vote.

        Of what `vote`, `undo` or `state` have read so far, struck out or not.
        """
        for _ in range(MAX_STRIKES):
            record = self._log.get(vote_id)
            if record is None or record.get("kind") != "undo":
                break
            vote_id = str((record.get("strikes") or [None])[0])
        else:
            return None
        return str(record["set"]) if record is not None and "set" in record else None

    def set_times(self) -> dict[str, int]:
        """When each set came, Unix time in ms, by its id, in the order they came."""
        records = self._log.read().records
        return {
            str(record.get("set")): record.get("at", 0)
            for record in records
            if record.get("kind") == "set"
        }

    def fingerprint(self, people: bool = False) -> str:
        """Changes when the votes that count do, and when the session was deleted meanwhile.

        Not when images are stored. Only to be compared within one process.

        Args:
            people: leave out what judges said.
        """
        state = self.state()
        if people:
            said = [vote for vote in state.votes if vote.get("by") != BY_JUDGE]
            state = replace(state, votes=tuple(said))
        return f"{state.digest()}.{self._log.read().generation}"

    def state(self) -> SessionState:
        """The session as it is on disk now. Reads only what is new."""
        with self._lock:
            log = self._log.read()
            if self._state is None or log.digest != self._state_digest:
                if log.generation != self._replay.generation:
                    self._replay = _Replay(log.generation)
                self._state = self._replay.state(self, log)
                self._state_digest = log.digest
            return self._state


class SessionStore:
    """All sessions below one folder; one Session object per name, so that logs are read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}

    def names(self) -> list[str]:
        """Sessions that have a log, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            entry.name for entry in self.root.iterdir() if (entry / LOG_NAME).is_file()
        )

    def session(self, name: str) -> Session:
        """A session, whose folder is made with its first set.

        Raises SessionNameError, also if another spelling of the name is taken.
        """
        name = session_name(name)
        with self._lock:
            if name not in self._open:
                taken = [other for other in self._folders() if same_session(other, name)]
                if taken and name not in taken:
                    raise SessionNameError(
                        f"There is a session {taken[0]!r} already, which some systems cannot tell "
                        f"from {name!r}. Use that spelling, or another name."
                    )
                self._open[name] = Session(self.root / name)
            return self._open[name]

    def _folders(self) -> list[str]:
        on_disk = [entry.name for entry in self.root.iterdir()] if self.root.is_dir() else []
        return sorted({*on_disk, *self._open})


class _Replay:
    """The records of one generation of a log turned into a state, each looked at once."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._taken = 0
        self._sets: dict[str, CandidateSet] = {}
        self._votes: list[Vote] = []
        self._unknown = 0

    def state(self, session: Session, log: LogReading) -> SessionState:
        for record in log.records[self._taken :]:
            self._take(record)
        self._taken = len(log.records)
        struck = _struck(self._votes)
        count = [vote for vote in self._votes if vote["id"] not in struck]
        corrections = tuple(vote for vote in count if vote["kind"] == "prompt")
        sets = dict(self._sets)
        for vote in corrections:
            sets[vote["set"]] = replace(sets[vote["set"]], prompt=tidy_prompt(vote["prompt"]))
        overruled = overruled_votes(count)
        given_way = {vote["id"] for vote in overruled}
        return SessionState(
            session.name,
            MappingProxyType(sets),
            tuple(
                vote
                for vote in count
                if vote["kind"] not in ("undo", "prompt") and vote["id"] not in given_way
            ),
            len(struck),
            log.damaged + self._unknown,
            session.images.folder,
            corrections,
            tuple(overruled),
        )

    def _take(self, record: Vote) -> None:
        candidates = read_set(record) if record.get("kind") == "set" else None
        if candidates is not None:
            self._sets.setdefault(candidates.id, candidates)
        elif not vote_problems(record, self._sets):
            self._votes.append(record)
        else:
            self._unknown += 1


def _checked_prompt(prompt: str) -> str:
    prompt = tidy_prompt(prompt)
    if len(prompt) > MAX_PROMPT_CHARS:
        raise ValueError(f"the prompt is longer than {MAX_PROMPT_CHARS} characters")
    return prompt


def _require(vote: Vote, log: VoteLog) -> None:
    if problems := _problems(vote, log):
        raise VoteError(problems)


def _problems(vote: Vote, log: VoteLog, earlier: Collection[str] = ()) -> list[str]:
    """What does not fit what is in the log, once the votes of the ids `earlier` are in it, too."""
    record = log.get(f"set:{vote.get('set')}")
    candidates = None if record is None else read_set(record)
    problems = vote_problems(vote, {} if candidates is None else {candidates.id: candidates})
    strikes = vote.get("strikes")
    if isinstance(strikes, list):
        problems += [
            f"`strikes` names {ascii(one)[:60]}, which is no vote of this session."
            for one in strikes
            if not isinstance(one, str) or not (one in earlier or _is_vote(log.get(one)))
        ]
    return problems


def _struck(votes: Sequence[Vote]) -> set[str]:
    """Ids of the votes struck out by a later vote that itself counts."""
    place = {vote["id"]: i for i, vote in enumerate(votes)}
    struck: set[str] = set()
    for i in range(len(votes) - 1, -1, -1):
        # From the last to the first: whether a vote counts is known before its own strikes are.
        strikes = votes[i].get("strikes")
        if strikes and votes[i]["id"] not in struck:
            struck.update(one for one in strikes if place.get(one, i) < i)
    return struck


def _is_vote(record: Vote | None) -> bool:
    return record is not None and record.get("kind") != "set"
