"""Validation on pairs that are not trained on, always under the same noise.

One noisy look at a pair says next to nothing: every pair is measured on a fixed grid of noise
levels and noises, and what it has on average is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..pairs.split import place_of, some_of
from ..training.batch import on_grid
from ..training.dataset import EncodedPairs, buckets
from ..training.denoiser import Denoiser
from ..training.four_passes import PassResult, Policy, measure
from ..training.noise import NoiseSettings
from ..training.objectives import Errors, Objective, ObjectiveState
from .interval import wilson
from .metrics import NAMES, step_metrics

SIGMA_LEVELS, NOISES = 8, 4
TIME_SHARE = 0.15
"""Of the time of training, at most, if a pair's grid can be made small enough."""
TRAINING_COST, VALIDATION_COST = 9.0, 4.0
"""Forward passes that a pair costs: two reference, three policy and two backward passes of twice a
forward's work in training; reference and policy on two images in one cell of the grid."""
FEW_PAIRS = 8
PATIENCE_MODES = ("either", "both")


@dataclass(frozen=True)
class ValidationSettings:
    """How often, and on what, the LoRA is tried on pairs it does not learn from."""

    percent: int = 10
    """Share of your prompts kept for validation; all pairs of a prompt stay together. Pairs that
    a folder keeps in val/ are used instead, where there are any."""

    split_seed: int = 0
    """Decides which prompts those are."""

    every: int = 50
    """Steps from one validation to the next. Less often means more careful measurements: they
    take at most about 15 % of the time."""

    at_start: bool = True
    """Also validates before the first step, to have something to compare with."""

    patience: int = 0
    """Stops early after so many validations in a row without progress. 0: never."""

    patience_mode: str = "either"
    """either: no progress if accuracy or chosen reward stalls. both: only if both do."""

    save_best: bool = False
    """The LoRA you get is the one with the best validation accuracy, of equal ones that with the
    lower loss. Training itself goes on from the last step."""

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        found = []
        if not 1 <= self.percent <= 90:
            found.append(f"percent is {self.percent}: use 1 to 90.")
        if self.every < 1:
            found.append(f"every is {self.every}: use 1 or more steps.")
        if self.patience < 0:
            found.append(f"patience is {self.patience}: use 0 or more.")
        if self.patience_mode not in PATIENCE_MODES:
            found.append(
                f"patience_mode is {self.patience_mode!r}: choose {', '.join(PATIENCE_MODES)}."
            )
        return found

    def is_due(self, step: int) -> bool:
        """Whether to validate after ``step`` steps."""
        return step % self.every == 0 and (step > 0 or self.at_start)


def split(
    dataset: EncodedPairs, settings: ValidationSettings, objective: Objective
) -> tuple[EncodedPairs, EncodedPairs]:
    """What ``objective`` is to learn from, and what is kept for validation.

    All of a prompt is on one side, which its name and the seed decide. Of a fixed collection at
    least one prompt is on each. Of a growing one nothing that was trained on may turn up in
    validation when others join: its first prompt is always trained on, and until one comes that
    is not, single records are kept out, as they are where there is but one prompt.
    """
    marked = dataset.held_out().used_by(objective)
    if marked.records:
        return dataset.training().used_by(objective), marked
    # Of everything at once: what belongs to a ranked group must not come back as a pair.
    used = dataset.used_by(objective)
    share = settings.percent / 100
    prompts = {one.group: place_of(one.group, settings.split_seed) for one in used.records}
    if used.lineage:
        first = next(iter(prompts), "")
        chosen = {name for name in prompts if prompts[name] < share and name != first}
    else:
        chosen = some_of(prompts, share)
    if chosen and "" not in prompts:
        return _parted(used, {one.key for one in used.records if one.group in chosen})
    # Both images of a pair stay together, also where they count one by one.
    units = {one.key: _unit(one.key) for one in used.records}
    places = {unit: place_of(unit, settings.split_seed) for unit in units.values()}
    chosen = some_of(places, share)
    return _parted(used, {key for key, unit in units.items() if unit in chosen})


def _unit(key: str) -> str:
    return key.removesuffix(" chosen").removesuffix(" rejected")


