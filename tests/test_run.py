from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toykit.flow import ToyFlow, stir, toy_adapter, toy_lora, widen
from toykit.oracle import Side, dpo
from toykit.pairs import joined, toy_pairs

from dpo_core.evaluation.validation import ValidationSettings
from dpo_core.run import StepReport, TrainingError, TrainSettings, TrainState, train
from dpo_core.saving.run_folder import RunFolder
from dpo_core.training.adapter import Adapter
from dpo_core.training.dataset import EncodedPairs
from dpo_core.training.denoiser import Prediction, Rows
from dpo_core.training.four_passes import SCHEDULES
from dpo_core.training.objectives import Objective
from dpo_core.training.optimizer import OptimizerSettings

MODES = list(SCHEDULES)
LN_2 = 0.6931471805599453
FAST = OptimizerSettings(learning_rate=1e-2, warmup_steps=3)
SETTINGS = TrainSettings(
    objective=Objective(beta=20.0, supervised_mix=0.1),
    optimizer=FAST,
    batch_size=2,
    grad_accumulation_steps=1,
    execution_mode="full_concurrent",
)
PAIRS = joined(toy_pairs(3), toy_pairs(2, shape=(2, 3, 5), seed=1))
"""Two buckets, so batches of 2, 1 and 2 pairs."""


def run(
    settings: TrainSettings = SETTINGS,
    steps: int = 1,
    start: TrainState | None = None,
    model: ToyFlow | None = None,
    pairs: EncodedPairs = PAIRS,
    existing: bool = False,
    **shape: Any,
) -> tuple[Iterator[StepReport], Adapter, ToyFlow]:
    """A run in a program of its own: nothing is shared with another but the arguments.

    ``shape`` is of the adapter: its kind, dropout and so on.
    """
    model = model or ToyFlow()
    adapter = toy_adapter(model, existing=toy_lora(model) if existing else None, **shape)
    return train(model, adapter, pairs, settings, steps, start), adapter, model


def last(reports: Iterator[StepReport]) -> StepReport:
    return list(reports)[-1]


def end(steps: int, start: TrainState | None = None, **options: Any) -> TrainState:
    reports, _, _ = run(steps=steps, start=start, **options)
    return last(reports).state()


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same(one: TrainState, other: TrainState) -> bool:
    """Bit for bit."""
    return (
        (one.step, one.rho, one.loss_scale) == (other.step, other.rho, other.loss_scale)
        and same_tensors(one.adapter, other.adapter)
        and same_tensors(one.optimizer, other.optimizer)
    )


def copied(state: TrainState) -> TrainState:
    return replace(
        state,
        adapter={name: value.clone() for name, value in state.adapter.items()},
        optimizer={name: value.clone() for name, value in state.optimizer.items()},
    )


# Resuming


KINDS = ("rslora", "dora", "loha", "lokr")
ADAPTERS: list[tuple[int, dict[str, Any]]] = [
    (100, {}),
    (30, {"existing": True}),
    (20, {"existing": True, "dropout": 0.3}),
    (20, {"kind": "dora", "dropout": 0.3}),
    *((10, {"kind": kind}) for kind in KINDS),
]


@pytest.mark.parametrize(
    ("steps", "shape"), ADAPTERS,
    ids=[" ".join(map(str, shape.values())) or "new adapter" for _, shape in ADAPTERS],
)
def test_100_and_100_steps_equal_200_bit_for_bit_in_memory_and_from_the_disk(
    steps: int, shape: dict[str, Any], tmp_path: Path
) -> None:
    whole_reports, _, _ = run(steps=2 * steps, **shape)
    whole = list(whole_reports)
    half = end(steps, **shape)
    folder = RunFolder(tmp_path, {"some": "settings"})
    folder.open()
    folder.save_checkpoint(half)

    for start in (half, RunFolder(tmp_path, {"some": "settings"}).load_checkpoint(steps)):
        reports, _, _ = run(steps=steps, start=start, **shape)
        second = list(reports)
        assert [report.step for report in second] == list(range(steps + 1, 2 * steps + 1))
        assert same(second[-1].state(), whole[-1].state())
        for one, other in zip(second, whole[steps:], strict=True):
            assert one.metrics == other.metrics
    moved = not same_tensors(half.adapter, whole[-1].state().adapter)
    assert moved, "a run that stands still is easily resumed"


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_goes_on_where_it_was(schedule: str) -> None:
    settings = replace(
        SETTINGS, optimizer=OptimizerSettings(1e-2, schedule, warmup_steps=3, total_steps=12)
    )
    assert same(end(7, end(5, settings=settings), settings=settings), end(12, settings=settings))


def test_the_start_is_a_value_that_training_does_not_change() -> None:
    start = end(3)
    before = copied(start)
    end(5, start)
    assert same(start, before)


