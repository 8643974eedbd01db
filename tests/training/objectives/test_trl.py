"""TRL's own losses over random numbers. Minus an error is the log-probability they work on.

Where TRL's conventions differ, the test says so and compares after the exact conversion, or where
both must agree.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_core.training.objectives import Errors, Labels, Objective, certain

trl = pytest.importorskip("trl", minversion="1.16", reason="TRL is the oracle of this test")

BETAS = (0.5, 40.0, 1e4)
"""With rewards up to 1: logits below 1, as while learning, and as far out as 1e4."""


class _Answers:
    """A language model that gives sequence log-probabilities we choose, one token each.

    TRL's trainers ask a model for them; their losses depend on nothing else.
    """

    training = True

    def __init__(self, log_probs: Tensor) -> None:
        self._log_probs = log_probs[:, None]

    def __call__(self, **_: object) -> SimpleNamespace:
        nothing = torch.zeros_like(self._log_probs)
        return SimpleNamespace(
            log_probs=self._log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing > 1
        )


class _OneProcess:
    device = torch.device("cpu")

    @staticmethod
    def gather(tensor: Tensor) -> Tensor:
        return tensor

    gather_for_metrics = gather


def trainer(kind: Any, log_probs: Tensor, **settings: Any) -> Any:
    """A trainer of TRL's with only its surroundings set: the arithmetic is all its own."""
    made = kind.__new__(kind)
    made.__dict__.update(
        {
            "model": _Answers(log_probs), "accelerator": _OneProcess(),
            "precompute_ref_logps": True, "aux_loss_enabled": False, "_tp_size": 1,
            "_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0,
        },
        **settings,
    )
    return made


def tokens(rows: int) -> dict[str, Tensor]:
    """A prompt of one token and an answer of one token."""
    ones = torch.ones(rows, 2, dtype=torch.long)
    answers = torch.tensor([[0, 1]] * rows)
    return {"input_ids": ones, "attention_mask": ones, "completion_mask": answers}


def trl_pair(policy: Tensor, reference: Tensor, settings: dict[str, Any]) -> Tensor:
    """The loss of one pair of errors, each of shape (2,)."""
    kind = settings.pop("kind")
    kinds = [kind] if isinstance(kind, str) else kind
    made = trainer(
        trl.DPOTrainer, -policy,
        **{
            "beta": 1.0, "label_smoothing": 0.0, "loss_types": kinds,
            "loss_weights": [1.0] * len(kinds), "f_divergence_type": "reverse_kl",
            "ld_alpha": None, "use_weighting": False,
            "args": SimpleNamespace(discopop_tau=0.05), **settings,
        },
    )
    inputs = tokens(2) | {
        "ref_chosen_logps": -reference[:1], "ref_rejected_logps": -reference[1:]
    }
    loss: Tensor = made._compute_loss(made.model, inputs, return_outputs=False)
    return loss


def both(
    objective: Objective, settings: dict[str, Any], policy: Tensor, reference: Tensor,
    factor: float = 1.0,
) -> tuple[float, list[float], float, list[float]]:
    """Our loss and slopes of one pair, and TRL's times ``factor``."""
    theirs_in = policy.clone().requires_grad_()
    theirs = trl_pair(theirs_in, reference, dict(settings)) * factor
    (theirs_slopes,) = torch.autograd.grad(theirs, theirs_in)
    losses, slopes = objective.slopes(
        Errors(policy[:, None], reference[:, None]), certain(1)
    )
    return (
        losses.total.item(), slopes.policy[:, 0].tolist(),
        theirs.item(), theirs_slopes.tolist(),
    )


def agree(
    objective: Objective, settings: dict[str, Any], errors: Tensor, factor: float = 1.0,
    rel: float = 1e-9,
) -> None:
    """For every column (e_w, e_l, r_w, r_l) of ``errors`` both give the same, where TRL can."""
    compared = 0
    for column in errors.T:
        ours, our_slopes, theirs, their_slopes = both(
            objective, settings, column[:2], column[2:], factor
        )
        numbers = torch.tensor([ours, *our_slopes])
        assert numbers.isfinite().all()
        if not torch.tensor([theirs, *their_slopes]).isfinite().all():
            continue  # an exponential that ours does not let overflow
        compared += 1
        assert ours == pytest.approx(theirs, rel=rel, abs=1e-12)
        assert our_slopes == pytest.approx(their_slopes, rel=rel, abs=1e-9)
    assert compared >= len(errors.T) / 4


