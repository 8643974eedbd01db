"""The objective of a run: preference losses, their weights, and what is mixed into them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .adaptive_beta import RULES
from .catalogue import LOSSES, Case, Loss, combined_doubt
from .errors import Errors, Labels
from .state import FRESH, ObjectiveState

_LEARN_FROM = {"pairs": "pairs", "images": "single images", "groups": "rankings of a whole group"}


class ObjectiveLoss(NamedTuple):
    """Losses per record, each of shape (B,).

    Attributes:
        total: what is minimised.
        preference: the preference terms alone.
    """

    total: Tensor
    preference: Tensor


class Slopes(NamedTuple):
    """Derivatives of the summed total, each of shape (G, B), detached.

    Attributes:
        policy: by each policy error.
        change: by how far each prediction has moved; None where it does not matter.
    """

    policy: Tensor
    change: Tensor | None


@dataclass(frozen=True)
class Objective:
    """What training minimises."""

    loss: str = "sigmoid"
    """How picks become a loss. sigmoid is standard DPO and the place to start. From thumbs up and
    down alone: kto. Where some picks are wrong: sigmoid with label smoothing, or robust. Where
    DPO overfits: ipo. Without a reference model, faster: simpo, orpo, cpo, reference_free. With
    ratings: rpo_bwd, rpo_fwd, rpo_squared. From rankings of several images: dgpo. Careful ones
    that keep the chosen image from getting worse: dpop, nft_pair, nca_pair. With ties: davidson."""

    beta: float = 5000.0
    """Holds the LoRA to the base model. It multiplies the reward margin directly (papers with a
    factor 1/2 in front write 5000 for our 2500). Lower values, 200 to 1000, let it move further.
    It sets where learning a pair stops; how fast it gets there is the learning rate. For ipo it is
    tau, of which 100 is a good start: at 5000 it stops at once. orpo and nft_pair do without;
    simpo, cpo and reference_free have simpo_beta."""

    beta_per_epoch: tuple[float, ...] = ()
    """A beta for each look at all pairs, one after the other; the last one stays. Empty: always
    beta."""

    label_smoothing: float = 0.0
    """Share of your picks you expect to be wrong, 0 to 0.5. Above 0 no single pick is trusted
    completely, and learning a pair stops sooner: lower beta with it, to about a third."""

    supervised_mix: float = 0.0
    """Weight of ordinary training on the chosen images, added to the preference loss. Keeps the
    chosen look from getting worse; it costs no extra pass. Beside a large beta it acts only once
    the pairs are learned."""

    safeguard: float = 0.0
    """Holds the rejected image's push back where it would spoil the chosen one (Diffusion-SDPO);
    0 is off, higher is more careful. 0.5 is a good start; its authors use 0.9 for SD 1.5 and 0.6
    for SDXL."""

    simpo_beta: float = 250.0
    """Takes the place of beta in simpo, cpo and reference_free, which compare the two images
    directly and stop learning at once if it is in the thousands."""

    simpo_gamma: float = 0.5
    """simpo: how clearly the chosen image has to win."""

    cpo_alpha: float = 1.0
    """cpo: weight of ordinary training on the chosen images."""

    mapo_lambda: float = 0.1
    """orpo: weight of the preference beside ordinary training on the chosen images. Its form for
    diffusion models is known as MaPO."""

    exo_epsilon: float = 1e-3
    """exo_pair: how often a pick is allowed to be wrong; above 0."""

    rating_scale: float = 1.0
    """rpo_bwd, rpo_fwd, rpo_squared: how much a difference in ratings counts."""

    divergence_alpha: float = 0.5
    """alpha_divergence: 1 is sigmoid, 0 is forward_kl."""

    dpop_lambda: float = 1.0
    """dpop: how much it costs when a chosen image gets worse."""

    davidson_nu: float = 0.5
    """davidson: how common ties are; at 0.5 two equal images tie one time in three."""

    discopop_tau: float = 0.05
    """discopop: how sharply it changes from one of its two losses to the other, below 1."""

    adaptive_beta: str = "off"
    """Moves beta while training. tanh: up where pairs are told apart better than lately, down
    where worse, by half at most. target: down while pairs count as learned too soon, up while too
    late, four times at most. Both begin after 25 steps."""

    gradient_target: float = 0.2
    """adaptive_beta target: how much is still to be learned from a pair on average, 0.5 being
    everything."""

    weight: float = 1.0
    """Weight of this objective beside the one connected to also."""

    also: Objective | None = None
    """A second objective; the losses of both are added up by their weights. It must learn from
    the same kind of data."""

    @property
    def terms(self) -> Iterator[Objective]:
        """This objective and those added to it."""
        term: Objective | None = self
        while term is not None:
            yield term
            term = term.also

    @property
    def reads(self) -> str:
        """What it learns from: ``pairs``, ``images`` or ``groups``."""
        return self._row.reads

    @property
    def needs_reference(self) -> bool:
        return any(term._row.reference for term in self.terms)

    @property
    def needs_change(self) -> bool:
        """Whether its gradient depends on how far the predictions have moved."""
        return any(term._row.change for term in self.terms)

    @property
    def needs_ratings(self) -> bool:
        return any(term._row.ratings for term in self.terms)

    @property
    def takes_ties(self) -> bool:
        return all(term._row.ties for term in self.terms)

    @property
    def loss_at_start(self) -> float | None:
        """The preference loss while policy and reference agree; None where it depends on more."""
        parts = [term._row.at_start for term in self.terms]
        if any(part is None for part in parts):
            return None
        return sum(term.weight * (part or 0) for term, part in zip(self.terms, parts, strict=True))

    @property
    def beta_is_zero(self) -> bool:
        """Whether no picks can change the preference loss."""
        return not any(any(term.beta_per_epoch) or term._set_beta for term in self.terms)

    def beta_at(self, epoch: int, state: ObjectiveState) -> float:
        """Beta in force.

        Args:
            epoch: how often these records have been seen before.
            state: of the steps before.
        """
        if self.beta_per_epoch:
            return self.beta_per_epoch[min(epoch, len(self.beta_per_epoch) - 1)]
        factor = 1.0 if self.adaptive_beta == "off" else state.beta_factor
        return self._set_beta * factor

    def state_after(self, state: ObjectiveState, metrics: Mapping[str, float]) -> ObjectiveState:
        """The state after a step that was applied, with its metrics."""
        return state.after(metrics, self.adaptive_beta, self.gradient_target)

    def problems(self) -> list[str]:
        """Everything wrong with the settings, each with its fix."""
        if self.loss not in LOSSES:
            found = [f"loss is {self.loss!r}: choose one of {', '.join(LOSSES)}."]
        else:
            found = self._contradictions()
        found += self._out_of_range()
        if self.also is not None:
            found += [f"Objective connected to also: {text}" for text in self.also.problems()]
            found += self._mismatches(self.also)
        return found

    def __call__(
        self,
        errors: Errors,
        labels: Labels,
        epoch: int = 0,
        state: ObjectiveState = FRESH,
    ) -> ObjectiveLoss:
        """Losses of a batch.

        Args:
            errors: of B records.
            labels: what is known of them.
            epoch: how often these records have been seen before.
            state: of the steps before.

        Returns:
            losses per record; the caller takes the mean.
        """
        labels = labels.like(errors.policy)
        wanted = errors.chosen if labels.liked is None else errors.chosen * labels.liked
        total = preference = torch.zeros_like(errors.chosen)
        for term in self.terms:
            case = Case(errors, labels, term, term.beta_at(epoch, state), state)
            value = term.weight * term._preference(case)
            preference = preference + value
            supervised = term.supervised_mix + term._row.supervised(term)
            total = total + value + term.weight * supervised * wanted
        return ObjectiveLoss(total, preference)

    def slopes(
        self,
        errors: Errors,
        labels: Labels,
        epoch: int = 0,
        state: ObjectiveState = FRESH,
    ) -> tuple[ObjectiveLoss, Slopes]:
        """Losses, detached, and the derivatives that are all a backward pass needs of them."""
        policy = errors.policy.detach().requires_grad_()
        change = None
        if self.needs_change and errors.change is not None:
            change = errors.change.detach().requires_grad_()
        with torch.enable_grad():
            losses = self(Errors(policy, errors.reference, change), labels, epoch, state)
            leaves = [policy] if change is None else [policy, change]
            found = torch.autograd.grad(losses.total.sum(), leaves)
        detached = ObjectiveLoss(losses.total.detach(), losses.preference.detach())
        return detached, Slopes(found[0], None if change is None else found[1])

    @property
    def _row(self) -> Loss:
        return LOSSES[self.loss]

    @property
    def _set_beta(self) -> float:
        return self.simpo_beta if self._row.beta == "simpo_beta" else self.beta

    def _preference(self, case: Case) -> Tensor:
        """The loss, expected over which image of a pair is really the better one."""
        if not self._row.soft:
            return self._row.value(case)
        doubt = case.doubt
        if self.loss != "robust":  # which corrects for wrong labels instead of expecting them
            doubt = combined_doubt(doubt, self.label_smoothing)
        swapped = Case(case.errors.swapped(), case.labels, self, case.beta, case.state)
        return (1 - doubt) * self._row.value(case) + doubt * self._row.value(swapped)

    def _contradictions(self) -> list[str]:
        row, found = self._row, []
        if self.label_smoothing > 0 and row.smoothing:
            found.append(
                f"label_smoothing cannot be used with {self.loss}: {row.smoothing}. Set it to 0."
            )
        if self.loss == "robust" and self.label_smoothing == 0.5:
            found.append("robust needs a label_smoothing below 0.5: at 0.5 nothing can be learned.")
        if self.loss == "rpo" and self.supervised_mix == 0:
            found.append(
                "rpo is sigmoid with a supervised_mix, which is 0: set it to 0.25, or choose "
                "sigmoid."
            )
        if self.safeguard > 0 and row.reads != "pairs":
            found.append(
                f"safeguard cannot be used with {self.loss}, which has no rejected image to hold "
                "back: set it to 0."
            )
        if self.beta_per_epoch and not row.beta:
            found.append(f"beta_per_epoch cannot be used with {self.loss}, which has no beta.")
        if self.adaptive_beta in RULES and self.adaptive_beta != "off":
            if row.reads != "pairs" or not row.reference or not row.beta:
                found.append(
                    f"adaptive_beta cannot be used with {self.loss}: it follows the margin of "
                    "pairs over a reference. Set it to off."
                )
            if self.beta_per_epoch:
                found.append("Use either beta_per_epoch or adaptive_beta: both move beta.")
        return found

    def _out_of_range(self) -> list[str]:
        found = []
        for name in ("beta", "supervised_mix", "simpo_beta", "simpo_gamma", "cpo_alpha",
                     "mapo_lambda", "rating_scale", "dpop_lambda"):
            if not _is_in(getattr(self, name), 0, math.inf):
                default = getattr(Objective, name)
                found.append(
                    f"{name} is {getattr(self, name)}: use a number from 0 upwards, {default:g} "
                    "is the default."
                )
        for index, beta in enumerate(self.beta_per_epoch, 1):
            if not _is_in(beta, 0, math.inf):
                found.append(f"beta_per_epoch has {beta} as number {index}: use 0 or more.")
        for name, high in (("label_smoothing", 0.5), ("safeguard", 1.0)):
            if not _is_in(getattr(self, name), 0, high):
                found.append(f"{name} is {getattr(self, name)}: use 0 to {high:g}.")
        for name, high in (("exo_epsilon", 0.5), ("discopop_tau", 1.0), ("gradient_target", 0.5)):
            value = getattr(self, name)
            if not (_is_in(value, 0, high) and 0 < value < high):
                found.append(f"{name} is {value}: use a number above 0 and below {high:g}.")
        for name in ("davidson_nu", "weight"):
            value = getattr(self, name)
            if not (_is_in(value, 0, math.inf) and value > 0):
                found.append(f"{name} is {value}: use a number above 0.")
        if not math.isfinite(self.divergence_alpha):
            found.append(f"divergence_alpha is {self.divergence_alpha}: use a number such as 0.5.")
        if self.adaptive_beta not in RULES:
            found.append(
                f"adaptive_beta is {self.adaptive_beta!r}: choose {', '.join(RULES)}."
            )
        return found

    def _mismatches(self, also: Objective) -> list[str]:
        found = []
        if {self.loss, also.loss} <= LOSSES.keys() and self.reads != also.reads:
            found.append(
                f"{self.loss} learns from {_LEARN_FROM[self.reads]}, {also.loss} from "
                f"{_LEARN_FROM[also.reads]}: they cannot be combined."
            )
        betas = len(self.beta_per_epoch), len(also.beta_per_epoch)
        if all(betas) and betas[0] != betas[1]:
            found.append(
                f"beta_per_epoch has {betas[0]} entries, and {betas[1]} in the objective connected "
                "to also: give both the same number."
            )
        for name, off in (("safeguard", 0), ("adaptive_beta", "off")):
            if getattr(also, name) != off:
                found.append(
                    f"{name} of the objective connected to also is not used: set it on the one "
                    "that is connected to the trainer."
                )
        return found


def _is_in(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high