def test_two_branches_from_one_state_do_not_disturb_each_other() -> None:
    start, model = end(3), ToyFlow()
    adapter = toy_adapter(model)
    gentle = replace(SETTINGS, seed=8)
    alone = end(4, start), end(4, start, settings=gentle)
    # Both on one model, one after the other, as in a program that keeps it loaded.
    one = last(train(model, adapter, PAIRS, SETTINGS, 4, start)).state()
    other = last(train(model, adapter, PAIRS, gentle, 4, start)).state()
    assert same(one, alone[0]) and same(other, alone[1])
    assert not same_tensors(one.adapter, other.adapter)


def test_the_same_run_twice_is_the_same_and_another_seed_is_not() -> None:
    first = end(5)
    torch.manual_seed(99)
    assert same(end(5), first)
    assert not same_tensors(end(5, settings=replace(SETTINGS, seed=1)).adapter, first.adapter)


def test_a_seed_decides_the_noise_and_not_only_the_order() -> None:
    one_pair = toy_pairs(1)
    first = end(2, pairs=one_pair)
    assert same(end(2, pairs=one_pair), first)
    other = end(2, pairs=one_pair, settings=replace(SETTINGS, seed=1))
    assert not same_tensors(other.adapter, first.adapter)


@pytest.mark.parametrize("shared", [True, False])
def test_noise_is_shared_by_both_images_if_the_settings_say_so(shared: bool) -> None:
    reports, _, model = run(replace(SETTINGS, shared_noise=shared), steps=3)
    next(reports)
    for rows, _ in model.calls:
        pairs = len(rows) // 2
        assert torch.equal(rows.sigma[:pairs], rows.sigma[pairs:]) is shared
        assert torch.equal(rows.noise[:pairs], rows.noise[pairs:]) is shared


def test_no_gradient_is_kept_between_steps() -> None:
    reports, adapter, _ = run(steps=3)
    for _ in reports:
        assert all(parameter.grad is None for parameter in adapter.parameters().values())


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    end(3)
    assert torch.equal(before, torch.get_rng_state())


def test_a_state_can_be_taken_at_any_step_and_stays_what_it_was() -> None:
    reports, _, _ = run(steps=6)
    states = [(report.step, report.state()) for report in reports]
    for step, state in states:
        assert state.step == step
        assert same(state, end(step))


@pytest.mark.parametrize("shape", [{}, {"dropout": 0.4}, {"kind": "dora", "dropout": 0.4}])
def test_all_modes_train_the_same_lora(shape: dict[str, Any]) -> None:
    ends = [end(20, settings=replace(SETTINGS, execution_mode=mode), **shape) for mode in MODES]
    for other in ends[1:]:
        for name, value in ends[0].adapter.items():
            torch.testing.assert_close(other.adapter[name], value, rtol=1e-3, atol=1e-5)


# Gradients of a step


def gradients_of_a_step(
    settings: TrainSettings, pairs: EncodedPairs, model: ToyFlow | None = None
) -> tuple[dict[str, Tensor], StepReport, ToyFlow, Adapter]:
    """One fp64 step from a stirred policy. With beta1 = 0 Adam's first moment is the gradient."""
    model = model or ToyFlow(torch.float64)
    adapter = toy_adapter(model)
    widen(adapter)
    stir(adapter)
    before = {name: p.detach().clone() for name, p in adapter.parameters().items()}
    plain = replace(
        settings,
        optimizer=OptimizerSettings(1e-3, warmup_steps=0, beta1=0.0, max_grad_norm=math.inf),
    )
    # Step 1, because at step 0 policy and reference would have to agree.
    start = TrainState(1, before, {})
    report = last(train(model, adapter, pairs, plain, 1, start))
    optimizer = report.state().optimizer
    found = {name: optimizer[f"{name}/exp_avg"] for name in before}
    with torch.no_grad():
        for name, parameter in adapter.parameters().items():
            parameter.copy_(before[name])
    return found, report, model, adapter


def close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        (one[name] - other[name]).norm() <= 1e-9 * other[name].norm() and other[name].norm() > 1e-6
        for name in one
    )


def oracle_gradients(model: ToyFlow, adapter: Adapter, objective: Objective) -> dict[str, Tensor]:
    """Of the mean over all pairs that ``model`` was asked about, in `policy_concurrent` order."""

    def sides(rows: Rows) -> list[Side]:
        return [
            Side(rows.latents[i], rows.conditioning[i], rows.sigma[i], rows.noise[i])
            for i in range(len(rows))
        ]

    pairs = []
    for first in range(0, len(model.calls), 4):  # chosen and rejected reference, then policy
        chosen, rejected = model.calls[first + 2].rows, model.calls[first + 3].rows
        pairs += list(zip(sides(chosen), sides(rejected), strict=True))
    lora = {
        name: (
            adapter.parameters()[f"{name}.lora_A.weight"],
            adapter.parameters()[f"{name}.lora_B.weight"],
            alpha / 2,
        )
        for name, alpha in adapter.alphas().items()
    }
    layers: Any = {name: (layer.weight, layer.bias) for name, layer in model.layers.items()}
    return dpo(
        layers, lora, {}, pairs, objective.beta, [0.0] * len(pairs), objective.supervised_mix
    ).gradients