def random_errors(seed: int, count: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    """(4, count); the last pairs have no margin, and a tiny one."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.rand(4, count, dtype=torch.float64, generator=generator)
    errors[:2, -2] = errors[2:, -2]
    errors[:2, -1] = errors[2:, -1] + torch.tensor([1e-9, 0.0])
    return errors.to(dtype)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    "kind",
    ["sigmoid", "hinge", "nca_pair", "bco_pair", "apo_zero", "apo_down", "discopop"],
)
def test_losses_of_the_same_convention(kind: str, beta: float) -> None:
    agree(Objective(kind, beta), {"kind": kind, "beta": beta}, random_errors(1))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        # Of a single pair, `aot_unpaired` is what TRL has kept of conservative DPO.
        (Objective(label_smoothing=0.15), {"kind": "aot_unpaired", "label_smoothing": 0.15}),
        (Objective("robust", label_smoothing=0.2), {"kind": "robust", "label_smoothing": 0.2}),
        # exo's eps is TRL's label smoothing, and rounded to fp32 there.
        (Objective("exo_pair", exo_epsilon=0.125), {"kind": "exo_pair", "label_smoothing": 0.125}),
        (Objective("discopop", discopop_tau=0.5),
         {"kind": "discopop", "args": SimpleNamespace(discopop_tau=0.5)}),
    ],
    ids=["conservative DPO", "robust", "exo_pair", "discopop"],
)
def test_losses_with_a_parameter(
    objective: Objective, settings: dict[str, Any], beta: float
) -> None:
    rel = 1e-6 if objective.loss == "exo_pair" else 1e-9
    agree(replace(objective, beta=beta), settings | {"beta": beta}, random_errors(2), rel=rel)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("kind", ["ipo", "sppo_hard"])
def test_squared_losses_are_beta_squared_times_trls(kind: str, beta: float) -> None:
    agree(Objective(kind, beta), {"kind": kind, "beta": beta}, random_errors(3), factor=beta**2)


@pytest.mark.parametrize("size", [1.0, 9.0], ids=["small", "up to 9"])
@pytest.mark.parametrize(
    ("objective", "settings", "dtype"),
    [
        (Objective("forward_kl", 1.0), {"f_divergence_type": "forward_kl"}, torch.float64),
        (Objective("js", 1.0), {"f_divergence_type": "js_divergence"}, torch.float64),
        (Objective("alpha_divergence", 1.0, divergence_alpha=0.5),
         {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}, torch.float32),
        (Objective("alpha_divergence", 1.0, divergence_alpha=1.7),
         {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.7}, torch.float32),
        (Objective("alpha_divergence", 1.0, divergence_alpha=1.0),
         {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}, torch.float32),
    ],
    ids=["forward KL", "JS", "alpha 0.5", "alpha 1.7", "alpha 1"],
)
def test_divergences_agree_at_beta_1(
    objective: Objective, settings: dict[str, Any], dtype: torch.dtype, size: float
) -> None:
    # TRL multiplies by beta after the divergence, we before: the same only at 1.
    rel = 1e-9 if dtype == torch.float64 else 2e-4
    errors = size * random_errors(4, dtype=dtype)
    agree(objective, settings | {"kind": "sigmoid"}, errors, rel=rel)


def test_weighted_combinations() -> None:
    objective = Objective(
        "sigmoid", 7.0, weight=0.7, also=Objective("hinge", 7.0, weight=0.2,
                                                   also=Objective("nca_pair", 7.0, weight=1.5)),
    )
    settings = {
        "kind": ["sigmoid", "hinge", "nca_pair"], "loss_weights": [0.7, 0.2, 1.5], "beta": 7.0
    }
    agree(objective, settings, random_errors(5))


def test_rpo_is_sigmoid_and_supervised_training() -> None:
    settings = {"kind": ["sigmoid", "sft"], "loss_weights": [1.0, 0.4], "beta": 7.0}
    agree(Objective("rpo", 7.0, supervised_mix=0.4), settings, random_errors(6))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    ("loss", "smoothing"),
    # With label smoothing, TRL turns the logit of SimPO round together with gamma; ours turns the
    # pair round, which still has to win by gamma. Without gamma they agree.
    [("simpo", 0.0), ("cpo", 0.0), ("cpo", 0.1), ("reference_free", 0.1)],
)
def test_losses_without_a_reference(loss: str, smoothing: float, beta: float) -> None:
    cpo = pytest.importorskip("trl.experimental.cpo", reason="no CPO in this TRL")
    gamma = 0.8
    made = trainer(
        cpo.CPOTrainer, torch.zeros(1), alpha=0.0, beta=beta, label_smoothing=smoothing,
        loss_type="simpo" if loss == "simpo" else "sigmoid", simpo_gamma=gamma,
    )
    policy = random_errors(7)[:2].requires_grad_()
    theirs, _, _ = made.cpo_loss(-policy[0], -policy[1])
    if loss == "cpo":
        theirs = theirs + 0.3 * policy[0]
    (their_slopes,) = torch.autograd.grad(theirs.sum(), policy)
    objective = Objective(
        loss, simpo_beta=beta, simpo_gamma=gamma, label_smoothing=smoothing, cpo_alpha=0.3
    )
    losses, slopes = objective.slopes(Errors(policy.detach()), certain(policy.shape[1]))
    torch.testing.assert_close(losses.total, theirs.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slopes.policy, their_slopes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("better", [True, False], ids=["baseline above 0", "baseline cut to 0"])
def test_kto(beta: float, better: bool) -> None:
    policy = random_errors(8)[0]
    reference = policy + (0.3 if better else -0.3) * random_errors(9)[0]
    liked = torch.arange(len(policy)) % 3 > 0
    theirs_in = policy.clone().requires_grad_()
    # TRL estimates the baseline on other answers; ours is the batch's own, so it is given these.
    made = trainer(
        trl.KTOTrainer, -theirs_in, beta=beta, loss_type="kto", calculate_KL=True,
        desirable_weight=1.0, undesirable_weight=1.25,
    )
    plain = tokens(len(policy))
    inputs = plain | {f"KL_{name}": value for name, value in plain.items()} | {
        "label": liked, "ref_logps": -reference, "ref_KL_logps": -reference
    }
    theirs = made._compute_loss(made.model, inputs, return_outputs=False) * len(policy)
    (their_slopes,) = torch.autograd.grad(theirs, theirs_in)

    weight = torch.where(liked, 1.0, 1.25).double()
    labels = Labels(torch.ones(len(policy)), liked=liked.double(), weight=weight)
    losses, slopes = Objective("kto", beta).slopes(
        Errors(policy[None], reference[None]), labels
    )
    assert losses.total.sum().item() == pytest.approx(theirs.item(), rel=1e-9)
    torch.testing.assert_close(slopes.policy[0], their_slopes, rtol=1e-9, atol=1e-12)
