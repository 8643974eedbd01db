"""The training of rounds: runs that go on from each other, and where each of them stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ....dpo_core.online.online_metrics import training_metrics
from ....dpo_core.online.record import OnlineRecord, OnlineRound, Stand
from ....dpo_core.run import TrainingError
from ....dpo_core.saving.run_folder import RunFolder
from ....dpo_core.training.dataset import EncodedPairs
from ....dpo_core.training.lora_weights import LoraWeights
from ..lineage import Origin
from ..progress import Progress
from ..trainer import Trainer, as_reference, build_trainer, standing_at
from ..training import Trained, train_steps
from .online_settings import OnlineSettings
from .round_pairs import RoundPairs

Reference = Mapping[str, LoraWeights] | None
"""What training is held to: a frozen LoRA; None is the bare model."""
KEPT_ROUNDS = 2
"""Rounds whose checkpoints stay: the one that is gone on from, and the one before it."""


class RoundTraining:
    """Trains rounds, and finds the policy after each of them.

    Args:
        trainer: before all rounds.
        settings: checked.
        record: of the rounds.
        pairs: makes datasets of them.
        progress: makes a progress bar of so many parts.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: OnlineSettings,
        record: OnlineRecord,
        pairs: RoundPairs,
        progress: Callable[[int], Progress],
    ) -> None:
        self._first, self._settings, self._record = trainer, settings, record
        self._pairs, self._progress = pairs, progress
        self._stood: tuple[Stand, Trainer] | None = None
        """The place on disk looked at last, so that its reference is not read again."""

    def policy(self, number: int) -> Trainer:
        """The trainer as it stood after a round; 0 is before the first."""
        trained = [one for one in self._record.rounds[:number] if one.end is not None]
        if not trained:
            return self._first
        assert trained[-1].end is not None
        return self._at(trained[-1].end, trained[-1].start)

    def last_end(self) -> Stand | None:
        """Where the last round that was trained has ended; None before there is one."""
        trained = self._record.trained
        return trained[-1].end if trained else None

    def lost_end(self) -> Stand | None:
        """That, if it is not on the disk any more."""
        end = self.last_end()
        return end if end is not None and end.step not in self._run(end).checkpoints() else None

    def dataset(self, one: OnlineRound, own: EncodedPairs | None = None) -> EncodedPairs:
        """What a round trains on: its own records, and replayed ones of the rounds before."""
        before = self._record.rounds[: one.number - 1]
        earlier = [set_id for other in before for set_id in other.sets]
        own = self._pairs.own(one.sets) if own is None else own
        return self._pairs.mixed(own, earlier, one.number)

    def train(self, one: OnlineRound, dataset: EncodedPairs) -> Trained:
        """The round's steps done, from where a Stop has left them.

        What was ranked after the Stop makes it another run, which goes on from there.
        """
        policy = self.policy(one.number - 1)
        trainer = self._round_trainer(one, policy, self._reference(policy), dataset)
        if one.training and one.training != trainer.run.id:
            stopped = self._stopped_in(one, policy)
            if stopped is not None:
                held_to = stopped.origin.existing
                trainer = self._round_trainer(one, stopped, held_to, dataset)
        self._record.change(one.number, training=trainer.run.id)
        steps = max(1, policy.step + self._settings.steps_per_round - trainer.step)
        return train_steps(trainer, steps, self._progress(steps))

    def metrics(self, one: OnlineRound, trained: Trained) -> dict[str, float]:
        """What the steps of a round say, under the names of `online_metrics`."""
        trainer, first = trained.trainer, self.policy(one.number - 1).step
        rows = [row for row in trained.rows if row["step"] > first]
        state = trainer.state()
        assert state is not None
        epoch = int(rows[-1].get("epoch", 0)) if rows else 0
        beta = trainer.settings.objective.beta_at(epoch, state.objective)
        return training_metrics(rows, beta) | {"step": float(trainer.step)}

    def with_pairs(self, policy: Trainer, one: OnlineRound) -> Trainer:
        """A policy as nodes go on from it: with what its last round learns from, as it is now.

        What was chosen since makes it another training, which goes on from there.
        """
        dataset = self.dataset(one)
        if dataset.digest == policy.run.content.get("pairs"):
            return replace(policy, dataset=dataset)
        return self._round_trainer(one, policy, policy.origin.existing, dataset)

    def forget_checkpoints(self) -> None:
        """Those of rounds that nothing goes on from any more: each is as large as Adam's memory."""

        def is_of_these_rounds(content: Mapping[str, Any]) -> bool:
            return bool((content.get("online") or [""])[0] == self._record.id)

        for one in self._record.trained[:-KEPT_ROUNDS]:
            assert one.end is not None
            run = self._run(one.end)
            needed = standing_at(run) | run.continued_at(but_by=is_of_these_rounds)
            for step in set(run.checkpoints()) - needed:
                run.remove_checkpoint(step)

    def _stopped_in(self, one: OnlineRound, policy: Trainer) -> Trainer | None:
        """Where a Stop has left the round's training; None if that is nowhere."""
        run = self._run(Stand(one.training, 0))
        last = max(run.checkpoints(), default=policy.step)
        if last <= policy.step or last >= policy.step + self._settings.steps_per_round:
            return None
        return self._at(Stand(run.id, last), one.start)

    def _reference(self, policy: Trainer) -> Reference:
        """What a round that begins at a policy is held to."""
        if self._settings.reference != "each_round" or policy.step == 0:
            return self._first.origin.existing
        state = policy.state()
        if state is None:
            raise TrainingError(f"Step {policy.step}, which is to be the reference, is not there.")
        return as_reference(policy, state.adapter)

    def _round_trainer(
        self, one: OnlineRound, policy: Trainer, held_to: Reference, dataset: EncodedPairs
    ) -> Trainer:
        first = self._first
        return build_trainer(
            first.patcher, dataset, first.settings, first.adapter, first.gradient_checkpointing,
            replace(origin_of(policy), existing=held_to), first.held_out, preview=first.preview,
            when_out_of_memory=first.when_out_of_memory, online=(self._record.id, one.number),
        )

    def _at(self, stand: Stand, start: Stand | None) -> Trainer:
        """A trainer at a place on disk, in a training that went on from another."""
        if self._stood is None or self._stood[0] != stand:
            run, before = self._run(stand), origin_of(self._first)
            if start is not None:
                before = replace(before, run=self._run(start), step=start.step)
            parameters = run.reference()
            if parameters is not None:
                before = replace(before, existing=as_reference(self._first, parameters))
            self._stood = stand, replace(self._first, origin=before, run=run, step=stand.step)
        return self._stood[1]

    def _run(self, stand: Stand) -> RunFolder:
        return RunFolder.at(self._first.run.path.parent / stand.run)


def origin_of(policy: Trainer) -> Origin:
    """Where the training after a policy starts from, held to what that was held to."""
    before = policy.origin
    if policy.step == before.step:
        return before
    return replace(before, run=policy.run, step=policy.step)
