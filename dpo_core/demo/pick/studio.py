"""What happens behind the page: pictures are drawn, picks become pairs, pairs a LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...comparison.comparison import BlindComparison
from ...evaluation.chart import draw_chart
from ...pairs.record import PairSet, Picture
from ...ranking.image_store import ImageStore
from ...ranking.pair_making import PairRules, make_preferences
from ...ranking.requests import RankingRequests
from ...ranking.session import SessionStore
from ...request import RequestRefused
from ...saving.atomic import write_atomically
from ...saving.run_folder import RunFolder
from ...training.adapter import Adapter, AdapterSettings
from ...training.dataset import EncodedPairs
from ..demo import base_digest, save_picture, train_settings, train_until, write_lora, write_text
from ..denoiser import attached, build_adapter
from ..network import load_base, to_tensor
from ..picks import Question, draw_pictures, encoded_pair, questions
from ..sheet import contact_sheet
from .blind_comparison import SIDES, compare_blind, in_words
from .groups import LATENT, draw_groups, new_images
from .worker import Stopped, Worker

MIN_PAIRS = 4
"""Fewer picks say nothing about a taste."""
PATIENCE_SECONDS = 60.0
"""How long the end waits for a step of training."""
# The two in the middle of a group are often liked alike: as a pair they would say little.
RULES = PairRules(pairs_per_group=1, soft_labels=False)


@dataclass(frozen=True)
class PickSettings:
    """Size of the demo."""

    groups: int = 12
    """Groups of pictures to rank; as many come again on wish."""
    pictures: int = 4
    """Pictures in each."""
    steps: int = 60
    """Optimiser steps of each training."""
    seed: int = 0
    """Decides everything that is drawn."""
    shown: int = 16
    """Held-out pictures shown before and after."""
    compared: int = 12
    """Held-out pictures to be compared blindly."""



class Studio:
    """The session, the run, and the one worker that uses the model.

    Everything is on the disk at once, below ``out``: made again, it is where it was.

    Attributes:
        store: of the sessions: the picks, and one for each blind comparison.
        requests: answers what the ranking widget asks of them.
        session: of the picks.
        run: folder of the training.
        pictures: what was drawn before and after.

    Raises:
        OSError: ``out`` cannot be written.
    """

    def __init__(self, out: Path, settings: PickSettings) -> None:
        self.settings = settings
        self.store = SessionStore(out / "sessions")
        self.requests = RankingRequests(self.store, lambda s, image: f"/images/{s}/{image}.png")
        self.session = self.store.session(f"picks-{settings.seed}")
        self._network = load_base()
        self._training = train_settings(settings.seed)
        self._shape = AdapterSettings(rank=8, alpha=8.0)
        content = {
            "session": self.session.name,
            "base": base_digest(self._network),
            "training": asdict(self._training),
            "adapter": asdict(self._shape),
        }
        self.run = RunFolder(out, content, "picks-")
        self.run.open()
        self.pictures = ImageStore(self.run.path / "pictures")
        self._worker = Worker()
        self._wanted = max(settings.groups, len(self.session.state().sets))
        self._counted: tuple[str, int] = ("", 0)

    def start(self) -> None:
        """Draws what is lacking, and goes on with a training that was interrupted."""

        def work() -> None:
            self._draw_groups()
            if self._is_open() and len(self._pairs()) >= MIN_PAIRS:
                self._learn()

        self._worker.start(work, "drawing pictures")

    def close(self) -> None:
        """Ends what is going on after its next step; all is saved."""
        self._worker.stop(PATIENCE_SECONDS)

    def train(self) -> None:
        """Begins to train on all picks so far; goes on from where the last training ended.

        Raises:
            RequestRefused: too few picks, or something else is going on.
        """
        if (count := self._count()) < MIN_PAIRS:
            raise RequestRefused(
                409, f"{MIN_PAIRS} pairs are needed to train and there are {count}: rank some more."
            )
        if not self._worker.start(self._train, "training"):
            raise self._busy()

    def more(self) -> None:
        """Begins to draw as many groups again.

        Raises:
            RequestRefused: something else is going on.
        """

        def work() -> None:
            self._wanted = len(self.session.state().sets) + self.settings.groups
            self._draw_groups()

        if not self._worker.start(work, "drawing pictures"):
            raise self._busy()

    def state(self) -> dict[str, Any]:
        """Everything the page shows besides the ranking itself, as plain data."""
        state = self.session.state()
        done, aim = self._done(), self._aim()
        rows = self.run.metrics(done if not self._worker.busy else aim["steps"])
        return {
            "session": self.session.name,
            "folder": str(self.session.folder.resolve()),
            "groups": [{"set_id": one, "ranked": state.is_ranked(one)} for one in state.sets],
            "wanted": self._wanted,
            "pairs": self._count(),
            "min_pairs": MIN_PAIRS,
            "steps": {"each": self.settings.steps, "done": done, "aim": aim["steps"]},
            "job": self._worker.state(),
            "problem": self._worker.problem,
            "metrics": [
                {
                    "step": row["step"],
                    "loss": row.get("dpo/raw_loss"),
                    "accuracy": row.get("dpo/accuracy"),
                }
                for row in rows
            ],
            "result": self._result_state(),
        }

    def _result_state(self) -> dict[str, Any] | None:
        result = self._read("result.json")
        if result is None:
            return None
        blind = BlindComparison(self.store.session(result["blind"]["session"]), SIDES).state()
        # The page keeps it to itself while it asks, so nothing needs to be revealed.
        tally = blind.tally(blind.outcomes)
        return {
            "steps": result["steps"],
            "pairs": result["pairs"],
            "lora": str((self.run.path / "lora.safetensors").resolve()),
            "folder": str(self.run.path.resolve()),
            "pictures": [
                {
                    "prompt": one["prompt"],
                    "before": f"/pictures/{one['before']}.png",
                    "after": f"/pictures/{one['after']}.png",
                }
                for one in result["pictures"]
            ],
            "blind": {
                "session": blind.session.name,
                "sets": [one.set_id for one in blind.asked],
                "answered": [one.set_id in blind.answered for one in blind.asked],
                "identical": blind.identical,
                "share": None
                if (share := tally.share) is None
                else {**share._asdict(), "text": str(share), "words": in_words(share)},
            },
        }

    # What the worker does

    def _draw_groups(self) -> None:
        one = self.settings
        draw_groups(
            self._network, self.session, self._wanted, one.pictures, one.seed,
            self._worker.progress,
        )

    def _train(self) -> None:
        if not self._is_open():
            aim = self._aim()
            self._write(
                "aim.json",
                {"steps": self._done() + self.settings.steps, "round": aim["round"] + 1},
            )
        self._learn()

    def _learn(self) -> None:
        """Trains up to the aim, then draws what it did."""
        aim = self._aim()
        preferences = self._pairs()
        adapter = build_adapter(self._network, self._shape, self._training.seed)
        made = train_until(
            self._network, adapter, encoded_pairs(preferences), self._training, self.run,
            aim["steps"], self._worker.progress, self._worker.stopped,
        )
        if made < aim["steps"]:
            raise Stopped
        self._leave(adapter, aim, len(preferences))

    def _leave(self, adapter: Adapter, aim: Mapping[str, int], pairs: int) -> None:
        """Writes the LoRA, then pictures of held-out prompts, some shown and some compared."""
        one, steps = self.settings, aim["steps"]
        title = f"demo_{self.session.name}"
        write_lora(self.run, adapter, self._shape, self._training, title, pairs, steps)
        every = questions(one.shown + one.compared * aim["round"], one.seed, held_out=True)
        shown = every[: one.shown]
        # Others each time, and none that was shown under its name before.
        asked = every[len(every) - one.compared :]
        before, after = self._draw_both(adapter, [*shown, *asked])
        k = len(shown)
        folder = self.run.path
        labels = ("base", "LoRA")
        save_picture(
            folder / "before_and_after.png", contact_sheet(before[:k], after[:k], 8, labels)
        )
        save_picture(folder / "curves.png", draw_chart(self.run.metrics(steps), "your taste"))
        session = self.store.session(f"blind-{self.run.id}-{steps}")
        compare_blind(session, asked, before[k:], after[k:])
        result = {
            "steps": steps,
            "pairs": pairs,
            "pictures": self._stored(shown, before[:k], after[:k]),
            "blind": {"session": session.name},
        }
        self._write("result.json", result)

    def _draw_both(self, adapter: Adapter, asked: list[Question]) -> tuple[Tensor, Tensor]:
        prompts, seeds = [q.prompt for q in asked], [q.seeds[0] for q in asked]
        stage, total = "drawing before and after", 2 * len(asked)

        def told(first: int, done: int) -> None:
            self._worker.progress(stage, first + done, total)

        told(0, 0)
        before = draw_pictures(self._network, prompts, seeds, lambda n: told(0, n))
        with attached(self._network, adapter):
            after = draw_pictures(self._network, prompts, seeds, lambda n: told(len(asked), n))
        return before, after

    def _stored(
        self, asked: list[Question], before: Tensor, after: Tensor
    ) -> list[dict[str, str]]:
        self.pictures.folder.mkdir(parents=True, exist_ok=True)
        found = []
        for question, base, ours in zip(asked, before, after, strict=True):
            seed = question.seeds[0]
            two = new_images(torch.stack([base, ours]), (seed, seed))
            first, second = self.pictures.add(two, question.prompt)
            found.append({"prompt": question.prompt, "before": first.id, "after": second.id})
        return found

    # What is on the disk

    def _pairs(self) -> PairSet:
        return make_preferences(self.session.state(), RULES).records

    def _count(self) -> int:
        """Pairs so far; worked out again only when something was chosen."""
        digest = self.session.state().digest()
        if self._counted[0] != digest:
            self._counted = (digest, len(self._pairs()))
        return self._counted[1]

    def _done(self) -> int:
        """Steps that are on the disk."""
        return max(self.run.checkpoints(), default=0)

    def _aim(self) -> dict[str, int]:
        """The steps that the last training goes up to, and how many trainings there were."""
        return self._read("aim.json") or {"steps": 0, "round": 0}

    def _is_open(self) -> bool:
        """True if a training was begun whose result is not there."""
        result = self._read("result.json") or {"steps": 0}
        return bool(result["steps"] < self._aim()["steps"])

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.run.path / name).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.run.path / name, lambda part: write_text(part, text))

    def _busy(self) -> RequestRefused:
        at = self._worker.state()
        stage = "ending" if at is None else at["stage"]
        return RequestRefused(409, f"Wait a moment: the demo is still {stage}.")


def encoded_pairs(preferences: PairSet) -> EncodedPairs:
    """The picked pictures as the embedded model drew them.

    Raises:
        PairError: an image cannot be read.
    """
    return EncodedPairs(
        tuple(
            encoded_pair(_drawn(pair.chosen), _drawn(pair.rejected), pair.prompt)
            for pair in preferences.pairs
        )
    )


def _drawn(picture: Picture) -> Tensor:
    """(3, 64, 64); from the image where what it was made from is gone."""
    latent = picture.latent()
    if latent is not None and latent.vae == LATENT:
        return torch.from_numpy(latent.values)
    return to_tensor(picture.pixels()[None])[0]


__all__ = ["MIN_PAIRS", "PickSettings", "Studio", "encoded_pairs"]