def test_a_steps_gradient_is_that_of_the_mean_over_its_pairs_whatever_their_batches() -> None:
    # Buckets of 3 and 2 in batches of 2: micro-batches of 2, 1 and 2 pairs.
    settings = replace(
        SETTINGS, execution_mode="policy_concurrent", grad_accumulation_steps=3,
        objective=Objective(beta=3.0, supervised_mix=0.3),
    )
    found, _, model, adapter = gradients_of_a_step(settings, PAIRS)
    assert sorted(len(call.rows) for call in model.calls) == [1] * 4 + [2] * 8
    assert close(found, oracle_gradients(model, adapter, settings.objective))


@pytest.mark.parametrize("mode", MODES)
def test_accumulating_8_single_pairs_equals_a_batch_of_8(mode: str) -> None:
    settings = replace(SETTINGS, execution_mode=mode, objective=Objective(beta=3.0))
    one_by_one = replace(settings, batch_size=1, grad_accumulation_steps=8)
    together = replace(settings, batch_size=8, grad_accumulation_steps=1)
    pairs = toy_pairs(8)
    ours, report, model, _ = gradients_of_a_step(one_by_one, pairs)
    theirs, other, batched, _ = gradients_of_a_step(together, pairs)
    assert {len(call.rows) for call in model.calls} <= {1, 2}
    assert {len(call.rows) for call in batched.calls} <= {8, 16}
    assert close(ours, theirs)
    for name, value in report.metrics.items():
        if name != "epoch":
            assert value == pytest.approx(other.metrics[name], rel=1e-9), name


def test_accumulating_unequal_buckets_equals_single_pairs() -> None:
    objective = Objective(beta=3.0)
    steps = [
        replace(SETTINGS, objective=objective, batch_size=size, grad_accumulation_steps=number)
        for size, number in ((1, 5), (2, 3), (3, 2))
    ]
    first, *others = [gradients_of_a_step(settings, PAIRS) for settings in steps]
    for other in others:
        assert close(other[0], first[0])
        for name in ("loss/dpo", "dpo/reward_margin", "dpo/accuracy", "prediction_change"):
            assert other[1].metrics[name] == pytest.approx(first[1].metrics[name], rel=1e-9)


# Starting up


class Restless(ToyFlow):
    """Answers differently each time, as with a model patch that has its own randomness."""

    def predict(self, rows: Rows) -> Prediction:
        residual, power = super().predict(rows)
        generator = torch.Generator().manual_seed(len(self.calls))
        return Prediction(residual + 0.1 * torch.randn(residual.shape, generator=generator), power)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
def test_the_first_step_finds_model_and_reference_agreeing(mode: str, existing: bool) -> None:
    settings = replace(SETTINGS, execution_mode=mode, objective=Objective(label_smoothing=0.1))
    reports, _, _ = run(settings, existing=existing)
    metrics = last(reports).metrics
    assert metrics["dpo/raw_loss"] == pytest.approx(LN_2, abs=1e-6)
    assert metrics["dpo/reward_margin"] == 0 and metrics["prediction_change"] == 0
    assert metrics["dpo/accuracy"] == 0.5, "a tie says nothing either way"


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "half precision"])
def test_a_model_with_its_own_randomness_is_refused_before_anything_is_trained(half: bool) -> None:
    model = Restless()
    model.half_precision = half
    reports, adapter, _ = run(replace(SETTINGS, objective=Objective()), model=model)
    before = adapter.snapshot()
    with pytest.raises(TrainingError, match="answer differently each time"):
        next(reports)
    assert same_tensors(adapter.snapshot(), before)


def test_a_resumed_run_does_not_expect_agreement() -> None:
    state = end(20)
    reports, _, _ = run(start=state)
    assert abs(last(reports).metrics["dpo/raw_loss"] - LN_2) > 1e-3


def test_with_beta_0_the_loss_is_ln_2_whatever_the_model_does() -> None:
    settings = replace(SETTINGS, objective=Objective(beta=0.0, supervised_mix=1.0))
    # Step 1, because at step 0 policy and reference would have to agree.
    start = TrainState(1, toy_adapter(ToyFlow()).snapshot(), {})
    reports, _, _ = run(settings, steps=10, model=Restless(), start=start)
    for report in reports:
        assert report.metrics["dpo/raw_loss"] == pytest.approx(LN_2, abs=1e-6)
        assert report.metrics["loss/dpo"] == pytest.approx(
            LN_2 + report.metrics["errors/chosen"], rel=1e-5
        )


