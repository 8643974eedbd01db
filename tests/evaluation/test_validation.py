from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from toykit.flow import ToyFlow, stir, toy_adapter
from toykit.pairs import toy_pairs

from dpo_core.evaluation.validation import (
    Validation,
    ValidationSettings,
    ValidationState,
    advice,
    best_so_far,
    carried,
    grid_of,
    patience,
)
from dpo_core.evaluation.validation import split as split_for
from dpo_core.training.batch import on_grid
from dpo_core.training.dataset import EncodedGroup, EncodedPair, EncodedPairs
from dpo_core.training.noise import NoiseSettings
from dpo_core.training.objectives import FRESH, Objective

BETA = 3.0


def split(
    pairs: EncodedPairs, settings: ValidationSettings, loss: str = "sigmoid"
) -> tuple[EncodedPairs, EncodedPairs]:
    return split_for(pairs, settings, Objective(loss=loss))


def prompts(counts: dict[str, int]) -> EncodedPairs:
    """Pairs of as many prompts, each with its number of pairs."""
    many = list(toy_pairs(sum(counts.values())))
    made: list[EncodedPair] = []
    for prompt, count in counts.items():
        made += [replace(many.pop(), prompt=prompt, group=prompt) for _ in range(count)]
    return EncodedPairs(tuple(made))


def names(pairs: EncodedPairs) -> set[str]:
    return {pair.prompt for pair in pairs}


def test_all_pairs_of_a_prompt_are_on_one_side_and_none_is_lost() -> None:
    pairs = prompts({f"p{i}": 1 + i % 3 for i in range(40)})
    training, held_out = split(pairs, ValidationSettings(percent=25))
    assert names(training).isdisjoint(names(held_out))
    assert {pair.key for pair in training} | {pair.key for pair in held_out} == {
        pair.key for pair in pairs
    }
    assert 4 <= len(names(held_out)) <= 16  # 10 of 40, within 2.2 standard deviations
    again, _ = split(EncodedPairs(tuple(reversed(pairs.pairs))), ValidationSettings(percent=25))
    assert names(again) == names(training)
    other, _ = split(pairs, ValidationSettings(percent=25, split_seed=1))
    assert names(other) != names(training)


@pytest.mark.parametrize("percent", [5, 10, 20])
def test_in_a_growing_collection_nothing_trained_on_turns_up_in_validation(percent: int) -> None:
    settings = ValidationSettings(percent=percent)
    for start in ({"a": 12}, {"a": 3, "b": 2}):
        counts, trained = dict(start), set[str]()
        for number in range(30):
            counts[f"p{number}"] = 1 + number % 2
            every = prompts({"p": sum(counts.values())}).pairs  # the same pairs, some more
            names = [name for name, count in counts.items() for _ in range(count)]
            pairs = tuple(
                replace(pair, prompt=name, group=name)
                for pair, name in zip(reversed(every), names, strict=True)
            )
            grown = EncodedPairs(pairs, lineage=("s",))
            training, held_out = split(grown, settings)
            assert trained.isdisjoint(pair.key for pair in held_out), number
            assert len(training) >= len(held_out) >= 1
            trained |= {pair.key for pair in training}


def test_a_fixed_collection_keeps_at_least_one_prompt_on_each_side() -> None:
    for count in range(2, 20):
        for percent in (1, 50, 90):
            pairs = prompts({f"p{i}": 2 for i in range(count)})
            training, held_out = split(pairs, ValidationSettings(percent=percent))
            assert names(training) and names(held_out)
            assert names(training).isdisjoint(names(held_out))


@pytest.mark.parametrize("growing", [False, True])
def test_a_single_pair_is_trained_on_and_two_are_parted(growing: bool) -> None:
    for seed in range(20):
        settings = ValidationSettings(percent=50, split_seed=seed)
        for count in (1, 2):
            pairs = replace(prompts({"a": count}), lineage=("s",) if growing else ())
            training, held_out = split(pairs, settings)
            assert (len(training), len(held_out)) == (1, count - 1)


def test_both_images_of_a_pair_stay_together_where_they_count_one_by_one() -> None:
    training, held_out = split(prompts({"a": 20}), ValidationSettings(percent=30), "kto")
    assert len(training.labelled) + len(held_out.labelled) == 40 and held_out.labelled
    def pair_of(key: str) -> str:
        return key.removesuffix(" chosen").removesuffix(" rejected")

    tried = {pair_of(one.key) for one in held_out.labelled}
    assert tried.isdisjoint(pair_of(one.key) for one in training.labelled)
    assert len(held_out.labelled) == 2 * len(tried)


def test_what_belongs_to_a_ranked_group_does_not_come_back_as_a_pair() -> None:
    pairs = prompts({"a": 12})
    groups = tuple(
        EncodedGroup(
            (*pair.latents, pair.chosen + 1), (2.0, 1.0, 0.0), pair.conditioning,
            f"group {pair.key}", "a", "a",
        )
        for pair in pairs
    )  # fmt: skip
    both = replace(pairs, groups=groups)
    training, held_out = split(both, ValidationSettings(percent=40), "dgpo")
    assert len(training.groups) + len(held_out.groups) == 12 and held_out.groups


