"""Runs of every kind of objective: they learn, go on bit for bit, and say what they lack."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toykit.flow import PROMPT, ToyFlow, toy_adapter
from toykit.pairs import toy_pairs

from dpo_core.run import StepReport, TrainSettings, TrainState, train
from dpo_core.saving.run_folder import RunFolder
from dpo_core.training.dataset import EncodedGroup, EncodedImage, EncodedPairs
from dpo_core.training.objectives import LOSSES, Objective, ObjectiveState
from dpo_core.training.optimizer import OptimizerSettings

FAST = OptimizerSettings(learning_rate=1e-2, warmup_steps=3)


def everything(count: int = 6, lean: float = 0.7) -> EncodedPairs:
    """Pairs with ratings, liked and disliked images, and groups of three, all of one taste."""
    generator = torch.Generator().manual_seed(2)

    def latent(towards: float) -> torch.Tensor:
        return torch.randn(2, 4, 4, generator=generator) + towards

    def prompt() -> torch.Tensor:
        return torch.randn(PROMPT, generator=generator)

    pairs = tuple(replace(pair, rating_gap=1.5) for pair in toy_pairs(count, lean=lean))
    images = tuple(
        EncodedImage(latent(lean if i % 3 else -lean), prompt(), f"image {i}", i % 3 > 0)
        for i in range(count)
    )
    groups = tuple(
        EncodedGroup((latent(lean), latent(0), latent(-lean)), (1.0, 0.0, -1.0), prompt(),
                     f"group {i}")
        for i in range(count)
    )
    return EncodedPairs(pairs, images, groups)


def settings_of(objective: Objective, batch_size: int = 2) -> TrainSettings:
    return TrainSettings(
        objective=objective, optimizer=FAST, batch_size=batch_size, grad_accumulation_steps=2,
        execution_mode="full_concurrent",
    )


def run(
    settings: TrainSettings, steps: int, start: TrainState | None = None,
    data: EncodedPairs | None = None,
) -> list[StepReport]:
    model = ToyFlow()
    adapter = toy_adapter(model)
    pairs = everything() if data is None else data
    return list(train(model, adapter, pairs, settings, steps, start))


OBJECTIVES = {
    **{
        name: Objective(name, 5.0, simpo_beta=5.0, supervised_mix=0.25 if name == "rpo" else 0.0)
        for name in LOSSES
    },
    "safeguard": Objective(beta=5.0, safeguard=0.5),
    "sum": Objective("ipo", 5.0, also=Objective("nft_pair", weight=0.5)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_the_taste(name: str) -> None:
    metrics = [report.metrics for report in run(settings_of(OBJECTIVES[name], 4), 40)]
    late = metrics[-8:]

    def mean(key: str) -> float:
        return sum(row[key] for row in late) / len(late)

    if name == "apo_down":  # both down is what it is for
        assert mean("dpo/reward_margin") > 0
        return
    assert mean("dpo/accuracy") > 0.8
    assert mean("dpo/reward_margin") > 0.05
    if OBJECTIVES[name].needs_reference:
        assert metrics[0]["prediction_change"] == 0 and mean("prediction_change") > 1e-3
        assert metrics[0]["dpo/accuracy"] == 0.5
    else:
        assert all(math.isnan(row["dpo/chosen_reward"]) for row in metrics)
        assert all(math.isnan(row["rho"]) for row in metrics)


@pytest.mark.parametrize(
    "objective",
    [
        Objective("kto", 5.0),  # in batches of 2: its baseline comes from the steps before
        Objective("bco_pair", 5.0),
        Objective(beta=5.0, adaptive_beta="tanh"),
        Objective(beta=5.0, adaptive_beta="target"),
        Objective(beta=5.0, beta_per_epoch=(5.0, 2.0, 20.0)),
    ],
    ids=["kto", "bco_pair", "tanh", "target", "beta per epoch"],
)
def test_what_an_objective_remembers_goes_on_bit_for_bit(
    objective: Objective, tmp_path: Path
) -> None:
    settings = settings_of(objective)
    whole = run(settings, 60)
    half = run(settings, 33)[-1].state()
    folder = RunFolder(tmp_path, {"some": "settings"})
    folder.open()
    folder.save_checkpoint(half)
    loaded = RunFolder(tmp_path, {"some": "settings"}).load_checkpoint(33)
    assert loaded.objective == half.objective
    for start in (half, loaded):
        rest = run(settings, 27, start)
        last, wanted = rest[-1].state(), whole[-1].state()
        assert last.objective == wanted.objective
        for name, value in wanted.adapter.items():
            assert torch.equal(value, last.adapter[name])
        assert [repr(report.metrics) for report in rest] == [
            repr(report.metrics) for report in whole[33:]
        ]
    if not objective.beta_per_epoch:
        other = ObjectiveState(mean_reward=1.0)
        forgotten = run(settings, 27, replace(half, objective=other))[-1].state()
        same = all(
            torch.equal(value, forgotten.adapter[name])
            for name, value in whole[-1].state().adapter.items()
        )
        assert not same, "it remembers nothing that matters"


def test_a_step_that_is_skipped_is_not_remembered() -> None:
    settings = settings_of(Objective("bco_pair", 5.0))
    before = run(settings, 5)[-1].state()
    broken = everything()
    first = replace(broken.pairs[0], chosen=broken.pairs[0].chosen * math.nan)
    one_pair = EncodedPairs((first,))
    (report,) = run(settings, 1, before, one_pair)
    assert report.skipped and report.state().objective == before.objective


def test_beta_falls_with_the_epochs_as_listed() -> None:
    # Six pairs in one batch: an epoch is a step. The logit's factor shows in s(-beta m).
    settings = replace(
        settings_of(Objective(beta_per_epoch=(50.0, 0.0)), 6), grad_accumulation_steps=1
    )
    factors = [report.metrics["dpo/gradient_factor"] for report in run(settings, 4)]
    # At step 0 the margin is 0; from step 1 on beta is.
    assert factors == [0.5] * 4
    settings = replace(settings, objective=Objective(beta_per_epoch=(5.0, 50.0)))
    factors = [report.metrics["dpo/gradient_factor"] for report in run(settings, 6)]
    assert factors[-1] < 0.4


def test_what_the_objective_lacks_is_refused_before_training() -> None:
    thumbs = EncodedPairs((), everything().labelled)
    with pytest.raises(ValueError, match="loss kto"):
        run(settings_of(Objective()), 1, data=thumbs)
    with pytest.raises(ValueError, match="none"):
        run(settings_of(Objective("kto")), 1, data=EncodedPairs(()))
    assert len(run(settings_of(Objective("kto", 5.0)), 2, data=thumbs)) == 2


def test_thumbs_with_unequal_counts_train_and_their_weights_show() -> None:
    data = EncodedPairs((), everything(9).labelled)
    first = run(settings_of(Objective("kto", 5.0), 9), 1, data=data)[0]
    # Six liked, three disliked: 1.5 each for the disliked. All at 1/2 before training, in two
    # batches of nine.
    assert first.metrics["dpo/raw_loss"] == pytest.approx(0.5 * (6 + 3 * 1.5) / 9)