def test_a_model_that_gives_no_number_at_all_is_refused_at_once() -> None:
    reports, _, _ = run(model=Faulty({0}))
    with pytest.raises(TrainingError, match="before anything was trained"):
        next(reports)


def test_every_bad_setting_is_named_at_once() -> None:
    bad = TrainSettings(
        objective=Objective(beta=-1), optimizer=OptimizerSettings(schedule="steep"),
        batch_size=0, grad_accumulation_steps=0, execution_mode="turbo",
    )
    assert len(bad.problems()) == 5
    with pytest.raises(ValueError) as refused:
        next(run(bad)[0])
    for word in ("beta", "schedule", "batch_size", "grad_accumulation_steps", "turbo"):
        assert word in str(refused.value)
    assert SETTINGS.problems() == TrainSettings().problems() == []


# Numbers that are none


class Faulty(ToyFlow):
    """Gives NaN in some optimiser steps; in `full_concurrent` a step is two calls."""

    def __init__(self, steps: set[int], spoil: float = math.nan) -> None:
        super().__init__()
        self.steps, self.spoil = steps, spoil

    def predict(self, rows: Rows) -> Prediction:
        step = len(self.calls) // 2
        residual, power = super().predict(rows)
        return Prediction(residual * self.spoil if step in self.steps else residual, power)


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
def test_a_step_without_a_number_is_skipped_counted_and_changes_nothing(spoil: float) -> None:
    reports, adapter, _ = run(steps=8, model=Faulty({2, 3, 5}, spoil))
    before: TrainState | None = None
    skipped = []
    for report in reports:
        state = report.state()
        assert state.step == report.step
        if report.skipped:
            skipped.append(report.step)
            assert before is not None
            assert same(replace(state, step=before.step), before)
        elif before is not None:
            assert not same_tensors(state.adapter, before.adapter)
        before = state
    assert skipped == [3, 4, 6]
    assert all(value.isfinite().all() for value in adapter.snapshot().values())


def test_only_the_gradient_being_no_number_also_skips_the_step() -> None:
    class Overflowing(ToyFlow):
        def predict(self, rows: Rows) -> Prediction:
            prediction = super().predict(rows)
            if prediction.residual.requires_grad and (len(self.calls) - 1) // 2 == 1:
                prediction.residual.register_hook(lambda gradient: gradient * math.inf)
            return prediction

    reports, _, _ = run(steps=3, model=Overflowing())
    first, second, third = (
        (report.skipped, report.state(), report.metrics) for report in reports
    )
    assert (first[0], second[0], third[0]) == (False, True, False)
    assert math.isfinite(second[2]["loss/dpo"]) and not math.isfinite(second[2]["grad_norm"])
    assert same_tensors(first[1].adapter, second[1].adapter)


def test_five_such_steps_in_a_row_stop_with_the_last_good_lora() -> None:
    reports, adapter, _ = run(steps=20, model=Faulty({1, 2, 3, 4, 6, 7, 8, 9, 10}))
    seen = []
    with pytest.raises(TrainingError, match="5 steps in a row"):
        for report in reports:
            seen.append(report)
    # Four in a row are put up with, then one good step, then five.
    assert [report.step for report in seen if not report.skipped] == [1, 6]
    state = seen[-1].state()
    assert state.step == seen[-1].step == 10
    assert same_tensors(state.adapter, adapter.snapshot())
    # The good steps alone, with their own noise, lead to the same LoRA.
    good = end(1)
    good = end(1, replace(good, step=5))
    assert same_tensors(state.adapter, good.adapter)


class HalfPrecision(ToyFlow):
    """Hands its answer over in fp16, so gradients above 65,504 on the way back are infinite."""

    needs_loss_scaling = True

    def predict(self, rows: Rows) -> Prediction:
        residual, power = super().predict(rows)
        return Prediction(residual.half().float(), power)


def test_fp16_halves_the_loss_scale_until_gradients_fit_and_then_trains() -> None:
    settings = replace(SETTINGS, objective=Objective(beta=5000.0))
    reports, _, _ = run(settings, steps=12, model=HalfPrecision())
    scale, before = 4096.0, None
    skipped = []
    for report in reports:
        state = report.state()
        skipped.append(report.skipped)
        assert math.isfinite(report.metrics["loss/dpo"])
        assert math.isfinite(report.metrics["grad_norm"]) is not report.skipped
        if report.skipped:
            scale /= 2
            assert before is None or same_tensors(state.adapter, before.adapter)
        assert state.loss_scale == scale
        before = state
    assert skipped[0] and not skipped[-1]

    # Gone on from a state, the scale is not searched for again.
    fresh = TrainState(0, toy_adapter(ToyFlow()).snapshot(), {}, loss_scale=scale)
    reports, _, _ = run(settings, start=fresh, model=HalfPrecision())
    assert not last(reports).skipped