def test_pairs_that_a_folder_keeps_for_validation_are_it() -> None:
    pairs = prompts({"a": 2, "b": 2})
    marked = EncodedPairs((*pairs.pairs[:3], replace(pairs[3], held_out=True)))
    training, held_out = split(marked, ValidationSettings(percent=50))
    assert training.pairs == pairs.pairs[:3] and held_out.pairs == marked.pairs[3:]


def test_with_one_prompt_pairs_are_split_and_it_is_said() -> None:
    training, held_out = split(prompts({"a": 30}), ValidationSettings(percent=30))
    assert len(held_out) >= 1 and len(training) + len(held_out) == 30
    assert "its prompt is trained on too" in advice(training, held_out)


def test_too_few_pairs_are_said_plainly() -> None:
    training, held_out = split(prompts({"a": 3, "b": 1}), ValidationSettings(percent=50))
    assert {len(training), len(held_out)} == {1, 3}
    alone = prompts({"b": 1})
    assert "coin flip" in advice(training, alone)
    nothing = EncodedPairs(())
    assert "nothing to validate on" in advice(alone, nothing)
    # Wilson for 2 of 4: 15 % to 85 %.
    assert "15% to 85%" in advice(training, prompts({"c": 4}))
    assert advice(training, prompts({f"c{i}": 1 for i in range(8)})) == ""


def settings(mode: str, count: int = 2) -> ValidationSettings:
    return ValidationSettings(patience=count, patience_mode=mode)


def after(mode: str, *values: tuple[float, float]) -> ValidationState:
    state = ValidationState()
    for accuracy, reward in values:
        metrics = {"dpo/val_accuracy": accuracy, "dpo/val_chosen_reward": reward}
        state = patience(state, metrics, settings(mode))
    return state


@pytest.mark.parametrize("mode", ["either", "both"])
def test_a_first_value_is_progress_however_small(mode: str) -> None:
    state = after(mode, (0.0, -1e9))
    assert (state.stalled, state.stopped) == (0, False)


def test_either_counts_when_one_metric_stalls_and_begins_anew_when_none_does() -> None:
    assert after("either", (0.5, 1.0), (0.6, 1.0)).stalled == 1  # equal is stalled
    assert after("either", (0.5, 1.0), (0.5, 2.0)).stalled == 1
    assert after("either", (0.5, 1.0), (0.6, 0.9), (0.7, 1.1)).stalled == 0
    assert after("either", (0.5, 1.0), (0.6, 0.9), (0.7, 1.0)).stopped


def test_both_counts_only_when_all_stall() -> None:
    assert after("both", (0.5, 1.0), (0.6, 0.5)).stalled == 0
    assert after("both", (0.5, 1.0), (0.4, 1.0)).stalled == 1
    assert after("both", (0.5, 1.0), (0.4, 1.0), (0.4, 1.1)).stalled == 0
    assert after("both", (0.5, 1.0), (0.4, 1.0), (0.5, 0.2)).stopped


def test_tiny_rewards_are_progress() -> None:
    assert after("both", (0.5, 1e-9), (0.5, 1.0000001e-9)).stalled == 0


def test_what_has_no_value_takes_no_part() -> None:
    nan = math.nan
    assert after("either", (0.5, nan), (0.6, nan), (0.7, nan)).stalled == 0
    assert after("either", (0.5, nan), (0.5, nan)).stalled == 1
    assert after("both", (nan, 1.0), (nan, 2.0)).stalled == 0
    assert after("either", (nan, nan), (nan, nan)) == ValidationState()
    best = best_so_far(ValidationState(), {"dpo/val_accuracy": nan, "dpo/val_loss": 0.1}, 5)
    assert best == ValidationState()


def test_a_state_counts_for_what_is_asked_today() -> None:
    state = ValidationState("h", 0.8, 0.1, 3, True, 20, 0.8, 0.5)
    asked = ValidationSettings(patience=2, save_best=True)
    assert carried(state, asked, "h", True) == state
    assert carried(state, None, "h", True) == ValidationState("h")
    assert carried(state, asked, "i", True) == ValidationState("i")
    assert carried(state, replace(asked, patience=5), "h", True).stopped is False
    assert carried(state, replace(asked, patience=0), "h", True).stopped is False
    assert carried(state, asked, "h", False).stalled == 0
    assert carried(state, replace(asked, save_best=False), "h", True).best_step == -1


def test_without_patience_nothing_stops() -> None:
    metrics = {"dpo/val_accuracy": 0.5, "dpo/val_chosen_reward": 0.0}
    state = ValidationState()
    for _ in range(50):
        state = patience(state, metrics, settings("either", 0))
    assert state.stalled == 49 and not state.stopped


