"""The pictures of a round: drawn by the policy, and stored in a session to be ranked."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import comfy.model_management
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.online.record import OnlineRecord, OnlineRound
from ...dpo_core.pairs.latent_file import KnownLatent
from ...dpo_core.ranking.image_store import NewImage
from ...dpo_core.ranking.session import Session
from .candidates import add_candidates
from .encoding import PromptEncoder
from .latents import vae_file
from .online_settings import OnlineSettings
from .policy import policy_model
from .progress import Progress
from .sampling import SamplerSettings, decoded, sampled_latents
from .trainer import Trainer


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

        What was drawn before Stop is stored, and is not drawn again.

        Raises:
            ValueError: no room for the pictures, or a prompt that cannot be encoded.
            TrainingError: the policy's checkpoint is gone or damaged.
        """
        missing = range(len(one.sets), len(one.prompts))
        if not missing:
            return one
        encoded = self._encoder.encode_all([*one.prompts, self._settings.negative])
        latents: list[Tensor] = []
        with policy_model(policy) as patcher:
            try:
                for place in missing:
                    progress.say(
                        f"round {one.number}: drawing prompt {place + 1} of {len(one.prompts)}"
                    )
                    latents.append(self._latents(one, place, patcher, encoded, progress))
                    progress.tick()
            except comfy.model_management.InterruptProcessingException:
                self._stored(one, latents)
                raise
            # The VAE takes the model's place at most once in a round.
            return self._stored(one, latents)

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
            patcher, encoded[one.prompts[place]], encoded[settings.negative], settings,
            settings.seed_of(one.number, place), settings.images_per_prompt, progress,
        )

    def _stored(self, one: OnlineRound, latents: list[Tensor]) -> OnlineRound:
        for batch in latents:
            place = len(one.sets)
            images = [
                NewImage(decoded(self._vae, latent).numpy(), self._metadata(one, place, number))
                for number, latent in enumerate(batch.split(1))
            ]
            file = vae_file(self._vae)
            known = [KnownLatent(latent.float().cpu().numpy(), file) for latent in batch]
            made = add_candidates(self._session, images, one.prompts[place], known)
            one = self._record.change(one.number, sets=(*one.sets, made.id))
        return one

    def _metadata(self, one: OnlineRound, place: int, number: int) -> dict[str, str]:
        if args.disable_metadata:
            return {}
        made = {
            name: value
            for name, value in asdict(self._settings).items()
            if name in SamplerSettings.__dataclass_fields__ and name not in ("width", "height")
        }
        seed = self._settings.seed_of(one.number, place)
        said = {**made, "seed": seed, "batch_index": number, "online_round": one.number}
        return {"dpo_generation": json.dumps(said)}