def test_loss_scaling_does_not_change_what_is_learned() -> None:
    class Scaled(ToyFlow):
        needs_loss_scaling = True

    plain, scaled = end(10), end(10, model=Scaled())
    # 4096 is a power of two: exact.
    assert same_tensors(plain.adapter, scaled.adapter)
    assert same_tensors(plain.optimizer, scaled.optimizer)


def test_a_loss_that_is_no_number_is_not_taken_for_an_fp16_overflow() -> None:
    class Hopeless(Faulty):
        needs_loss_scaling = True

    reports, _, _ = run(steps=40, model=Hopeless(set(range(1, 99))))
    seen: list[StepReport] = []
    with pytest.raises(TrainingError):
        for report in reports:
            seen.append(report)
    assert len(seen) == 1 + 4  # one good step, four skips; the fifth stops
    assert seen[-1].state().loss_scale == 4096


def test_a_lowered_loss_scale_is_tried_higher_again_every_200_good_steps() -> None:
    start = TrainState(198, toy_adapter(ToyFlow()).snapshot(), {}, loss_scale=64.0)
    reports, _, _ = run(steps=3, start=start)
    assert [report.state().loss_scale for report in reports] == [64, 128, 128]


def test_a_model_that_changes_its_mind_is_refused_at_any_beta() -> None:
    settings = replace(SETTINGS, objective=Objective(beta=1e-6))
    reports, _, _ = run(settings, model=Restless())
    with pytest.raises(TrainingError, match="predictions differ"):
        next(reports)


# Metrics


def test_metrics_are_means_over_all_pairs_of_the_step() -> None:
    settings = replace(
        SETTINGS, grad_accumulation_steps=3, execution_mode="policy_concurrent",
        objective=Objective(beta=3.0, supervised_mix=0.5),
    )
    _, report, model, _ = gradients_of_a_step(settings, PAIRS)

    def error(rows: Rows, call: int) -> list[float]:
        return again[call].residual.square().flatten(1).mean(1).tolist()

    # Ask the model again what it was asked, in the same order.
    calls = list(model.calls)
    again = []
    adapter = model.adapter
    assert adapter is not None
    for i, call in enumerate(calls):
        with torch.no_grad():
            if i % 4 < 2:
                with adapter.off():
                    again.append(model.predict(call.rows))
            else:
                again.append(model.predict(call.rows))
    columns: list[list[float]] = [[], [], [], []]
    for i, call in enumerate(calls):
        columns[i % 4] += error(call.rows, i)
    reference_chosen, reference_rejected, chosen, rejected = columns
    assert len(chosen) == 5

    def mean(values: list[float]) -> float:
        return math.fsum(values) / 5

    margins = [
        (rw - ew) - (rl - el)
        for rw, rl, ew, el in zip(*columns, strict=True)
    ]
    raw = mean([math.log1p(math.exp(-3 * m)) for m in margins])
    expected = {
        "errors/chosen": mean(chosen),
        "errors/rejected": mean(rejected),
        "errors/reference_chosen": mean(reference_chosen),
        "errors/reference_rejected": mean(reference_rejected),
        "dpo/chosen_reward": mean(reference_chosen) - mean(chosen),
        "dpo/rejected_reward": mean(reference_rejected) - mean(rejected),
        "dpo/reward_margin": mean(margins),
        "dpo/accuracy": sum(margin > 0 for margin in margins) / 5,
        "dpo/raw_loss": raw,
        "loss/dpo": raw + 0.5 * mean(chosen),
        "loss/train_step": raw + 0.5 * mean(chosen),
        "rho": mean(chosen) / mean(reference_chosen),
        "learning_rate": 1e-3,
    }
    for name, value in expected.items():
        assert report.metrics[name] == pytest.approx(value, rel=1e-9), name


def test_epoch_counts_how_often_all_pairs_were_seen_before_the_step() -> None:
    # Batches of 2, 1, 2: three steps are an epoch.
    reports, _, _ = run(steps=4)
    assert [report.metrics["epoch"] for report in reports] == [0, 1 / 3, 2 / 3, 1]


def test_rho_follows_the_chosen_error_slowly() -> None:
    reports, _, _ = run(steps=5)
    expected = None
    for report in reports:
        m = report.metrics
        ratio = m["errors/chosen"] / m["errors/reference_chosen"]
        expected = ratio if expected is None else 0.95 * expected + 0.05 * ratio
        assert m["rho"] == pytest.approx(expected)
        assert report.state().rho == m["rho"]


# Being stopped


class Stop(BaseException):
    """A host's interrupt: not an Exception, so that nothing swallows it."""


