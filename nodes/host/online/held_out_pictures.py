"""Pictures of prompts and seeds that are never trained on, drawn round after round."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....dpo_core.judging.judge import PairwiseJudge, Pixels
from ....dpo_core.judging.panel import Panel
from ....dpo_core.saving.filmstrip import BASE, Filmstrip
from ..encoding import PromptEncoder
from ..latents import vae_file
from ..progress import Progress
from ..sampling import SamplerSettings, decoded, picture, sampled_latents
from ..trainer import Trainer
from .online_settings import OnlineSettings
from .policy import policy_model

FOLDER = "held_out"


class HeldOutPictures:
    """A fixed grid of prompts and seeds, kept as a filmstrip with a column for each round.

    Args:
        folder: of the rounds.
        settings: what is drawn, and how.
        encoder: of the prompts.
        vae: the host's VAE.
        first: the trainer before all rounds, with which later ones are compared.
    """

    def __init__(
        self, folder: Path, settings: OnlineSettings, encoder: PromptEncoder, vae: Any,
        first: Trainer,
    ) -> None:
        self._settings, self._encoder, self._vae, self._first = settings, encoder, vae, first
        self._cells = settings.held_out
        self._known: dict[tuple[str, int], list[float]] = {}
        sampler = {
            name: value for name, value in asdict(settings).items()
            if name in (*SamplerSettings.__dataclass_fields__, "guidance", "negative")
        }
        said = {"seeds": [seed for _, seed in self._cells], **sampler, "vae": vae_file(vae)}
        self.strip = Filmstrip(folder / FOLDER, [prompt for prompt, _ in self._cells], said)

    def __len__(self) -> int:
        return len(self._cells)

    def draw(self, policy: Trainer, progress: Progress) -> None:
        """Draws the column of a policy, unless it is there.

        Raises:
            TrainingError: the policy's checkpoint is gone or damaged.
            OSError: no room.
        """
        column = _column(policy)
        if not self._cells or self.strip.has(column):
            return
        negative = self._settings.tidy_negative
        encoded = self._encoder.encode_all([*(prompt for prompt, _ in self._cells), negative])
        latents = []
        with policy_model(policy) as patcher:
            for number, (prompt, seed) in enumerate(self._cells, 1):
                progress.say(f"held-out picture {number} of {len(self._cells)}")
                latents.append(sampled_latents(
                    patcher, encoded[prompt], encoded[negative], self._settings, seed, 1, progress
                ))
                progress.tick()
            pictures = [picture(decoded(self._vae, latent)) for latent in latents]
        self.strip.add(column, pictures)

    def metrics(self, policy: Trainer, panel: Panel) -> dict[str, float]:
        """What judges say of a policy's column beside the first one's.

        Returns:
            ``held_out/win_rate``, the share of pictures that are better than the first policy's
            of the same prompt and seed, a tie counting one half; ``held_out/gain``, by how much
            they score better on average; and ``held_out/scores``, their mean score, unless a judge
            only ever compares two.

        Raises:
            JudgeError: a judge cannot tell.
            OSError: a picture is gone.
        """
        if not self._cells:
            return {}
        compares = any(isinstance(one.judge, PairwiseJudge) for one in panel.members)
        if compares:
            pairs = self._compared(policy, panel)
        else:
            columns = (self._scores(one, panel) for one in (self._first, policy))
            pairs = list(zip(*columns, strict=True))
        count = len(pairs)
        found = {
            "held_out/win_rate": sum((new > old) + (new == old) / 2 for old, new in pairs) / count,
            "held_out/gain": sum(new - old for old, new in pairs) / count,
        }
        return found if compares else found | {
            "held_out/scores": sum(new for _, new in pairs) / count
        }

    def _scores(self, policy: Trainer, panel: Panel) -> list[float]:
        """One for each picture of a column, asked for once."""
        key = (panel.name, _column(policy))
        if key not in self._known:
            self._known[key] = [
                panel.verdict([pixels], prompt).scores[0]
                for (prompt, _), pixels in zip(self._cells, self._pictures(policy), strict=True)
            ]
        return self._known[key]

    def _compared(self, policy: Trainer, panel: Panel) -> list[tuple[float, float]]:
        """Of every picture beside the first policy's, both scores."""
        first, now = (self._pictures(one) for one in (self._first, policy))
        found = []
        for (prompt, _), before, after in zip(self._cells, first, now, strict=True):
            old, new = panel.verdict([before, after], prompt).scores
            found.append((old, new))
        return found

    def _pictures(self, policy: Trainer) -> list[Pixels]:
        return [_pixels(path) for path in self.strip.files(_column(policy))]


def _column(policy: Trainer) -> int:
    """The step of a policy; BASE for a model without a LoRA."""
    return BASE if policy.step == 0 and policy.origin.existing is None else policy.step


def _pixels(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
