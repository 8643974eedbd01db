from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dpo_core.demo.network import FlowNetwork, load_base
from dpo_core.demo.pretrain import (
    PretrainSettings,
    draw_pictures,
    drop_words,
    flow_loss,
    main,
    pretrain,
)

SHORT = PretrainSettings(seed=3, steps=3, batch_size=4, pictures=4, warmup=1)


class Perfect(torch.nn.Module):
    """Knows the one clean picture, so that it can tell the noise from it."""

    def __init__(self, clean: torch.Tensor) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        return (x - self.clean) / sigma[:, None, None, None]


def test_every_picture_comes_with_its_mirror_image_and_mirrored_prompt() -> None:
    pictures, words = draw_pictures(seed=0, count=6)
    assert pictures.shape == (12, 3, 64, 64) and pictures.dtype == torch.uint8
    assert torch.equal(pictures[0::2].flip(3), pictures[1::2])
    swapped = torch.tensor([0, 3, 2, 1])[words[0::2, 1]]
    assert torch.equal(words[1::2, 1], swapped)
    assert torch.equal(words[0::2, [0, 2, 3]], words[1::2, [0, 2, 3]])


def test_the_right_velocity_has_no_loss_and_a_zero_one_has_that_of_noise_minus_picture() -> None:
    clean, words = torch.full((64, 3, 64, 64), 0.5), torch.ones(64, 4, dtype=torch.int64)
    seed = torch.Generator().manual_seed(0)
    assert flow_loss(Perfect(clean), clean, words, seed).item() == pytest.approx(0.0, abs=1e-6)
    zero = flow_loss(lambda x, sigma, prompts: torch.zeros_like(x), clean, words, seed)
    # Noise of variance 1 minus the constant 0.5.
    assert zero.item() == pytest.approx(1.25, abs=0.02)


def test_a_share_of_the_prompts_loses_words_and_the_rest_keeps_them() -> None:
    words = torch.full((4000, 4), 2)
    dropped = drop_words(words, 0.2, torch.Generator().manual_seed(0))
    assert set(dropped.unique().tolist()) == {0, 2}
    # A touched row of four words loses at least one at a mean rate of 1 - 1/5.
    assert (dropped == 0).any(dim=1).float().mean().item() == pytest.approx(0.16, abs=0.02)
    assert torch.equal(drop_words(words, 0.0, torch.Generator().manual_seed(0)), words)


def test_the_same_seed_trains_the_same_weights() -> None:
    first, second, other = FlowNetwork(), FlowNetwork(), FlowNetwork()
    losses = [report.loss for report in pretrain(SHORT, first)]
    assert losses == [report.loss for report in pretrain(SHORT, second)]
    list(pretrain(PretrainSettings(4, 3, 4, 4, warmup=1), other))
    a, b, c = (model.state_dict() for model in (first, second, other))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_the_command_writes_weights_that_load_and_say_how_they_were_made(tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    flags = "--seed 3 --steps 2 --batch-size 2 --pictures 2".split()
    assert main([*flags, "--out", str(out)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]
    with safe_open(str(out), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["command"] == (
        "python -m dpo_core.demo.pretrain --seed 3 --steps 2 --batch-size 2 --pictures 2"
    )
    model = load_base(out)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert metadata["seed"] == "3"


def test_a_folder_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "none" / "weights.safetensors")]) == 2
    assert "Cannot write" in capsys.readouterr().err