def answer(model: ToyFlow) -> Tensor:
    rows = Rows(
        PAIRS[0].chosen[None], (PAIRS[0].conditioning,), torch.tensor([0.5]),
        torch.ones(1, 2, 4, 4),
    )
    with torch.no_grad():
        return model.predict(rows).residual


def stop_in(model: ToyFlow, layer_call: int) -> Callable[[str], None]:
    calls = 0

    def before_layer(_: str) -> None:
        nonlocal calls
        if calls == layer_call:
            raise Stop
        calls += 1

    return before_layer


LAYERS_OF_A_STEP = {"sequential": 30, "policy_concurrent": 24, "full_concurrent": 12}
"""Two micro-batches of 5, 4 and 2 passes through 3 layers."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
def test_stopped_in_any_layer_of_any_pass_the_last_step_stands(mode: str, existing: bool) -> None:
    settings = replace(SETTINGS, execution_mode=mode, grad_accumulation_steps=2)
    whole = [end(n, settings=settings, existing=existing) for n in (2, 3)]
    for layer_call in range(LAYERS_OF_A_STEP[mode]):
        reports, adapter, model = run(settings, steps=5, existing=existing)
        next(reports)
        report = next(reports)
        pointers = {name: p.data_ptr() for name, p in adapter.parameters().items()}
        before = answer(model)
        model.before_layer = stop_in(model, layer_call)
        with pytest.raises(Stop):
            next(reports)
        model.before_layer = None
        assert pointers == {name: p.data_ptr() for name, p in adapter.parameters().items()}
        assert same_tensors(adapter.snapshot(), whole[0].adapter)
        assert same(report.state(), whole[0])
        assert torch.equal(answer(model), before), "not the reference any more"
        if layer_call % 5 == 0:  # and from there it goes on as if nothing had happened
            again = train(model, adapter, PAIRS, settings, 1, report.state())
            assert same(last(again).state(), whole[1])
    # The count above is right: one layer later, nothing would have stopped it.
    reports, _, model = run(settings, steps=1, existing=existing)
    model.before_layer = stop_in(model, LAYERS_OF_A_STEP[mode])
    next(reports)


@pytest.mark.parametrize("mode", MODES)
def test_stopped_during_backward_the_last_step_stands(mode: str) -> None:
    class StopsInBackward(ToyFlow):
        armed = False

        def predict(self, rows: Rows) -> Prediction:
            prediction = super().predict(rows)
            if self.armed and prediction.residual.requires_grad:
                prediction.residual.register_hook(self._stop)
            return prediction

        @staticmethod
        def _stop(_: Tensor) -> None:
            raise Stop

    settings = replace(SETTINGS, execution_mode=mode)
    model = StopsInBackward()
    reports, adapter, _ = run(settings, steps=5, model=model)
    report = next(reports)
    expected = report.state()
    model.armed = True
    with pytest.raises(Stop):
        next(reports)
    assert same(report.state(), expected)
    assert same_tensors(adapter.snapshot(), expected.adapter)


def test_closing_the_iterator_early_leaves_the_adapter_at_the_last_step() -> None:
    reports, adapter, _ = run(steps=10)
    next(reports)
    report = next(reports)
    reports.close()  # type: ignore[attr-defined]
    assert same(report.state(), end(2))
    assert same_tensors(adapter.snapshot(), end(2).adapter)


# Learning


@pytest.mark.parametrize("mode", ["sequential", "full_concurrent"])
@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
def test_a_taste_is_learned(mode: str, existing: bool) -> None:
    settings = TrainSettings(
        objective=Objective(beta=5.0), optimizer=replace(FAST, learning_rate=2e-2),
        batch_size=8, grad_accumulation_steps=1, execution_mode=mode,
    )
    reports, _, _ = run(settings, 60, pairs=toy_pairs(8, lean=0.7), existing=existing)
    metrics = [report.metrics for report in reports]
    late = metrics[-10:]
    assert metrics[0]["dpo/accuracy"] == 0.5 and metrics[0]["prediction_change"] == 0
    assert all(row["dpo/accuracy"] == 1.0 for row in late)
    assert all(row["dpo/raw_loss"] < 0.3 for row in late)
    assert all(row["prediction_change"] > 0.01 for row in late)
    assert all(row["dpo/reward_margin"] > 0.1 for row in late)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taste_is_learned_by_every_type_of_adapter(kind: str) -> None:
    settings = TrainSettings(
        objective=Objective(beta=5.0), optimizer=replace(FAST, learning_rate=2e-2),
        batch_size=8, grad_accumulation_steps=1,
    )
    reports, _, _ = run(settings, 60, pairs=toy_pairs(8, lean=0.7), kind=kind, rank=4)
    metrics = [report.metrics for report in reports]
    assert metrics[0]["dpo/accuracy"] == 0.5 and metrics[0]["prediction_change"] == 0
    assert all(row["dpo/accuracy"] == 1.0 for row in metrics[-10:])
    assert all(row["dpo/raw_loss"] < 0.3 for row in metrics[-10:])


def test_dropout_acts_in_training_and_never_in_validation() -> None:
    learned = end(20)
    still = OptimizerSettings(learning_rate=1e-12, warmup_steps=0)  # below fp32's resolution
    settings = replace(SETTINGS, optimizer=still, validation=ValidationSettings(every=1))
    rows = []
    for dropout in (0.0, 0.5):
        model = ToyFlow()
        adapter = toy_adapter(model, dropout=dropout)
        held_out = toy_pairs(3, seed=5)
        (report,) = train(model, adapter, PAIRS, settings, 1, learned, held_out=held_out)
        assert same_tensors(report.state().adapter, learned.adapter)
        rows.append(report.metrics)
    plain, dropped = rows
    validated = [name for name in plain if name.startswith("dpo/val_")]
    assert len(validated) >= 4 and all(plain[name] == dropped[name] for name in validated)
    assert plain["prediction_change"] != dropped["prediction_change"]


def test_swapped_pairs_teach_the_opposite() -> None:
    settings = replace(SETTINGS, objective=Objective(beta=5.0), batch_size=8)
    pairs = toy_pairs(8, lean=0.7)
    swapped = EncodedPairs(
        tuple(replace(p, chosen=p.rejected, rejected=p.chosen) for p in pairs)
    )
    learned = end(60, settings=settings, pairs=pairs)
    reports, _, _ = run(settings, start=replace(learned, step=60), pairs=swapped)
    assert last(reports).metrics["dpo/accuracy"] == 0.0


def test_with_an_existing_adapter_the_anchor_is_where_it_started() -> None:
    """Gone on from a state, the reference is still the LoRA as it was loaded."""
    settings = replace(SETTINGS, objective=Objective(beta=5.0), batch_size=8)
    pairs = toy_pairs(8, lean=0.7)
    state = end(30, settings=settings, pairs=pairs, existing=True)
    reports, adapter, _ = run(settings, start=state, pairs=pairs, existing=True)
    metrics = last(reports).metrics
    assert metrics["prediction_change"] > 0.01 and metrics["dpo/reward_margin"] > 0.05
    frozen, original = adapter.frozen_reference(), toy_lora(ToyFlow())
    assert frozen is not None
    for name, weights in original.items():
        assert torch.equal(frozen[f"{name}.lora_A.weight"], weights.parts["lora_A.weight"])
        assert torch.equal(frozen[f"{name}.lora_B.weight"], weights.parts["lora_B.weight"])


def test_added_pairs_are_seen_at_once_and_no_pair_meets_its_noise_again() -> None:
    def seen(model: ToyFlow) -> list[tuple[float, float]]:
        """Latent and noise of every row the model was asked about, by their sums."""
        return [
            (float(latent.sum()), float(noise.sum()))
            for call in model.calls
            for latent, noise in zip(call.rows.latents, call.rows.noise, strict=True)
        ]

    few, all_pairs = EncodedPairs(PAIRS.pairs[:2]), PAIRS
    settings = replace(SETTINGS, batch_size=1, grad_accumulation_steps=1)
    model = ToyFlow()
    state = last(train(model, toy_adapter(model), few, settings, 3)).state()
    before = set(seen(model))
    assert state.visits == 2  # two pairs, three steps: the second visit has begun
    grown = ToyFlow()
    steps = len(all_pairs)
    state = last(train(grown, toy_adapter(grown), all_pairs, settings, steps, state)).state()
    after = seen(grown)
    assert before.isdisjoint(after)
    assert {latent for latent, _ in after} == {
        float(side.sum()) for pair in all_pairs for side in (pair.chosen, pair.rejected)
    }
    assert (state.epochs.dataset, state.epochs.first_step) == (all_pairs.digest, 3)
    assert (state.epochs.first_visit, state.visits) == (2, 3)


def test_a_running_mean_is_the_lora_and_training_does_not_feel_it() -> None:
    averaging = replace(SETTINGS, optimizer=replace(FAST, ema=0.9))
    plain, state = end(6), end(6, settings=averaging)
    assert same_tensors(plain.adapter, state.adapter)
    assert plain.weights is plain.adapter and state.weights is state.average
    assert not same_tensors(state.average, state.adapter)
    whole, half = end(6, settings=averaging), end(3, settings=averaging)
    parts = end(3, start=copied(half), settings=averaging)
    assert same_tensors(parts.average, whole.average)


def test_another_algorithm_goes_on_from_the_weights_alone() -> None:
    start = end(3)
    other = replace(SETTINGS, optimizer=replace(FAST, algorithm="adafactor"))
    state = end(1, start=start, settings=other)
    assert state.step == 4 and state.algorithm == "adafactor"
    assert not any(name.endswith("exp_avg") for name in state.optimizer)
    assert not same_tensors(state.adapter, start.adapter)


# Validation

VALIDATING = replace(SETTINGS, validation=ValidationSettings(every=2, save_best=True))
HELD_OUT = toy_pairs(2, seed=5)


def validated(
    steps: int, start: TrainState | None = None, settings: TrainSettings = VALIDATING
) -> list[StepReport]:
    model = ToyFlow()
    adapter = toy_adapter(model)
    found = []
    for report in train(model, adapter, PAIRS, settings, steps, start, held_out=HELD_OUT):
        state = report.state()
        found.append(replace(report, state=lambda state=state: state))
    return found


def test_validation_changes_nothing_in_training() -> None:
    reports = validated(5)
    assert [report.step for report in reports] == [0, 1, 2, 3, 4, 5]
    measured = ["dpo/val_loss" in report.metrics for report in reports]
    assert measured == [True, False, True, False, True, False]
    assert reports[0].metrics["dpo/val_accuracy"] == 0.5
    assert reports[0].metrics["dpo/val_loss"] == pytest.approx(LN_2)
    assert same_tensors(reports[-1].state().adapter, end(5).adapter)
    without = replace(VALIDATING, validation=ValidationSettings(every=2, at_start=False))
    assert [report.step for report in validated(2, settings=without)] == [1, 2]


def test_validation_goes_on_in_parts_as_in_one_piece() -> None:
    whole = validated(6)[-1].state()
    first = validated(3)[-1].state()
    parts = validated(3, copied(first))
    assert parts[0].step == 4  # no second validation at the start
    state = parts[-1].state()
    assert state.validation == whole.validation and same_tensors(state.best, whole.best)
    assert same_tensors(state.adapter, whole.adapter)


def test_the_best_lora_is_saved_and_training_goes_on_from_the_last() -> None:
    reports = validated(8)
    state = reports[-1].state()
    best = next(one for one in reports if one.step == state.validation.best_step)
    accuracies = [r.metrics["dpo/val_accuracy"] for r in reports if "dpo/val_loss" in r.metrics]
    assert best.metrics["dpo/val_accuracy"] == max(accuracies)
    assert same_tensors(state.weights, best.state().adapter)
    assert same_tensors(state.adapter, end(8).adapter)


def test_before_a_validation_that_follows_a_step_the_latest_is_the_lora() -> None:
    state = validated(1)[-1].state()
    assert state.weights is state.adapter and state.validation.best_step == -1


def test_without_save_best_the_best_of_before_is_not_given() -> None:
    state = validated(4)[-1].state()
    assert state.best
    for validation in (ValidationSettings(every=2), None):
        later = validated(1, state, replace(VALIDATING, validation=validation))[-1].state()
        assert not later.best and later.weights is later.adapter


def test_training_stops_early_and_stays_stopped() -> None:
    settings = replace(
        VALIDATING,
        optimizer=replace(FAST, learning_rate=1e-12),  # nothing moves: equal values stall
        validation=ValidationSettings(every=2, patience=2, patience_mode="both"),
    )
    reports = validated(50, settings=settings)
    last_one = reports[-1]
    assert last_one.stopped and last_one.state().validation.stopped
    assert 4 <= last_one.step < 50
    assert not any(report.stopped for report in reports[:-1])
    assert validated(5, last_one.state(), settings) == []
    patient = replace(settings, validation=ValidationSettings(every=2, patience=9))
    assert len(validated(2, last_one.state(), patient)) == 2


def test_other_held_out_pairs_begin_anew() -> None:
    state = validated(4)[-1].state()
    model = ToyFlow()
    others = toy_pairs(2, seed=9)
    report = last(
        train(model, toy_adapter(model), PAIRS, VALIDATING, 2, state, held_out=others)
    )
    assert report.state().validation.best_step == 6
    assert same_tensors(report.state().weights, report.state().adapter)


def test_the_running_mean_is_what_is_validated() -> None:
    averaging = replace(VALIDATING, optimizer=replace(FAST, ema=0.9))
    plain, averaged = validated(4), validated(4, settings=averaging)
    assert averaged[-1].metrics["dpo/val_loss"] != plain[-1].metrics["dpo/val_loss"]
    assert same_tensors(averaged[-1].state().adapter, plain[-1].state().adapter)


def test_with_other_batches_epochs_begin_anew_and_noise_does_not_come_again() -> None:
    state = end(5)
    larger = replace(SETTINGS, grad_accumulation_steps=4)
    later = end(1, start=state, settings=larger)
    assert later.epochs.first_visit == state.visits and later.visits > state.visits
