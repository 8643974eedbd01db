"""The laboratory: methods that learn from the same pictures, trials that run once, its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpo_core.demo.denoiser import DemoDenoiser, attached, build_adapter
from dpo_core.demo.laboratory import run_laboratory, table_of, trials
from dpo_core.demo.methods import METHODS, ROWS, lessons, paired_questions
from dpo_core.demo.network import FlowNetwork, load_base, seeded_noise
from dpo_core.demo.picks import scores
from dpo_core.demo.plot import COLOURS, PANEL_WIDTH, plot_methods
from dpo_core.demo.taste import TASTES
from dpo_core.run import train
from dpo_core.training.adapter import AdapterSettings
from dpo_core.training.dataset import EncodedPairs

WARM = TASTES["warm"]


def quiet(stage: str, done: int, total: int) -> None:
    """No progress bar."""


@pytest.fixture(scope="module")
def network() -> FlowNetwork:
    return load_base()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Of ten pairs; not the model's, but the taste tells them apart."""
    tints = torch.linspace(-0.5, 0.5, 20)[torch.randperm(20, generator=_generator())]
    picture = seeded_noise(range(20)) * 0.1
    picture[:, 0] += tints[:, None, None]
    return picture


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def taught(name: str, pictures: Tensor, flipped: float = 0.0) -> EncodedPairs:
    return lessons(METHODS[name], paired_questions(10, 0), pictures, WARM, flipped, 0)


def warmth(latent: Tensor) -> float:
    return scores(WARM, latent[None])[0]


def test_every_two_pairs_share_a_prompt_and_no_picture() -> None:
    asked = paired_questions(64, 0)
    assert all(asked[i].prompt == asked[i + 1].prompt for i in range(0, 64, 2))
    assert len({one.prompt for one in asked}) > 16
    assert len({seed for one in asked for seed in one.seeds}) == 128


def test_few_pairs_are_the_first_of_many() -> None:
    assert paired_questions(64, 3)[:16] == paired_questions(16, 3)


def test_pairs_thumbs_and_rankings_are_of_the_same_pictures(pictures: Tensor) -> None:
    pairs = taught("dpo beta 1000", pictures).pairs
    thumbs = taught("kto beta 1000", pictures).labelled
    chosen = taught("supervised", pictures).labelled
    groups = taught("dgpo beta 1000", pictures).groups
    assert (len(pairs), len(thumbs), len(chosen), len(groups)) == (10, 20, 10, 5)
    assert all(warmth(pair.chosen) > warmth(pair.rejected) for pair in pairs)
    assert all(torch.equal(one.latent, pairs[i].chosen) for i, one in enumerate(chosen))
    assert [one.liked for one in thumbs] == [True, False] * 10
    assert all(one.liked for one in chosen)
    for i, group in enumerate(groups):
        warmths = [warmth(latent) for latent in group.latents]
        assert warmths == sorted(warmths, reverse=True)
        assert sorted(warmths) == sorted(scores(WARM, pictures[4 * i : 4 * i + 4]))
        assert group.ratings == (3.0, 2.0, 1.0, 0.0)
        assert group.prompt == pairs[2 * i].prompt == pairs[2 * i + 1].prompt