def _parted(used: EncodedPairs, held_out: set[str]) -> tuple[EncodedPairs, EncodedPairs]:
    def part(inside: bool) -> EncodedPairs:
        return replace(
            used,
            pairs=tuple(one for one in used.pairs if (one.key in held_out) == inside),
            labelled=tuple(one for one in used.labelled if (one.key in held_out) == inside),
            groups=tuple(one for one in used.groups if (one.key in held_out) == inside),
        )

    return part(False), part(True)


def advice(training: EncodedPairs, held_out: EncodedPairs) -> str:
    """What a person must know about this split; empty if all is well."""
    count = len(held_out.records)
    if count == 0:
        return "There is nothing to validate on: too few pairs."
    said = []
    tried = {one.prompt for one in held_out.records}
    if shared := tried & {one.prompt for one in training.records}:
        which = "its prompt" if len(tried) == 1 else f"{len(shared)} of its {len(tried)} prompts"
        said.append(
            f"Validation is on other images, but {which} is trained on too: it says less of other "
            "prompts."
        )
    if count == 1:
        said.append("Validation on a single pair is a coin flip: add pairs, or raise percent.")
    elif count < FEW_PAIRS:
        low, high = wilson(count / 2, count)[1:3]
        said.append(
            f"With {count} validation pairs, chance alone gives an accuracy of {low:.0%} to "
            f"{high:.0%}."
        )
    return " ".join(said)


@dataclass(frozen=True)
class ValidationState:
    """What validation remembers; a value.

    Attributes:
        held_out: digest of the pairs validated on. Others begin anew.
        accuracy: the best so far, likewise `chosen_reward`.
        stalled: validations in a row without progress.
        stopped: whether training has ended for it.
        best_step: step of the best LoRA, with its accuracy and loss.
    """

    held_out: str = ""
    accuracy: float = -math.inf
    chosen_reward: float = -math.inf
    stalled: int = 0
    stopped: bool = False
    best_step: int = -1
    best_accuracy: float = -math.inf
    best_loss: float = math.inf


def carried(
    state: ValidationState, settings: ValidationSettings | None, held_out: str, same_pairs: bool
) -> ValidationState:
    """What of a state counts for a training that goes on from it.

    Args:
        settings: of today; None if nothing is validated any more.
        held_out: digest of what is validated on today.
        same_pairs: whether the pairs trained on are the same; others are a new chance.
    """
    if settings is None or state.held_out != held_out:
        return ValidationState(held_out)
    if not settings.save_best:
        fresh = ValidationState()
        state = replace(
            state, best_step=-1, best_accuracy=fresh.best_accuracy, best_loss=fresh.best_loss
        )
    stalled = state.stalled if same_pairs else 0
    return replace(state, stalled=stalled, stopped=0 < settings.patience <= stalled)


def patience(
    state: ValidationState, metrics: dict[str, float], settings: ValidationSettings
) -> ValidationState:
    """The state after a validation. An equal value is no progress, and nothing is rounded.

    What has no value, such as the chosen reward of disliked images alone, takes no part.
    """
    accuracy, reward = metrics["dpo/val_accuracy"], metrics["dpo/val_chosen_reward"]
    watched = [(accuracy, state.accuracy), (reward, state.chosen_reward)]
    stalls = [not now > best for now, best in watched if math.isfinite(now)]
    if not stalls:
        return state
    stalled = any(stalls) if settings.patience_mode == "either" else all(stalls)
    count = state.stalled + 1 if stalled else 0
    return replace(
        state,
        accuracy=_larger(state.accuracy, accuracy),
        chosen_reward=_larger(state.chosen_reward, reward),
        stalled=count,
        stopped=0 < settings.patience <= count,
    )


def best_so_far(
    state: ValidationState, metrics: dict[str, float], step: int
) -> ValidationState:
    """The state with this step as the best one, if it is."""
    accuracy, loss = metrics["dpo/val_accuracy"], metrics["dpo/val_loss"]
    better = (accuracy, -loss) > (state.best_accuracy, -state.best_loss)
    if not (better and math.isfinite(accuracy) and math.isfinite(loss)):
        return state
    return replace(state, best_step=step, best_accuracy=accuracy, best_loss=loss)


def _larger(best: float, now: float) -> float:
    return now if now > best else best


