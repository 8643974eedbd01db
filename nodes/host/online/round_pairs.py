"""What a round trains on: pairs of its own pictures, and some of those before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ....dpo_core.online.replay import replayed
from ....dpo_core.ranking.pair_making import PairRules, make_preferences
from ....dpo_core.ranking.session import Session
from ....dpo_core.training.dataset import EncodedPairs
from ..encoding import encode_pairs, model_shaped
from ..trainer import Trainer
from .online_settings import OnlineSettings


class RoundPairs:
    """The datasets of rounds, from what was chosen in their sets so far.

    Args:
        trainer: as it came; its own pairs are replayed, too.
        settings: how pairs are made.
        session: of the sets.
        vae: the host's VAE. What it decoded is trained on as it was drawn, not encoded again.
        clip: the host's text encoder.
    """

    def __init__(
        self, trainer: Trainer, settings: OnlineSettings, session: Session, vae: Any, clip: Any
    ) -> None:
        self._trainer, self._settings, self._session = trainer, settings, session
        self._vae, self._clip = vae, clip
        self._held_out = {one.group for one in trainer.held_out.records}

    def own(self, set_ids: Sequence[str]) -> EncodedPairs:
        """What the objective can learn from in some sets; empty if nothing was told apart there.

        Without what belongs to prompts that the trainer keeps for validation.
        """
        objective = self._trainer.settings.objective
        rules = PairRules(self._settings.pairs_per_group, soft_labels=False)
        records = make_preferences(self._session.state(), rules, set_ids).records
        groups = objective.reads == "groups" or objective.takes_ties
        with torch.inference_mode(False), torch.no_grad():
            dataset = encode_pairs(
                records, self._vae, self._clip, 0.0, self._settings.guidance, groups
            )
        patcher = self._trainer.patcher
        name = type(patcher.model.model_config).__name__
        shaped = model_shaped(dataset, patcher.get_model_object("latent_format"), name)
        return self._without_held_out(replace(shaped, lineage=()).used_by(objective))

    def _without_held_out(self, dataset: EncodedPairs) -> EncodedPairs:
        def kept(records: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(one for one in records if one.group not in self._held_out)

        return replace(
            dataset, pairs=kept(dataset.pairs), labelled=kept(dataset.labelled),
            groups=kept(dataset.groups),
        )

    def mixed(self, own: EncodedPairs, earlier_sets: Sequence[str], number: int) -> EncodedPairs:
        """A round's own records with replayed ones.

        Args:
            own: of the round.
            earlier_sets: of the rounds before.
            number: of the round.
        """
        before, given = self.own(earlier_sets), self._trainer.dataset
        share = self._settings.replay

        def mix(mine: tuple[Any, ...], *others: tuple[Any, ...]) -> tuple[Any, ...]:
            earlier = {one.key: one for other in others for one in other}
            for one in mine:
                earlier.pop(one.key, None)
            return mine + tuple(replayed(len(mine), list(earlier.values()), share, number))

        return replace(
            own,
            pairs=mix(own.pairs, given.pairs, before.pairs),
            labelled=mix(own.labelled, given.labelled, before.labelled),
            groups=mix(own.groups, given.groups, before.groups),
        )
