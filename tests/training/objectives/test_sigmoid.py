from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpo_core.training.objectives.sigmoid import robust, sigmoid


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_worked_by_hand() -> None:
    # Logit 1: s(1) = 1 / (1 + 1/e) = 0.7310585786300049,
    # and -ln 0.7310585786300049 = ln(1 + 1/e) = 0.3132616875182228.
    # The other way round: -ln(1 - 0.7310585786300049) = 1.3132616875182228.
    # ln 3 as logit: s = 3/4, so the loss is ln(4/3) and, turned round, ln 4.
    found = sigmoid(double(1, -1, math.log(3), -math.log(3), 0)).tolist()
    expected = [0.3132616875182228, 1.3132616875182228, math.log(4 / 3), math.log(4), math.log(2)]
    assert found == pytest.approx(expected, abs=1e-15)


def test_robust_by_hand() -> None:
    # A tenth of the labels wrong, logit ln 3: (.9 ln(4/3) - .1 ln 4) / .8
    # = (0.9 * 0.28768207245178085 - 0.1 * 1.3862943611198906) / 0.8
    # = (0.25891386520660274 - 0.13862943611198906) / 0.8 = 0.15035553636826709.
    assert robust(double(math.log(3)), 0.1).item() == pytest.approx(0.15035553636826709, abs=1e-15)
    # The better the logit, the lower, without end: at 1e4, -.1 * 1e4 / .8.
    assert robust(double(1e4), 0.1).item() == pytest.approx(-1250)
    assert robust(double(0.3, -2), 0.0).tolist() == sigmoid(double(0.3, -2)).tolist()


def test_robust_is_the_clean_loss_on_average_over_wrong_labels() -> None:
    logit = double(-2, 0.1, 3)
    # A label is right with .8 and turned round with .2.
    expected = 0.8 * robust(logit, 0.2) + 0.2 * robust(-logit, 0.2)
    assert torch.allclose(expected, sigmoid(logit), rtol=1e-12)
