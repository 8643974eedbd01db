from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpo_core.demo.network import (
    FlowNetwork,
    NetworkSettings,
    encode_prompts,
    load_base,
    sample,
    seeded_noise,
    to_pictures,
    to_tensor,
)

TINY = NetworkSettings(widths=(8, 8, 8), embedding=16, transformer_blocks=1, heads=2)


class StraightFlow(nn.Module):
    """The exact velocity towards one picture of constant value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, sigma: Tensor, prompts: Tensor) -> Tensor:
        return (x - self.value) / sigma[:, None, None, None]


def lively(seed: int = 0) -> FlowNetwork:
    """A tiny network whose every weight matters, the zeroed ones included."""
    torch.manual_seed(seed)
    model = FlowNetwork(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def test_a_new_network_guesses_one_grey_and_learns_through_every_weight() -> None:
    model = FlowNetwork(TINY)
    x, sigma = torch.randn(2, 3, 64, 64), torch.tensor([0.3, 0.9])
    words = encode_prompts(["a tree", ""])
    with torch.no_grad():
        guess = x - sigma[:, None, None, None] * model(x, sigma, words)
    assert torch.allclose(guess[0], guess[1], atol=1e-4)
    assert guess[0].std(dim=(1, 2)).max() < 0.2
    model = lively()
    model(x, sigma, words).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_noise_level_and_every_attribute_change_the_prediction() -> None:
    model = lively()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        base = model(x, torch.tensor([0.5]), torch.tensor([[1, 1, 1, 1]]))
        assert not torch.equal(base, model(x, torch.tensor([0.6]), torch.tensor([[1, 1, 1, 1]])))
        for i in range(4):
            words = torch.tensor([[1, 1, 1, 1]])
            words[0, i] = 2
            assert not torch.equal(base, model(x, torch.tensor([0.5]), words))


def test_euler_steps_along_the_exact_flow_end_at_the_picture() -> None:
    for steps in (1, 7):
        drawn = sample(StraightFlow(0.25), ["a tree", "a house"], [1, 2], steps)
        assert torch.allclose(drawn, torch.full((2, 3, 64, 64), 0.25), atol=1e-5)


def test_a_seed_starts_from_its_own_noise_whatever_its_neighbours() -> None:
    assert torch.equal(seeded_noise([3, 8])[1], seeded_noise([8])[0])
    assert not torch.equal(seeded_noise([3])[0], seeded_noise([8])[0])


def test_sampling_is_deterministic_by_seed_and_blind_to_the_batch() -> None:
    model = lively()
    prompts, seeds = ["a tree by day", "a house at night", "a flower"], [4, 5, 6]
    together = sample(model, prompts, seeds, steps=3)
    assert torch.equal(together, sample(model, prompts, seeds, steps=3))
    alone = sample(model, prompts, seeds, steps=3, batch_size=1)
    assert torch.allclose(together, alone, atol=1e-4)
    torch.manual_seed(99)
    assert torch.equal(together, sample(model, prompts, seeds, steps=3))


def test_sampling_refuses_prompts_and_seeds_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        sample(lively(), ["a tree", "a house"], [1])


def test_pictures_and_tensors_convert_both_ways() -> None:
    pictures = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    tensor = to_tensor(pictures)
    assert tensor.shape == (2, 3, 64, 64)
    assert tensor[1, 2, 5, 7].item() == pytest.approx(2 * pictures[1, 5, 7, 2] - 1)
    assert np.allclose(to_pictures(tensor), pictures, atol=1e-6)
    assert to_pictures(tensor * 100).max() == 1.0


def test_missing_weights_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dpo_core.demo.pretrain"):
        load_base(tmp_path / "none.safetensors")
