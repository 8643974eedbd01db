"""The pictures of a round: drawn by the policy, and stored in a session to be ranked."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....dpo_core.online.record import OnlineRecord, OnlineRound
from ....dpo_core.pairs.latent_file import KnownLatent
from ....dpo_core.ranking.image_store import NewImage
from ....dpo_core.ranking.session import Session
from ..candidates import add_candidates
from ..encoding import PromptEncoder
from ..latents import vae_file
from ..progress import Progress
from ..sampling import SamplerSettings, decoded, sampled_latents
from ..trainer import Trainer
from .online_settings import OnlineSettings
from .policy import policy_model


class RoundPictures:
    """Draws what a round still lacks.

    Args:
        settings: what is drawn, and how.
        encoder: of the prompts.
        vae: the host's VAE.
        session: gets the pictures.
        record: is told of every set that is stored.
    """

    def __init__(
        self,
        settings: OnlineSettings,
        encoder: PromptEncoder,
        vae: Any,
        session: Session,
        record: OnlineRecord,
    ) -> None:
        self._settings, self._encoder, self._vae = settings, encoder, vae
        self._session, self._record = session, record

    def draw(self, one: OnlineRound, policy: Trainer, progress: Progress) -> OnlineRound:
        """The round with a set of pictures for each of its prompts.

        What was drawn before a Stop or an error is stored, and is not drawn again.

        Raises:
            ValueError: no room for the pictures, a prompt that cannot be encoded, or pictures that
                are none.
            TrainingError: the policy's checkpoint is gone or damaged.
        """
        missing = range(len(one.sets), len(one.prompts))
        if not missing:
            return one
        encoded = self._encoder.encode_all([*one.prompts, self._settings.tidy_negative])
        with policy_model(policy) as patcher:
            for place in missing:
                progress.say(
                    f"round {one.number}: drawing prompt {place + 1} of {len(one.prompts)}"
                )
                latents = self._latents(one, place, patcher, encoded, progress)
                one = self._stored(one, place, latents)
                progress.tick()
        return one

    def _latents(
        self,
        one: OnlineRound,
        place: int,
        patcher: ModelPatcher,
        encoded: dict[str, Any],
        progress: Progress,
    ) -> Tensor:
        settings = self._settings
        return sampled_latents(
            patcher, encoded[one.prompts[place]], encoded[settings.tidy_negative], settings,
            self._seed(one, place), settings.images_per_prompt, progress,
        )

    def _seed(self, one: OnlineRound, place: int) -> int:
        return self._settings.seed_of(self._record.drawn_before(one.number) + place)

    def _stored(self, one: OnlineRound, place: int, latents: Tensor) -> OnlineRound:
        pixels = [decoded(self._vae, latent) for latent in latents.split(1)]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (latents, *pixels)):
            raise ValueError(
                f"The pictures of round {one.number} hold values that are no numbers. If the model "
                "by itself draws normal pictures, the LoRA has gone too far: begin anew with "
                "another session and a lower learning rate. Else look at the VAE (--fp32-vae)."
            )
        images = [
            NewImage(one_of.numpy(), self._metadata(one, place, number))
            for number, one_of in enumerate(pixels)
        ]
        file = vae_file(self._vae)
        known = [KnownLatent(latent.float().cpu().numpy(), file) for latent in latents]
        made = add_candidates(self._session, images, one.prompts[place], known)
        return self._record.change(one.number, sets=(*one.sets, made.id))

    def _metadata(self, one: OnlineRound, place: int, number: int) -> dict[str, str]:
        if args.disable_metadata:
            return {}
        made = {
            name: value
            for name, value in asdict(self._settings).items()
            if name in SamplerSettings.__dataclass_fields__ and name not in ("width", "height")
        }
        seed = self._seed(one, place)
        said = {**made, "seed": seed, "batch_index": number, "online_round": one.number}
        return {"dpo_generation": json.dumps(said)}