class Validation:
    """Measures a policy on held-out records.

    Args:
        denoiser: the model.
        policy: the adapter on it.
        held_out: the records; those the objective cannot use are left out.
        objective: the loss.
        settings: how often.
        noise: the range of noise levels trained in.
        seed: of the grid's noise.
        batch_size: records in one pass.
        pairs_per_step: records trained on in a step, for the share of the time.
        together: all images of a record in one pass.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        policy: Policy,
        held_out: EncodedPairs,
        objective: Objective,
        settings: ValidationSettings,
        noise: NoiseSettings,
        seed: int,
        batch_size: int,
        pairs_per_step: int,
        together: bool,
    ) -> None:
        self._denoiser, self._policy, self._objective = denoiser, policy, objective
        self._records = held_out.used_by(objective).records
        self._noise, self._seed, self._together = noise, seed, together
        budget = TIME_SHARE * settings.every * pairs_per_step * TRAINING_COST
        cells = int(budget / (VALIDATION_COST * max(1, len(self._records))))
        self.grid = grid_of(cells)
        self._batches = [
            bucket[i : i + batch_size]
            for bucket in buckets(self._records, denoiser)
            for i in range(0, len(bucket), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._records)

    @torch.no_grad()
    def measure(self, epoch: int, state: ObjectiveState) -> dict[str, float]:
        """Metrics by name. One synchronisation with the device."""
        levels, _ = self.grid
        looks = [[self._look(batch, level) for level in range(levels)] for batch in self._batches]
        results = [self._weighed(look, epoch, state) for look in looks]
        margins = torch.stack([
            torch.cat([look[level].errors.margin for look in looks]).mean()
            for level in range(levels)
        ])
        values = torch.cat([step_metrics(results, margins.new_zeros(())), margins]).tolist()
        found = dict(zip(NAMES, values[: len(NAMES)], strict=True))
        share = wilson(found["dpo/accuracy"] * len(self), len(self))
        return {
            "dpo/val_loss": found["dpo/raw_loss"],
            "dpo/val_accuracy": found["dpo/accuracy"],
            "dpo/val_accuracy_low": share.low,
            "dpo/val_accuracy_high": share.high,
            "dpo/val_chosen_reward": found["dpo/chosen_reward"],
            "dpo/val_rejected_reward": found["dpo/rejected_reward"],
            "dpo/val_reward_margin": found["dpo/reward_margin"],
            "val/rho": found["errors/chosen"] / found["errors/reference_chosen"],
            "val/prediction_change": found["prediction_change"],
            **_quartiles(values[len(NAMES) :]),
        }

    def _look(self, batch: Sequence[int], level: int) -> PassResult:
        """Records at one noise level, on average over its noises."""
        levels, noises = self.grid
        seen = [
            measure(
                self._denoiser,
                self._policy,
                on_grid(
                    self._records, batch, self._denoiser, self._noise, self._seed,
                    (level + 0.5) / levels, f"validation {level} {number}",
                ),
                self._objective,
                together=self._together,
            )
            for number in range(noises)
        ]
        return _mean(seen)

    def _weighed(
        self, look: Sequence[PassResult], epoch: int, state: ObjectiveState
    ) -> PassResult:
        """The loss of what the records have on average over all levels."""
        result = _mean(look)
        losses = self._objective(result.errors, result.labels, epoch, state)
        logit = self._objective.beta_at(epoch, state) * result.errors.margin
        return result._replace(losses=losses, logit=logit)


def grid_of(cells: int) -> tuple[int, int]:
    """Noise levels and noises per level for about so many cells; the levels come first."""
    levels = min(max(1, cells), SIGMA_LEVELS)
    return levels, min(max(1, cells // SIGMA_LEVELS), NOISES)


def _mean(results: Sequence[PassResult]) -> PassResult:
    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).mean(0)

    reference = [one.errors.reference for one in results if one.errors.reference is not None]
    change = [one.errors.change for one in results if one.errors.change is not None]
    return results[0]._replace(
        errors=Errors(
            mean([one.errors.policy for one in results]),
            mean(reference) if reference else None,
            mean(change) if change else None,
        ),
        change=mean([one.change for one in results]),
        power=mean([one.power for one in results]),
    )


def _quartiles(margins: Sequence[float]) -> dict[str, float]:
    """Mean margin in each quarter of the noise levels, the noisiest first."""
    if len(margins) % 4:
        return {}
    size = len(margins) // 4
    return {
        f"dpo/val_margin_q{i + 1}": sum(margins[i * size : (i + 1) * size]) / size
        for i in range(4)
    }


