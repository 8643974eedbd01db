"""DPO under divergences other than the reverse KL, which is DPO itself.

Wang et al. 2023 (f-DPO, arXiv:2309.16240): the implicit reward of an image is h(x) with
x = beta (r - e), and h the derivative of the divergence's generator at exp(x). Beta comes first:
rewards themselves are near 1e-3, where every h is the same straight line.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

CAP = 10.0
"""Beyond this, exponentials go on as straight lines: e^10 times the usual gradient of one pair
already drowns all others."""


def forward_kl(x: Tensor) -> Tensor:
    """``1 - exp(-x)``; any shape in, the same out. Images that got worse count much more."""
    return 1 - _capped_exp(-x)


def js(x: Tensor) -> Tensor:
    """Jensen-Shannon: ``ln 2 + log s(x)``, at most ln 2; any shape in, the same out."""
    return math.log(2) + logsigmoid(x)


def alpha_divergence(x: Tensor, alpha: float) -> Tensor:
    """``(exp((alpha - 1) x) - 1) / (alpha - 1)``; any shape in, the same out.

    alpha = 1 is the reverse KL, h(x) = x; alpha = 0 the forward KL.
    """
    if abs(alpha - 1) < 1e-6:
        return x
    return (_capped_exp((alpha - 1) * x) - 1) / (alpha - 1)


def _capped_exp(x: Tensor) -> Tensor:
    return x.clamp(max=CAP).exp() * (1 + relu(x - CAP))
