from __future__ import annotations

from pathlib import Path

import pytest
import torch
from judgekit.images import noisy_images
from judgekit.open_clip import PROJECTION, SIDE, OpenClip
from judgekit.tokenizers import write_clip_tokenizer
from torch import Tensor, nn

from dpo_core.judging.aesthetic_head import AestheticHead
from dpo_core.judging.clip_pixels import ClipPixels
from dpo_core.judging.judge import JudgeError
from dpo_core.judging.reward_model import load_reward_model

EMBEDDINGS = torch.nn.functional.normalize(
    torch.randn(4, PROJECTION, generator=torch.Generator().manual_seed(1)), dim=1
)


class Predictor(nn.Module):
    """LAION's: its layers are called `layers.<place>`."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)


def linear_mse() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(PROJECTION, 12), nn.Dropout(), nn.Linear(12, 10), nn.Dropout(),
        nn.Linear(10, 8), nn.Dropout(), nn.Linear(8, 6), nn.Linear(6, 1),
    ).eval()  # fmt: skip


def relu_mse() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(PROJECTION, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 10), nn.ReLU(),
        nn.Dropout(), nn.Linear(10, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 6), nn.ReLU(),
        nn.Linear(6, 1),
    ).eval()  # fmt: skip


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save(weights, path)
    return path


@pytest.mark.parametrize("make", [linear_mse, relu_mse])
def test_a_head_of_laion_scores_as_its_own_layers(tmp_path: Path, make: type) -> None:
    torch.manual_seed(0)
    layers = make()
    path = saved(tmp_path / "head.pth", Predictor(layers).state_dict())
    head = AestheticHead.from_file(path)
    found = head(EMBEDDINGS)
    assert found.shape == (4,)
    assert found.tolist() == pytest.approx(layers(EMBEDDINGS)[:, 0].tolist(), abs=1e-6)
    assert head.width == PROJECTION
    assert head.name.startswith("head.pth, ")


def test_a_single_layer_is_a_head(tmp_path: Path) -> None:
    weight = torch.arange(3.0)[None]
    path = saved(tmp_path / "linear.pth", {"weight": weight, "bias": torch.tensor([0.5])})
    found = AestheticHead.from_file(path)(torch.tensor([[1.0, 0, 0], [0.6, 0, 0.8]]))
    assert found.tolist() == pytest.approx([0.5, 0.5 + 2 * 0.8])


def test_vectors_of_another_clip_are_refused() -> None:
    head = AestheticHead.from_tensors({"weight": torch.ones(1, 768), "bias": torch.ones(1)}, "h")
    with pytest.raises(JudgeError, match="takes CLIP vectors of 768 numbers, not of 512"):
        head(torch.zeros(2, 512))


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"weight": torch.ones(1, 4)},
        {"weight": torch.ones(2, 4), "bias": torch.ones(2)},
        {"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3), "1.weight": torch.ones(1, 5),
         "1.bias": torch.ones(1)},
        {"a.0.weight": torch.ones(3, 4), "a.0.bias": torch.ones(3), "b.1.weight": torch.ones(1, 3),
         "b.1.bias": torch.ones(1)},
        {"weight": torch.ones(1, 4), "bias": torch.ones(1), "mean": torch.ones(1)},
    ],
)  # fmt: skip
def test_what_is_no_chain_of_layers_to_one_number_is_refused(weights: dict[str, Tensor]) -> None:
    with pytest.raises(JudgeError, match="my head holds no aesthetic head"):
        AestheticHead.from_tensors(weights, "my head")


def test_a_judge_scores_the_unit_vectors_of_its_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = linear_mse()
    head = saved(tmp_path / "sac.pth", Predictor(layers).state_dict())
    original = OpenClip(write_clip_tokenizer(tmp_path))
    clip = saved(tmp_path / "clip.pt", original.state_dict())
    judge = load_reward_model(head, clip_folder=clip)
    images = noisy_images(3)
    with torch.no_grad():
        wanted = layers(original.image_vectors(ClipPixels(SIDE)(images)))[:, 0].tolist()
    assert judge.score(images, "any") == pytest.approx(wanted, abs=1e-5)
    assert judge.name.startswith("aesthetic (sac, ")
    assert " on clip, " in judge.name


def test_a_judge_without_its_clip_or_with_another_is_refused(tmp_path: Path) -> None:
    weights = {"weight": torch.ones(1, 7), "bias": torch.ones(1)}
    head = saved(tmp_path / "head.pth", weights)
    with pytest.raises(JudgeError, match="Give it the CLIP it was trained on"):
        load_reward_model(head)
    clip = saved(tmp_path / "clip.pt", OpenClip(write_clip_tokenizer(tmp_path)).state_dict())
    with pytest.raises(JudgeError, match=f"vectors of 7 numbers, not of {PROJECTION}"):
        load_reward_model(head, clip_folder=clip)
    with pytest.raises(JudgeError, match="is no CLIP, but an aesthetic head"):
        load_reward_model(head, clip_folder=head)
