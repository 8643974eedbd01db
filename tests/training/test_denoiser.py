from __future__ import annotations

import torch

from dpo_core.training.denoiser import Rows


def rows(first: int, count: int) -> Rows:
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    return Rows(
        numbers[:, None] * 10, tuple(f"prompt {int(n)}" for n in numbers), numbers,
        numbers[:, None] * 100,
    )


def test_joined_rows_follow_with_everything_that_is_theirs() -> None:
    both = rows(1, 2).joined(rows(3, 3))
    assert len(both) == 5
    assert both.latents.flatten().tolist() == [10, 20, 30, 40, 50]
    assert both.conditioning == ("prompt 1", "prompt 2", "prompt 3", "prompt 4", "prompt 5")
    assert both.sigma.tolist() == [1, 2, 3, 4, 5]
    assert both.noise.flatten().tolist() == [100, 200, 300, 400, 500]
