"""The pairs of a scanned pair folder under review: train and val together, with what is odd."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..metadata.prompt_text import tidy_prompt
from ..pairs.belief import CERTAIN, beliefs_stamp, read_beliefs
from ..pairs.caption import CAPTION_SUFFIX
from ..pairs.pattern import SidePattern, place, split_of
from .curation import Curation
from .edit import EditError
from .folder_edits import FolderEdits, Step
from .found_image import FoundImage
from .inconsistency import Choice
from .review import ReviewedImage, ReviewedPair, marked

RESCAN_SECONDS = 20.0
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Orphan:
    """An image of a side without its partner.

    Attributes:
        reason: "alone", or "several" of one name on one side.
    """

    image: FoundImage
    side: str
    place: str
    reason: str


@dataclass(frozen=True)
class _Matched:
    chosen: FoundImage
    rejected: FoundImage


class FolderReview:
    """A pair folder, as two patterns divide it.

    Args:
        curation: its scan.
        chosen, rejected: as for `load_pair_folder`.
    """

    def __init__(self, curation: Curation, chosen: SidePattern, rejected: SidePattern) -> None:
        self._curation = curation
        self._chosen, self._rejected = chosen, rejected
        self._edits = FolderEdits(curation.folder)
        self._lock = threading.Lock()
        self._known: tuple[object, list[ReviewedPair], dict[str, _Matched], list[Orphan]]
        self._known = (None, [], {}, [])

    def pairs(self) -> list[ReviewedPair]:
        """All pairs, by name."""
        return self._read()[1]

    def choices(self) -> Iterator[Choice]:
        """What each pair says."""
        for pair in self.pairs():
            yield Choice(pair.prompt or "", pair.chosen.identity, pair.rejected.identity)

    def orphans(self) -> list[Orphan]:
        return self._read()[3]

    @property
    def edits(self) -> FolderEdits:
        return self._edits

    def image(self, image_id: str) -> FoundImage | None:
        return self._curation.scan.image(image_id)

    def edit(self, edit_id: str, kind: str, pair: ReviewedPair, prompt: str) -> None:
        """Removes or flips a pair, or gives it another prompt (`kind`). As `SessionReview.edit`.

        The answer of `pairs` is up to date when this returns.
        """
        with self._lock:
            matched = self._read()[2].get(pair.place)
            if matched is None or not all(
                map(self._is_unchanged, (matched.chosen, matched.rejected))
            ):
                raise EditError("This pair has changed since. Look again.")
            if kind == "remove":
                names = [matched.chosen.name, matched.rejected.name]
                steps = self._taken_out(edit_id, names)
            elif kind == "flip":
                steps = self._flipped(edit_id, matched)
            else:
                steps = self._captioned(edit_id, matched, prompt)
            what = prompt if kind == "prompt" else ""
            self._edits.make(edit_id, kind, pair.place, what, steps)
            self.look_again()

    def drop(self, edit_id: str, orphan: Orphan) -> None:
        """Takes an image out that belongs to no pair. Raises EditError, OSError."""
        with self._lock:
            steps = self._taken_out(edit_id, [orphan.image.name])
            self._edits.make(edit_id, "drop", orphan.place, orphan.image.name, steps)
            self.look_again()

    def mend(self, edit_id: str, chosen: Orphan, rejected: Orphan) -> None:
        """Makes two orphans a pair: the rejected one gets the chosen one's name.

        Raises EditError, OSError.
        """
        if (chosen.side, rejected.side) != SIDES:
            raise EditError("A pair needs an image of each side.")
        with self._lock:
            target = self._partner_name(chosen)
            name = rejected.image.name
            steps: list[Step] = [("move", name, target + PurePosixPath(name).suffix)]
            steps += [("move", one, target + CAPTION_SUFFIX) for one in self._captions(name)[:1]]
            self._edits.make(edit_id, "mend", chosen.place, name, steps)
            self.look_again()

    def undo(self, edit_id: str, undo_id: str) -> None:
        """Takes an edit back. Raises EditError, OSError."""
        with self._lock:
            self._edits.undo(edit_id, undo_id)
            self.look_again()

    def look_again(self) -> None:
        """Takes in what has changed; waits for that as long as a page may wait."""
        self._curation.scan.wait(RESCAN_SECONDS)  # it may have listed the folder before
        self._curation.scan.start()
        self._curation.scan.wait(RESCAN_SECONDS)

    def _read(self) -> tuple[object, list[ReviewedPair], dict[str, _Matched], list[Orphan]]:
        findings, folder = self._curation.scan.findings(), self._curation.folder
        key = findings.revision, beliefs_stamp(folder)
        if self._known[0] != key:
            matched, orphans = self._matched(findings.images.values())
            beliefs, _ = read_beliefs(folder)
            pairs = marked(
                _pair(name, two, beliefs.get(name, CERTAIN).chosen_probability,
                      beliefs.get(name, CERTAIN).rating_gap)
                for name, two in matched.items()
            )  # fmt: skip
            self._known = key, pairs, matched, orphans
        return self._known

    def _matched(
        self, images: Iterable[FoundImage]
    ) -> tuple[dict[str, _Matched], list[Orphan]]:
        sides: Mapping[str, dict[str, list[FoundImage]]]
        sides = {side: defaultdict(list) for side in SIDES}
        for image in images:
            found = place(_bare(image.name), self._chosen, self._rejected)
            if found is not None:
                sides[found[0]][found[1]].append(image)
        matched: dict[str, _Matched] = {}
        orphans: list[Orphan] = []
        for name in sorted({*sides["chosen"], *sides["rejected"]}):
            ours, theirs = (sides[side].get(name, []) for side in SIDES)
            if len(ours) == len(theirs) == 1:
                matched[name] = _Matched(ours[0], theirs[0])
                continue
            for side, some in zip(SIDES, (ours, theirs), strict=True):
                reason = "several" if len(some) > 1 else "alone"
                if reason == "several" or not (ours and theirs):
                    orphans += [Orphan(image, side, name, reason) for image in some]
        return matched, orphans

    def _taken_out(self, edit_id: str, names: Sequence[str]) -> list[Step]:
        files = [one for name in names for one in (name, *self._captions(name))]
        # The captions of a left-over image of the same name stay with that.
        return [("move", one, self._edits.kept(edit_id, one)) for one in dict.fromkeys(files)]

    def _flipped(self, edit_id: str, matched: _Matched) -> list[Step]:
        """The images change places; captions stay, since the prompt is that of the pair."""
        ours, theirs = PurePosixPath(matched.chosen.name), PurePosixPath(matched.rejected.name)
        aside = self._edits.kept(edit_id, str(ours))
        return [
            ("move", str(ours), aside),
            ("move", str(theirs), str(ours.with_suffix(theirs.suffix))),
            ("move", aside, str(theirs.with_suffix(ours.suffix))),
        ]

    def _captioned(self, edit_id: str, matched: _Matched, prompt: str) -> list[Step]:
        """Every caption of the pair says the new prompt; without any, the chosen image gets one."""
        names = [*self._captions(matched.chosen.name), *self._captions(matched.rejected.name)]
        steps: list[Step] = [("move", one, self._edits.kept(edit_id, one)) for one in names]
        written = names or [str(PurePosixPath(matched.chosen.name).with_suffix(CAPTION_SUFFIX))]
        return steps + [("write", one, tidy_prompt(prompt)) for one in written]

    def _is_unchanged(self, image: FoundImage) -> bool:
        """Another page, or another program, may have changed the folder a moment ago."""
        try:
            status = (self._curation.folder / image.name).stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (image.bytes, image.mtime_ns)

    def _captions(self, name: str) -> list[str]:
        """The caption files beside an image, however their endings are spelt."""
        parent = self._curation.folder / PurePosixPath(name).parent
        bare = _bare(PurePosixPath(name).name)
        try:
            entries = sorted(os.listdir(parent))
        except OSError:
            return []
        return [
            str(PurePosixPath(name).with_name(entry))
            for entry in entries
            if entry.lower().endswith(CAPTION_SUFFIX) and _bare(entry) == bare
        ]

    def _partner_name(self, chosen: Orphan) -> str:
        """The rejected image's path without ending that makes a pair of this one's name."""
        first, slash, rest = chosen.place.partition("/")
        forms = [self._rejected.name(chosen.place)]
        if slash:
            forms.append(f"{first}/{self._rejected.name(rest)}")
        fitting = [
            form
            for form in forms
            if place(form, self._chosen, self._rejected) == ("rejected", chosen.place)
        ]
        there = [
            form
            for form in fitting
            if (self._curation.folder / PurePosixPath(form).parent).is_dir()
        ]
        if not fitting:
            raise EditError("These two cannot be made a pair by renaming one.")
        return (there or fitting)[0]


def _bare(name: str) -> str:
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


def _pair(
    name: str, matched: _Matched, probability: float, gap: float | None
) -> ReviewedPair:
    ours, theirs = matched.chosen, matched.rejected
    written = [one for one in (ours, theirs) if one.caption]
    prompts = [one.prompt for one in (written or (ours, theirs)) if one.prompt is not None]
    problems: list[str] = []
    if ours.problem or theirs.problem:
        problems.append("unreadable")
    else:
        if (ours.digest or ours.id) == (theirs.digest or theirs.id):
            problems.append("same_image")
        elif (ours.width, ours.height) != (theirs.width, theirs.height):
            problems.append("sizes_differ")
        if len(set(prompts)) > 1:
            problems.append("prompts_differ")
    return ReviewedPair(
        hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest(),
        name,
        prompts[0] if prompts else None,
        _shown(ours),
        _shown(theirs),
        probability,
        gap,
        None,
        split_of(name),
        max(ours.at, theirs.at),
        tuple(problems),
    )


def _shown(image: FoundImage) -> ReviewedImage:
    identity = image.digest or image.id
    return ReviewedImage(image.id, identity, image.name, image.width, image.height)
