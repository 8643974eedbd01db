"""Rounds of online training: the policy draws, somebody prefers, the policy learns.

Every round is a run of its own that goes on from the one before, so that whatever keeps a run, its
checkpoints, its frozen reference, Stop and resuming, keeps a round. Between rounds
:class:`~....dpo_core.online.record.OnlineRecord` knows where they stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....dpo_core.judging.judge import JudgeError
from ....dpo_core.judging.judged_set import has_person_votes, judge_set
from ....dpo_core.judging.panel import Panel
from ....dpo_core.judging.verdict import Verdict
from ....dpo_core.online.online_metrics import diversity, score_metrics
from ....dpo_core.online.record import OnlineRecord, OnlineRound, Stand, stalled
from ....dpo_core.pairs.problem import PairError
from ....dpo_core.pairs.record import counted
from ....dpo_core.ranking.session import Session
from ..identity import model_identity
from ..progress import Progress
from ..trainer import Trainer, lora_of
from .held_out_pictures import HeldOutPictures
from .online_settings import OnlineSettings
from .round_pairs import RoundPairs
from .round_pictures import RoundPictures
from .round_training import RoundTraining

VERSION = 1
@dataclass(frozen=True)
class Played:
    """Where the rounds stand.

    Attributes:
        trainer: to go on with.
        lora: tensors as they go into a file; None before anything was trained.
        rows: metrics of all steps since the start of the run.
        rounds: all of them.
        said: what happened, for people.
    """

    trainer: Trainer
    lora: dict[str, Tensor] | None
    rows: list[dict[str, float]]
    rounds: tuple[OnlineRound, ...]
    said: tuple[str, ...]


def record_content(trainer: Trainer, session: str) -> dict[str, Any]:
    """What rounds are found again by: the model, the LoRA where it started, and the session.

    Whatever else is changed, they go on; another session begins anew.
    """
    begun = trainer.step > trainer.origin.step
    run = trainer.run if begun else trainer.origin.run
    return {
        "version": VERSION,
        "session": session,
        "base": model_identity(trainer.patcher),
        "adapter": trainer.run.content["adapter"],
        "start": None if run is None else [run.id, trainer.step],
    }


class OnlineRounds:
    """Plays rounds, from where the record says they stand.

    Args:
        trainer: before all rounds.
        settings: checked.
        panel: who judges; None where a person does.
        session: of the pictures.
        record: opened by nobody else.
        pictures: draws them.
        pairs: makes datasets of them.
        held_out: the fixed grid.
        progress: makes a progress bar of so many parts.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: OnlineSettings,
        panel: Panel | None,
        session: Session,
        record: OnlineRecord,
        pictures: RoundPictures,
        pairs: RoundPairs,
        held_out: HeldOutPictures,
        progress: Callable[[int], Progress],
    ) -> None:
        self._first, self._settings, self._panel = trainer, settings, panel
        self._session, self._record = session, record
        self._pictures, self._pairs, self._held_out = pictures, pairs, held_out
        self._progress = progress
        self._training = RoundTraining(trainer, settings, record, pairs, progress)
        self._said: list[str] = []

    def play(self) -> Played:
        """With a judge all rounds, else what was ranked is learned and the next round drawn.

        Raises:
            JudgeError, ValueError, TrainingError: it cannot go on; what was done stays, and the
                next call goes on from there.
        """
        self._refuse_what_is_lost()
        self._look(self._first)
        if self._panel is None:
            self._play_with_person()
        else:
            self._play_with_judge(self._panel)
        return self._played()

    def _refuse_what_is_lost(self) -> None:
        """What must be there to go on, and is not."""
        one, known = self._record.current, self._session.state().sets
        lost = []
        if one is not None and not known.keys() >= set(one.sets):
            lost.append(f"the pictures of round {one.number} (session {self._session.name!r})")
        if (end := self._training.lost_end()) is not None:
            lost.append(f"step {end.step} of run {end.run}, where the last round ended")
        if lost:
            raise ValueError(
                f"These rounds cannot go on without what is not there any more: "
                f"{' and '.join(lost)}. Put it back below output/dpo, or begin anew with another "
                "session."
            )

    # A judge plays on by itself

    def _play_with_judge(self, panel: Panel) -> None:
        if len(self._record.closed) >= self._settings.rounds:
            played = counted(len(self._record.closed), "round")
            self._say(
                f"{played} of this session {'is' if played == '1 round' else 'are'} played. Raise "
                "rounds to go on from there, or begin anew with another session."
            )
        while len(self._record.closed) < self._settings.rounds:
            if self._is_stalled(panel):
                patience = counted(self._settings.patience, "round")
                self._say(
                    f"Stopped early: {patience} without a better score on the held-out pictures."
                )
                return
            one = self._drawn(self._record.current or self._begin())
            self._learn(one, self._judged(one, panel))

    def _judged(self, one: OnlineRound, panel: Panel) -> dict[str, Verdict]:
        """What the judges say of each set of a round, but for those that have lost a picture."""
        self._record.change(one.number, judge=panel.name)
        progress = self._progress(len(one.sets))
        sets, found = self._session.state().sets, {}
        for number, set_id in enumerate(one.sets, 1):
            progress.say(f"round {one.number}: judging prompt {number} of {len(one.sets)}")
            try:
                found[set_id] = judge_set(
                    self._session, sets[set_id], panel, self._settings.min_gap
                )
            except PairError as error:
                self._say(f"Round {one.number}, prompt {number}, is passed over. {error}")
            except JudgeError as error:
                raise JudgeError(
                    f"{error}\nThe pictures of round {one.number} and all rounds before are kept: "
                    "run again when the judge is mended, or with another."
                ) from error
            progress.tick()
        return found

    def _is_stalled(self, panel: Panel) -> bool:
        if self._settings.patience < 1:
            return False
        before = self._held_out.metrics(self._first, panel)
        same = [one for one in self._record.closed if one.judge == panel.name]
        rows = [before, *(one.metrics for one in same if one.end is not None)]
        name = "held_out/scores" if "held_out/scores" in before else "held_out/win_rate"
        return stalled([row[name] for row in rows if name in row], self._settings.patience)

    # A person ranks between two calls

    def _play_with_person(self) -> None:
        one = self._record.current
        if one is not None and self._is_answered(one):
            self._learn(one)
            one = self._record.current
            if one is not None:
                return
        one = self._drawn(one or self._begin())
        if not self._rankable(one):
            self._close(one, {}, "all pictures of each prompt were the same")
            raise ValueError(
                f"In round {one.number} all pictures of each prompt came out the same, so there is "
                "nothing to prefer. Look at the VAE and the sampler settings, then run again: the "
                "next round is drawn."
            )
        self._say(
            f"Round {one.number} is here: {counted(len(self._rankable(one)), 'set')} of pictures "
            "to rank. Then run again."
        )

    def _is_answered(self, one: OnlineRound) -> bool:
        """Whether a person has said something in a round."""
        state = self._session.state()
        return any(has_person_votes(state, set_id) for set_id in one.sets)

    def _rankable(self, one: OnlineRound) -> list[str]:
        sets = self._session.state().sets
        return [set_id for set_id in one.sets if len(sets[set_id].images) > 1]

    # What both do

    def _begin(self) -> OnlineRound:
        prompts = self._settings.prompts_of_round(len(self._record.rounds) + 1)
        return self._record.begin(prompts, self._training.last_end())

    def _drawn(self, one: OnlineRound) -> OnlineRound:
        progress = self._progress(len(one.prompts) - len(one.sets))
        return self._pictures.draw(one, self._training.policy(one.number - 1), progress)

    def _learn(self, one: OnlineRound, verdicts: Mapping[str, Verdict] | None = None) -> None:
        """Trains on what was told apart in a round, and closes it.

        Args:
            one: drawn and judged.
            verdicts: of judges, by set; None where a person judges.
        """
        own = self._pairs.own(one.sets)
        if not own.records:
            self._pass_over(one, verdicts)
            return
        dataset = self._training.dataset(one, own)
        trained = self._training.train(one, dataset)
        policy = trained.trainer
        stand = Stand(policy.run.id, policy.step)
        one = self._record.change(one.number, end=stand, learned=own.counted)
        self._look(policy)
        metrics = self._training.metrics(one, trained)
        if verdicts is not None and self._panel is not None:
            metrics |= self._held_out.metrics(policy, self._panel)
        replay = len(dataset.records) - len(own.records)
        metrics |= {"pairs": float(len(own.records)), "replayed": float(replay)}
        self._close(one, metrics, "; ".join(trained.said), verdicts)
        self._training.forget_checkpoints()

    def _pass_over(self, one: OnlineRound, verdicts: Mapping[str, Verdict] | None) -> None:
        state = self._session.state()
        if verdicts is None and not all(map(state.is_ranked, one.sets)):
            self._say(
                f"What was chosen in round {one.number} so far makes nothing to learn from: go on "
                "ranking its pictures, then run again."
            )
            return
        metrics = {"pairs": 0.0, "replayed": 0.0}
        self._close(one, metrics, "no pictures were told apart, so nothing was trained", verdicts)

    def _close(
        self, one: OnlineRound, metrics: Mapping[str, float], note: str,
        verdicts: Mapping[str, Verdict] | None = None,
    ) -> None:
        found = {**metrics, "diversity": diversity(self._session.state().pixels(one.sets))}
        if verdicts is not None:
            settings = self._settings
            found |= score_metrics(
                [verdict.scores for verdict in verdicts.values()],
                [
                    verdict.pairs(settings.pairs_per_group, settings.min_gap)
                    for verdict in verdicts.values()
                ],
                metrics.get("objective/non_score_reward", math.nan),
            )
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        self._say(told(self._record.close(one.number, finite, note)))

    def _look(self, policy: Trainer) -> None:
        if len(self._held_out):
            self._held_out.draw(policy, self._progress(len(self._held_out)))

    def _say(self, line: str) -> None:
        self._said.append(line)

    def _played(self) -> Played:
        policy = self._training.policy(len(self._record.rounds))
        state = policy.state()
        lora = None if state is None else lora_of(policy, state)
        rows = policy.run.history(policy.step) if policy.step else []
        trained = self._record.trained
        if trained:
            policy = self._training.with_pairs(policy, trained[-1])
        return Played(policy, lora, rows, self._record.rounds, tuple(self._said))

def told(one: OnlineRound) -> str:
    """A closed round in one line."""
    row = one.metrics
    parts = [one.learned or "no pairs"]
    if replay := int(row.get("replayed", 0)):
        parts[0] += f" and {replay} replayed"
    names = {
        "step": ("at step", ".0f"), "objective/scores": ("score", ".4g"),
        "held_out/scores": ("held out", ".4g"), "held_out/win_rate": ("better than before", ".0%"),
        "rewards/accuracies": ("accuracy", ".2f"), "diversity": ("diversity", ".3f"),
    }
    parts += [f"{word} {row[name]:{form}}" for name, (word, form) in names.items() if name in row]
    line = f"Round {one.number}: {', '.join(parts)}"
    return f"{line}; {one.note}." if one.note else f"{line}."
