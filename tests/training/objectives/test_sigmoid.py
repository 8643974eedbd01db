from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_core.training.objectives import sigmoid


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_worked_by_hand() -> None:
    # beta 2, margin 0.5: the logit is 1, s(1) = 1 / (1 + 1/e) = 0.7310585786300049,
    # and -ln 0.7310585786300049 = ln(1 + 1/e) = 0.3132616875182228.
    assert sigmoid(double(0.5), 2.0).item() == pytest.approx(0.3132616875182228, abs=1e-15)
    # The other way round: margin -0.5, -ln(1 - 0.7310585786300049) = 1.3132616875182228.
    assert sigmoid(double(-0.5), 2.0).item() == pytest.approx(1.3132616875182228, abs=1e-15)
    # A tenth of the labels wrong: .9 * 0.3132616875182228 + .1 * 1.3132616875182228
    # = 0.28193551876640054 + 0.13132616875182228 = 0.4132616875182228.
    assert sigmoid(double(0.5), 2.0, 0.1).item() == pytest.approx(0.4132616875182228, abs=1e-15)
    # ln 3 as logit: s = 3/4, so the loss is ln(4/3) and, turned round, ln 4.
    margin = double(math.log(3), -math.log(3))
    assert sigmoid(margin, 1.0).tolist() == pytest.approx([math.log(4 / 3), math.log(4)])
    # A doubt of its own for every pair: .75 ln(4/3) + .25 ln 4 = ln 4 - .75 ln 3, and
    # .5 ln 4 + .5 ln(4/3) = ln 4 - .5 ln 3.
    mixed = sigmoid(margin, 1.0, double(0.25, 0.5)).tolist()
    assert mixed == pytest.approx([math.log(4) - 0.75 * math.log(3),
                                   math.log(4) - 0.5 * math.log(3)])


@pytest.mark.parametrize("beta", [0.0, 0.1, 250.0, 5000.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_ln_2_at_margin_zero(beta: float, smoothing: float) -> None:
    assert sigmoid(double(0, -0.0), beta, smoothing).tolist() == [math.log(2)] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_huge_logits_stay_finite_and_linear(dtype: torch.dtype, smoothing: float) -> None:
    margin = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    loss = sigmoid(margin, 1.0, smoothing)
    # -ln s(d) is 0 at d = 1e4 and 1e4 at d = -1e4, so a share eps of wrong labels costs eps * 1e4.
    assert loss.tolist() == pytest.approx([smoothing * 1e4, (1 - smoothing) * 1e4])
    (gradient,) = torch.autograd.grad(loss.sum(), margin)
    assert gradient.tolist() == pytest.approx([smoothing, -(1 - smoothing)])


@pytest.mark.parametrize("beta", [0.3, 20.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_is_that_of_finite_differences(beta: float, smoothing: float) -> None:
    margin = double(-1.2, -0.1, 0.0, 0.05, 0.8) / beta
    leaf = margin.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sigmoid(leaf, beta, smoothing).sum(), leaf)
    step = 1e-5 / beta
    differences = (
        sigmoid(margin + step, beta, smoothing) - sigmoid(margin - step, beta, smoothing)
    ) / (2 * step)
    assert torch.allclose(gradient, differences, rtol=1e-8, atol=1e-8)
    # In closed form: beta ((1 - eps) (s - 1) + eps s) = beta (s - 1 + eps).
    right = 1 / (1 + torch.exp(-beta * margin))
    assert torch.allclose(gradient, beta * (right - 1 + smoothing), rtol=1e-12)


def test_beta_multiplies_the_margin_without_a_half() -> None:
    assert torch.equal(sigmoid(double(0.01), 5000.0), sigmoid(double(50.0), 1.0))


class _TrlPolicy:
    """Answers with sequence log-probabilities we choose, one token each, chosen first.

    TRL's trainer asks a language model for them; its loss depends on nothing else.
    """

    training = True

    def __init__(self, chosen: Tensor, rejected: Tensor) -> None:
        self._log_probs = torch.cat([chosen, rejected])[:, None]

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


def trl_loss(trl: Any, logps: list[Tensor], kind: str, beta: float, smoothing: float) -> Tensor:
    """The loss of TRL's own `DPOTrainer`, whose code has no function of log-probabilities alone.

    Only the trainer's surroundings are set here; the arithmetic, and its gradient, are TRL's.
    """
    chosen, rejected, reference_chosen, reference_rejected = logps
    trainer = trl.DPOTrainer.__new__(trl.DPOTrainer)
    trainer.__dict__.update(
        model=_TrlPolicy(chosen, rejected),
        accelerator=_OneProcess(),
        beta=beta,
        label_smoothing=smoothing,
        loss_types=[kind],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        precompute_ref_logps=True,
        aux_loss_enabled=False,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    tokens = torch.ones(2 * len(chosen), 2, dtype=torch.long)
    inputs = {
        "input_ids": tokens,
        "attention_mask": tokens,
        "completion_mask": torch.tensor([[0, 1]] * len(tokens)),
        "ref_chosen_logps": reference_chosen,
        "ref_rejected_logps": reference_rejected,
    }
    return trainer._compute_loss(trainer.model, inputs, return_outputs=False)


@pytest.mark.parametrize(
    ("kind", "smoothing"),
    # TRL keeps conservative DPO only inside `aot_unpaired`; of a single pair it is nothing else.
    [("sigmoid", 0.0), ("aot_unpaired", 0.15)],
    ids=["DPO", "conservative DPO"],
)
def test_agrees_with_trl(kind: str, smoothing: float) -> None:
    trl = pytest.importorskip("trl", minversion="1.16", reason="TRL is the oracle of this test")
    errors = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for pair in errors.T:
        # Minus an error is our log-probability.
        theirs_in = [(-value)[None].requires_grad_() for value in pair]
        theirs = trl_loss(trl, theirs_in, kind, beta=7.0, smoothing=smoothing)
        theirs_gradient = torch.autograd.grad(theirs, theirs_in[:2])
        ours_in = [value.clone()[None].requires_grad_() for value in pair]
        chosen, rejected, reference_chosen, reference_rejected = ours_in
        margin = (reference_chosen - chosen) - (reference_rejected - rejected)
        ours = sigmoid(margin, 7.0, smoothing)
        ours_gradient = torch.autograd.grad(ours.sum(), (chosen, rejected))
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
        for mine, other in zip(ours_gradient, theirs_gradient, strict=True):
            assert mine.item() == pytest.approx(-other.item(), rel=1e-12)