def test_the_best_has_the_highest_accuracy_and_of_equals_the_lowest_loss() -> None:
    state = ValidationState()
    for step, accuracy, loss in (
        (10, 0.5, 0.7), (20, 0.75, 0.9), (30, 0.75, 0.8), (40, 0.75, 0.8), (50, 0.7, 0.1),
    ):  # fmt: skip
        metrics = {"dpo/val_accuracy": accuracy, "dpo/val_loss": loss}
        state = best_so_far(state, metrics, step)
    assert (state.best_step, state.best_accuracy, state.best_loss) == (30, 0.75, 0.8)


def test_the_grid_is_as_fine_as_the_time_allows() -> None:
    assert [grid_of(cells) for cells in (-1, 0, 1, 3, 8, 15, 16, 32, 999)] == [
        (1, 1), (1, 1), (1, 1), (3, 1), (8, 1), (8, 1), (8, 2), (8, 4), (8, 4),
    ]  # fmt: skip


def validation(
    model: ToyFlow, adapter: Any, pairs: EncodedPairs, every: int = 50, **changes: Any
) -> Validation:
    options: dict[str, Any] = {
        "objective": Objective(beta=BETA, supervised_mix=0.5),
        "settings": ValidationSettings(every=every),
        "noise": NoiseSettings("uniform"),
        "seed": 0,
        "batch_size": 2,
        "pairs_per_step": 4,
        "together": False,
    }
    return Validation(model, adapter, pairs, **(options | changes))


def test_the_share_of_the_time_is_kept_as_pairs_grow() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model)
    # 0.15 * 50 * 4 * 9 = 270 passes; four for each cell of each pair.
    assert validation(model, adapter, toy_pairs(2)).grid == (8, 4)  # 33 cells
    assert validation(model, adapter, toy_pairs(5)).grid == (8, 1)  # 13
    assert validation(model, adapter, toy_pairs(20)).grid == (3, 1)  # 3
    assert validation(model, adapter, toy_pairs(20), every=500).grid == (8, 4)


@pytest.mark.parametrize("together", [False, True])
def test_metrics_are_of_errors_averaged_over_the_grid(together: bool) -> None:
    model = ToyFlow(torch.float64)
    adapter = toy_adapter(model)
    stir(adapter)
    pairs = toy_pairs(3)
    measured = validation(model, adapter, pairs, together=together)
    assert measured.grid == (8, 2)
    found = measured.measure(0, FRESH)

    def error(image: int, record: int, reference: bool) -> Tensor:
        cells = []
        for level in range(8):
            for number in range(2):
                batch = on_grid(
                    pairs.records, [record], model, NoiseSettings("uniform"), 0,
                    (level + 0.5) / 8, f"validation {level} {number}",
                )  # fmt: skip
                if reference:
                    with adapter.reference():
                        residual, _ = model.predict(batch.images[image])
                else:
                    residual, _ = model.predict(batch.images[image])
                cells.append(residual.square().mean())
        return torch.stack(cells).mean()

    with torch.no_grad():
        chosen, rejected = (
            [error(image, i, True) - error(image, i, False) for i in range(3)]
            for image in range(2)
        )
    margins = torch.stack(chosen) - torch.stack(rejected)
    # The pure term, without the supervised mix.
    assert found["dpo/val_loss"] == pytest.approx(-logsigmoid(BETA * margins).mean().item())
    assert found["dpo/val_accuracy"] == pytest.approx((margins > 0).double().mean().item())
    assert found["dpo/val_chosen_reward"] == pytest.approx(sum(map(float, chosen)) / 3)
    assert found["dpo/val_rejected_reward"] == pytest.approx(sum(map(float, rejected)) / 3)
    quartiles = [found[f"dpo/val_margin_q{i}"] for i in range(1, 5)]
    assert sum(quartiles) / 4 == pytest.approx(margins.mean().item())
    assert found["dpo/val_accuracy_low"] < found["dpo/val_accuracy"]
    assert found["val/rho"] > 0 and found["val/prediction_change"] > 0


def test_the_grid_is_the_same_every_time_and_level_by_level() -> None:
    model = ToyFlow()
    measured = validation(model, toy_adapter(model), toy_pairs(2))
    first = measured.measure(0, FRESH)
    sigmas = {round(float(s), 6) for call in model.calls for s in call.rows.sigma}
    assert sigmas == {round(1 - (i + 0.5) / 8, 6) for i in range(8)}
    assert measured.measure(0, FRESH) == first
    assert first["dpo/val_loss"] == pytest.approx(math.log(2))
    assert first["dpo/val_accuracy"] == 0.5
    assert not any(call.graph for call in model.calls)


def test_a_loss_without_reference_is_compared_with_one_all_the_same() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model)
    stir(adapter)
    measured = validation(model, adapter, toy_pairs(2), objective=Objective(loss="simpo"))
    found = measured.measure(0, FRESH)
    assert found["val/rho"] > 0 and math.isfinite(found["dpo/val_chosen_reward"])


def test_bad_settings_are_all_named() -> None:
    assert ValidationSettings().problems() == []
    wrong = ValidationSettings(percent=0, every=0, patience=-1, patience_mode="never")
    problems = wrong.problems()
    for name in ("percent", "every", "patience", "patience_mode"):
        assert any(problem.startswith(name) for problem in problems)
