"""Every loss by its name, with what it needs and what may be combined with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .absolute import apo_down, apo_zero, bco_pair, nca_pair, sppo_hard
from .davidson import davidson
from .dgpo import advantages, dgpo
from .discopop import discopop
from .divergence import alpha_divergence, forward_kl, js
from .dpop import dpop
from .errors import Errors, Labels
from .exo import exo_pair
from .hinge import hinge
from .ipo import ipo
from .kto import SMALL_BATCH, kto
from .mapo import mapo
from .nft import nft_pair
from .rpo import rpo_bwd, rpo_fwd, rpo_squared
from .sigmoid import robust, sigmoid
from .simpo import simpo
from .state import ObjectiveState

if TYPE_CHECKING:
    from .objective import Objective

LN_2 = math.log(2)


@dataclass(frozen=True)
class Case:
    """What a loss is worked out from.

    Attributes:
        errors: of B records.
        labels: what is known of them, in the errors' dtype, on their device.
        settings: the objective's own parameters.
        beta: in force now.
        state: of the steps before.
    """

    errors: Errors
    labels: Labels
    settings: Objective
    beta: float
    state: ObjectiveState

    @property
    def logit(self) -> Tensor:
        """d = beta m, shape (B,)."""
        return self.beta * self.errors.margin

    @property
    def chosen(self) -> Tensor:
        """u_w = beta dw, shape (B,)."""
        return self.beta * self.errors.chosen_reward

    @property
    def rejected(self) -> Tensor:
        """u_l = beta dl, shape (B,)."""
        return self.beta * self.errors.rejected_reward

    @property
    def doubt(self) -> Tensor:
        """Probability that the other image of a pair is the better one, shape (B,)."""
        return 1 - self.labels.chosen_probability

    @property
    def rated(self) -> Tensor:
        """eta delta: the logit that the ratings of a pair call for, shape (B,)."""
        return self.settings.rating_scale * _known(self.labels.rating_gap)


@dataclass(frozen=True)
class Loss:
    """One row of the catalogue.

    Attributes:
        value: loss per record, shape (B,).
        supervised: the weight of ordinary training on the chosen image that belongs to it.
        reads: ``pairs``, ``images`` or ``groups``.
        reference: whether it compares the policy with a reference.
        change: whether it depends on how far the prediction has moved.
        beta: the setting that scales it: ``beta``, ``simpo_beta`` or nothing.
        ratings: whether every pair needs a rating gap.
        ties: whether it can learn from ties.
        soft: whether doubt in a pair is the mean over both ways round; else the loss deals with
            it by itself.
        smoothing: why label smoothing cannot be used with it; empty if it can.
        at_start: loss of a pair while policy and reference agree, where it is always the same.
    """

    value: Callable[[Case], Tensor]
    supervised: Callable[[Objective], float] = lambda _: 0.0
    reads: str = "pairs"
    reference: bool = True
    change: bool = False
    beta: str = "beta"
    ratings: bool = False
    ties: bool = False
    soft: bool = True
    smoothing: str = ""
    at_start: float | None = None


def combined_doubt(one: Tensor, other: Tensor | float) -> Tensor:
    """Two independent reasons for a wrong label: it is wrong if exactly one of them holds."""
    return one + other - 2 * one * other


def _known(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError("These records lack what the loss learns from.")
    return values


def _exo_pair(case: Case) -> Tensor:
    return exo_pair(case.logit, combined_doubt(case.doubt, case.settings.exo_epsilon))


def _kto(case: Case) -> Tensor:
    value = case.chosen
    if len(value) < SMALL_BATCH:
        baseline: Tensor | float = max(0.0, case.beta * case.state.mean_reward)
    else:
        baseline = value.detach().mean().clamp_min(0)
    return _known(case.labels.weight) * kto(value, _known(case.labels.liked), baseline)


def _simpo(case: Case, gamma: float) -> Tensor:
    return simpo(case.errors.chosen, case.errors.rejected, case.beta, gamma)


def _nft_pair(case: Case) -> Tensor:
    errors = case.errors
    return nft_pair(errors.chosen, errors.rejected, _known(errors.change)[-1])


def _dgpo(case: Case) -> Tensor:
    advantage = advantages(_known(case.labels.ratings))
    return dgpo(case.errors.policy, _known(case.errors.reference), advantage, case.beta)


def _divergence(h: Callable[[Tensor, Objective], Tensor]) -> Loss:
    def value(case: Case) -> Tensor:
        return sigmoid(h(case.chosen, case.settings) - h(case.rejected, case.settings))

    return Loss(value, at_start=LN_2)


_IPO = "ipo regresses to a fixed margin; for doubtful picks choose sigmoid or robust"
_EXO = "exo_pair has exo_epsilon for that"
_RATED = "the ratings say how sure each pick is"
_SINGLE = "it has no pairs whose sides could be swapped"

LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(lambda c: sigmoid(c.logit), at_start=LN_2),
    "robust": Loss(lambda c: robust(c.logit, c.settings.label_smoothing), at_start=LN_2),
    "ipo": Loss(lambda c: ipo(c.errors.margin, c.beta), smoothing=_IPO, at_start=0.25),
    "hinge": Loss(lambda c: hinge(c.logit), at_start=1.0),
    "exo_pair": Loss(_exo_pair, soft=False, smoothing=_EXO),
    "rpo": Loss(lambda c: sigmoid(c.logit), at_start=LN_2),
    "rpo_bwd": Loss(
        lambda c: rpo_bwd(c.logit, c.rated), ratings=True, soft=False, smoothing=_RATED
    ),
    "rpo_fwd": Loss(
        lambda c: rpo_fwd(c.logit, c.rated), ratings=True, soft=False, smoothing=_RATED
    ),
    "rpo_squared": Loss(
        lambda c: rpo_squared(c.logit, c.rated), ratings=True, soft=False, smoothing=_RATED
    ),
    "forward_kl": _divergence(lambda x, _: forward_kl(x)),
    "js": _divergence(lambda x, _: js(x)),
    "alpha_divergence": _divergence(lambda x, s: alpha_divergence(x, s.divergence_alpha)),
    "kto": Loss(_kto, reads="images", soft=False, smoothing=_SINGLE),
    "orpo": Loss(
        lambda c: mapo(c.errors.chosen, c.errors.rejected, c.settings.mapo_lambda),
        lambda s: 1.0, reference=False, beta="",
    ),
    "simpo": Loss(lambda c: _simpo(c, c.settings.simpo_gamma), reference=False, beta="simpo_beta"),
    "reference_free": Loss(lambda c: _simpo(c, 0.0), reference=False, beta="simpo_beta"),
    "cpo": Loss(
        lambda c: _simpo(c, 0.0), lambda s: s.cpo_alpha, reference=False, beta="simpo_beta"
    ),
    "nca_pair": Loss(lambda c: nca_pair(c.chosen, c.rejected), at_start=2 * LN_2),
    "bco_pair": Loss(
        lambda c: bco_pair(c.chosen, c.rejected, c.beta * c.state.mean_reward), at_start=2 * LN_2
    ),
    "apo_zero": Loss(lambda c: apo_zero(c.chosen, c.rejected), at_start=1.0),
    "apo_down": Loss(lambda c: apo_down(c.chosen, c.rejected), at_start=1.0),
    "sppo_hard": Loss(lambda c: sppo_hard(c.chosen, c.rejected), at_start=0.5),
    "discopop": Loss(
        lambda c: discopop(c.logit, c.settings.discopop_tau), at_start=(LN_2 + 1) / 2
    ),
    "dpop": Loss(
        lambda c: dpop(c.errors.margin, c.errors.chosen_reward, c.beta, c.settings.dpop_lambda),
        at_start=LN_2,
    ),
    "nft_pair": Loss(_nft_pair, change=True, beta=""),
    "dgpo": Loss(_dgpo, reads="groups", soft=False, smoothing=_SINGLE),
    "davidson": Loss(
        lambda c: davidson(
            c.logit,
            c.doubt * 0 if c.labels.tie is None else c.labels.tie,
            c.settings.davidson_nu,
        ),
        ties=True,
    ),
}
"""Names as in the settings. ``sigmoid`` is DPO, and the reverse KL among the divergences."""