def test_the_share_of_wrong_lessons_is_the_same_for_all(pictures: Tensor) -> None:
    pairs = taught("dpo beta 1000", pictures, 0.2).pairs
    wrong = [i for i, pair in enumerate(pairs) if warmth(pair.chosen) < warmth(pair.rejected)]
    assert len(wrong) == 2
    thumbs = taught("kto beta 1000", pictures, 0.2).labelled
    assert [
        i for i in range(10) if warmth(thumbs[2 * i].latent) < warmth(thumbs[2 * i + 1].latent)
    ] == wrong
    groups = taught("dgpo beta 1000", pictures, 0.2).groups
    upside_down = [
        group for group in groups
        if [warmth(one) for one in group.latents] == sorted(warmth(one) for one in group.latents)
    ]
    assert len(upside_down) == 1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_as_many_pictures_a_step(name: str, pictures: Tensor) -> None:
    method, dataset = METHODS[name], taught(name, pictures)
    settings = method.settings(0)
    assert settings.problems() == [] and dataset.problems(method.objective) == []
    assert settings.objective is method.objective
    assert settings.optimizer.learning_rate == method.learning_rate
    images = {len(record.latents) for record in dataset.records}
    assert images == {ROWS // settings.batch_size}


def test_supervised_training_is_told_of_no_dislike(
    network: FlowNetwork, pictures: Tensor
) -> None:
    """Its loss is the error of the chosen pictures, whatever the reference makes of them."""
    adapter = build_adapter(network, AdapterSettings(2, 2.0), 0)
    settings = METHODS["supervised"].settings(0)
    with attached(network, adapter):
        report = next(train(
            DemoDenoiser(network), adapter, taught("supervised", pictures), settings, 1
        ))
    constant = report.metrics["dpo/raw_loss"]
    assert constant == pytest.approx(0.5)
    assert report.metrics["loss/dpo"] == pytest.approx(constant + report.metrics["errors/chosen"])


def test_a_trial_runs_once_and_one_cut_short_leaves_nothing(
    network: FlowNetwork, tmp_path: Path
) -> None:
    wanted = trials(["supervised", "dpo beta 1000"], [2], [0.0], [0], steps=1, judged=2)
    first = run_laboratory(network, WARM, wanted, tmp_path, quiet)
    assert (tmp_path / "plot.png").exists() and (tmp_path / "table.md").exists()
    assert len(list((tmp_path / "trials").iterdir())) == 2
    again = run_laboratory(network, WARM, wanted, tmp_path, quiet)
    assert again == first  # seconds included: nothing ran again
    other = run_laboratory(
        network, WARM, trials(["supervised"], [2], [0.0], [0], 1, 2, [1e-3]), tmp_path, quiet
    )
    assert len(list((tmp_path / "trials").iterdir())) == 3
    assert other[0]["learning_rate"] == 1e-3


def test_what_methods_share_changes_no_result(network: FlowNetwork, tmp_path: Path) -> None:
    """A method judged alone is judged as among others, whose reference errors it can reuse."""
    names = ["dpo beta 300", "dpo beta 1000"]
    both = run_laboratory(
        network, WARM, trials(names, [4], [0.0], [0], 2, 2), tmp_path / "both", quiet
    )
    alone = run_laboratory(
        network, WARM, trials(names[1:], [4], [0.0], [0], 2, 2), tmp_path / "alone", quiet
    )
    for name in ("win_rate", "reward", "drift", "held_out_accuracy"):
        assert both[1][name] == pytest.approx(alone[0][name], abs=1e-4)


def test_shares_are_pooled_over_seeds_and_means_have_their_spread() -> None:
    row = {
        "method": "dpo", "pairs": 64, "flipped": 0.2, "judged": 10, "learning_rate": 0.0,
        "win_rate": 1.0, "reward": 1.0, "drift": 1.0, "held_out_accuracy": 0.5, "seed": 0,
    }
    table = table_of([row, row | {"seed": 1, "win_rate": 0.6, "reward": 2.0}])
    # 16 of 20 wins: Wilson's interval is 58 to 92 %. 10 of 20: 30 to 70 %.
    lines = table.splitlines()
    assert lines[0] == "### 64 pairs, 20 % of the picks wrong"
    assert lines[4] == (
        "| dpo | 80 % (58 to 92 %) | 1.50 ± 0.71 | 1.00 ± 0.00 | 50 % (30 to 70 %) | 2 |"
    )


def test_the_plot_has_a_panel_for_each_amount_and_quality_of_picks() -> None:
    def row(method: str, pairs: int, flipped: float, drift: float, reward: float) -> dict[str, Any]:
        return {
            "method": method, "pairs": pairs, "flipped": flipped, "drift": drift, "reward": reward,
        }

    few = [row("careful", 64, 0.0, 1.0, 0.2), row("bold", 64, 0.0, 1.1, 0.9)]
    one = np.array(plot_methods(few))
    four = plot_methods([
        row("careful", pairs, flipped, 1.0, 0.2) for pairs in (16, 64) for flipped in (0.0, 0.2)
    ])
    assert four.height == 2 * one.shape[0] and four.width > 1.5 * one.shape[1]
    panel = one[:, :PANEL_WIDTH]  # without the key
    careful, bold = (
        np.argwhere((panel == colour).all(axis=2)).mean(axis=0) for colour in COLOURS[:2]
    )
    assert bold[0] < careful[0] - 50  # more reward: further up
    assert bold[1] > careful[1] + 50  # more drift: further right


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="(?s)no method magic.*supervised"):
        trials(["magic"], [4], [0.0], [0], 1, 1)


def test_an_odd_number_of_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="--pairs 3: use an even number"):
        trials(["supervised"], [4, 3], [0.0], [0], 1, 1)
