"""What a training needs is said beforehand, decides how passes are scheduled, and makes room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from hostkit import faults
from hostkit.faults import Heard, at, differences, output, stop, train, trainer_of
from hostkit.load_states import sample
from hostkit.paging import dynamic_paging
from hostkit.tiny_models import tiny_patcher
from hostkit.training import pack_module, random_pairs, steps, trainer_on, training

MODES = ("full_concurrent", "policy_concurrent", "sequential")
STEPS = 4


def memory() -> Any:
    return pack_module("nodes.host.memory")


def record(trainer: Any) -> Any:
    return pack_module("dpo_core.runs.run_record").read_record(trainer.run.path)


@pytest.fixture(scope="module")
def patcher() -> Any:
    return tiny_patcher(faults.KIND)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> Iterator[None]:
    with output(tmp_path / "output"):
        yield


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float, float], None]:
    """Sets what there is: free bytes, the model's, and those of its part that must be there."""

    def is_there(free: float, model: float = 0.0, least: float = 0.0) -> None:
        found = memory().Room(free, model, least)
        monkeypatch.setattr(memory(), "room_of", lambda _: found)

    return is_there


def needs(trainer: Any) -> dict[str, float]:
    """Bytes in every mode, margin included."""
    in_mode, need_of = memory().in_mode, memory().need_of
    return {mode: memory().MARGIN * need_of(in_mode(trainer, mode)).total for mode in MODES}


def test_auto_takes_the_fastest_mode_that_fits_beside_the_model(patcher: Any, room: Any) -> None:
    trainer, model = trainer_of(patcher, execution_mode="auto"), 10**9
    bytes_ = needs(trainer)
    assert bytes_["full_concurrent"] > bytes_["policy_concurrent"] > bytes_["sequential"]
    for mode in MODES:
        room(model + bytes_[mode] + 1, model, 0)
        chosen = memory().with_mode(trainer)
        assert chosen.settings.execution_mode == mode and chosen.run.id == trainer.run.id
    # Where part of the model cannot stay in any case, no more of it has to go.
    room(model + bytes_["sequential"] - 1, model, 0)
    assert memory().with_mode(trainer).settings.execution_mode == "sequential"


def test_a_mode_once_chosen_stays_while_it_fits(patcher: Any, room: Any) -> None:
    trainer = trainer_of(patcher, execution_mode="auto")
    room(1e12)
    chosen = memory().with_mode(trainer, "policy_concurrent")
    assert chosen.settings.execution_mode == "policy_concurrent"
    room(needs(trainer)["policy_concurrent"] - 1)
    chosen = memory().with_mode(trainer, "policy_concurrent")
    assert chosen.settings.execution_mode == "sequential"
    asked = trainer_of(patcher, execution_mode="policy_concurrent")
    assert memory().with_mode(asked, "sequential") is asked


def test_a_model_whose_steps_cannot_be_counted_is_trained_in_the_least_memory(room: Any) -> None:
    pairs = random_pairs("hidream", 1)
    trainer = trainer_on(tiny_patcher("hidream"), pairs, True, 4, execution_mode="auto")
    room(1e12)
    chosen = memory().with_mode(trainer)
    need = memory().need_of(chosen)
    assert not need.exact and need.activations > 0 and need.lora > 0
    assert chosen.settings.execution_mode == "sequential"
    line, fits = memory().outlook(chosen)
    assert fits and line.startswith("Training needs very roughly ")


def test_the_outlook_says_whether_it_fits_and_what_to_change(patcher: Any, room: Any) -> None:
    trainer = trainer_of(patcher, execution_mode="full_concurrent")
    needed, gigabyte = needs(trainer)["full_concurrent"], 2.0**30
    size = memory().size_text(needed / memory().MARGIN)
    begin = f"Training needs about {size} beside the model (execution_mode full_concurrent). "
    room(gigabyte + needed, gigabyte, gigabyte / 4)
    line, fits = memory().outlook(trainer)
    assert fits and line == f"{begin}1.0 GB are free in the computer: it fits."
    room(gigabyte, gigabyte, gigabyte / 4)
    line, fits = memory().outlook(trainer)
    assert fits and line.endswith(": it fits with part of the model kept off the card, which is "
                                  "slower.")  # fmt: skip
    room(gigabyte / 4, gigabyte, gigabyte / 4)
    line, fits = memory().outlook(trainer)
    assert not fits and ": it does not fit. To need less: " in line
    for way in ("switch gradient_checkpointing on", "set execution_mode to sequential",
                "encode the pairs with half the megapixels", "use the optimizer adafactor"):
        assert f"{way} (about " in line


def test_each_way_saves_what_it_says(patcher: Any) -> None:
    trainer = trainer_of(patcher, execution_mode="full_concurrent", batch_size=2)
    ways = dict(memory()._ways(trainer))
    before = memory().need_of(trainer)
    after = memory().need_of(memory().in_mode(trainer, "sequential"))
    assert ways["set execution_mode to sequential"] == before.activations - after.activations
    assert 0.4 < ways["set execution_mode to sequential"] / before.activations < 0.6
    batch = ways["set batch_size to 1 and raise grad_accumulation_steps instead"]
    assert 0.4 < batch / before.activations < 0.6
    # Parameters, gradient, two moments and a mean: two of five.
    assert ways["use the optimizer adafactor"] == pytest.approx(0.4 * before.lora)
    assert ways["set rank to 1"] == pytest.approx(0.5 * before.lora)


def test_a_run_under_auto_goes_on_exactly_and_says_how_it_is_trained(
    patcher: Any, tmp_path: Path, room: Any
) -> None:
    room(1e12)
    begun = train(trainer_of(patcher, execution_mode="auto"), 2, first := Heard(2))
    assert "(execution_mode full_concurrent, chosen by auto)" in first.lines[0]
    assert begun.trainer.settings.execution_mode == "auto"
    assert record(begun.trainer).execution_mode == "full_concurrent"
    ended = train(begun.trainer, STEPS - 2)
    with output(tmp_path / "whole"):
        whole = train(trainer_of(patcher, execution_mode="auto"), STEPS)
    assert differences(ended, whole) == []


def test_less_room_than_before_changes_the_mode_and_not_the_run(patcher: Any, room: Any) -> None:
    trainer = trainer_of(patcher, execution_mode="auto")
    room(1e12)
    begun = train(trainer, 2)
    room(needs(trainer)["sequential"] + 1)
    ended = train(begun.trainer, 1, heard := Heard(1))
    assert "(execution_mode sequential, chosen by auto)" in heard.lines[0]
    assert ended.trainer.run.id == begun.trainer.run.id and ended.trainer.step == 3
    room(1e12)  # the others have gone, and it stays as it was
    train(ended.trainer, 1, heard := Heard(1))
    assert "(execution_mode sequential, chosen by auto)" in heard.lines[0]


def test_auto_steps_down_unasked_when_memory_runs_out_and_remembers(
    patcher: Any, room: Any
) -> None:
    def run_out() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    room(1e12)
    trainer = trainer_of(patcher, checkpointing=False, execution_mode="auto")
    with at("backward", 2, run_out):
        result = train(trainer, 2)
    line = "memory ran out: going on after step 1 with execution_mode policy_concurrent"
    assert result.said == (line,)
    assert result.trainer.settings.execution_mode == "auto"
    assert record(trainer).auto_mode == "policy_concurrent"
    train(result.trainer, 1, heard := Heard(1))
    assert "(execution_mode policy_concurrent, chosen by auto)" in heard.lines[0]
    # Checkpointing was asked for as it is.
    with at("backward", 1, run_out, last=99), pytest.raises(RuntimeError) as raised:
        train(trainer_of(patcher, execution_mode="auto", seed=1), 1)
    assert "switch gradient_checkpointing on" in str(raised.value)


def test_a_training_that_will_not_fit_is_warned_of_and_tried(patcher: Any, room: Any) -> None:
    room(1.0)
    result = train(trainer_of(patcher), 1, heard := Heard(1))
    assert result.trainer.step == 1
    assert "does not fit" in heard.toasts[0] and heard.toasts[0].endswith("tried all the same.")


def test_stop_is_obeyed_while_memory_is_worked_out(
    patcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = pack_module("nodes.host.step_memory")
    real = counting._peak

    def stopped(*args: Any) -> int:
        stop()
        return int(real(*args))

    monkeypatch.setattr(counting, "_peak", stopped)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(trainer_of(patcher, shared_noise=False), 1, heard := Heard(1))
    assert heard.lines[-1] == "Stopped before another step was done."
    assert not comfy.model_management.in_training


# Other models on the card


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the card has left, which the simulated one does not count."""
    left = {"bytes": 1e12}

    def get_free_memory(_: Any = None, torch_free_too: bool = False) -> Any:
        return (left["bytes"], 0.0) if torch_free_too else left["bytes"]

    monkeypatch.setattr(comfy.model_management, "get_free_memory", get_free_memory)
    return left


@pytest.mark.parametrize("crowded", [True, False])
def test_other_models_go_before_training_only_where_room_is_needed(
    crowded: bool, free: dict[str, float]
) -> None:
    with dynamic_paging(resident=1.0) as paging:
        ours, others = paging.load("sd3"), paging.load("flux")
        for patcher, kind in ((ours, "sd3"), (others, "flux")):
            sample(patcher, kind)
        before = ours.loaded_size()
        assert before > 0 and others.loaded_size() > 0
        free["bytes"] = 1e6 if crowded else 1e12
        with training(ours) as run:
            run.denoiser.load()
            assert (others.loaded_size() == 0) is crowded
            assert ours.loaded_size() >= before > 0
        assert torch.isfinite(sample(others, "flux")).all()


# Prompts and pairs


def test_a_prompt_is_held_once_however_many_pairs_share_it() -> None:
    dataset, validation = (
        pack_module(f"dpo_core.{name}") for name in ("training.dataset", "evaluation.validation")
    )
    prompt = random_pairs("sd3", 1).pairs[0].conditioning
    pairs = tuple(
        dataset.replace(pair, conditioning=prompt, prompt="one", group=str(i))
        for i, pair in enumerate(random_pairs("sd3", 8).pairs)
    )
    objectives = pack_module("dpo_core.training.objectives")
    kept, held_out = validation.split(
        dataset.EncodedPairs(pairs), validation.ValidationSettings(25), objectives.Objective()
    )
    shaped = [
        pack_module("nodes.host.encoding").model_shaped(
            part, tiny_patcher("sd3").get_model_object("latent_format"), "SD3"
        )
        for part in (kept, held_out)
    ]
    records = [record for part in shaped for record in part.records]
    assert len(records) == 8 and all(record.conditioning is prompt for record in records)
    with training(tiny_patcher("sd3")) as run:
        batches = dataset.buckets(records, run.denoiser)
        assert batches == [list(range(8))]
        (held,) = run.denoiser._conditioning._ready.values()
        context = held[1]["c_crossattn"].cond
        assert context.data_ptr() == prompt[0].data_ptr(), "a second copy of it"
        before = prompt[0].clone()
        run.denoiser.predict(rows_of(records[:2], run.denoiser)).residual.sum().backward()
        assert torch.equal(prompt[0], before)


def rows_of(records: Any, denoiser: Any) -> Any:
    batch, noise = pack_module("dpo_core.training.batch"), pack_module("dpo_core.training.noise")
    plan = pack_module("dpo_core.training.plan").MicroBatch((0, 1), 0)
    return batch.gather(records, plan, denoiser, noise.NoiseSettings(), 0, True).images[0]


def test_no_second_copy_of_the_lora_is_made_where_it_is_trained(patcher: Any) -> None:
    """Snapshots are taken for the disk; between two steps only the LoRA and its moments live."""
    live = pack_module("dpo_core.training.live_bytes").LiveBytes
    with training(patcher, rank=64, filled=False) as run:
        run.denoiser.load()
        parameters = sum(parameter.nbytes for parameter in run.adapter.parameters().values())
        with live() as memory:
            for report in steps(run, random_pairs("sd3", 2), 3):
                state = report.state()
                assert len(state.adapter) == len(run.adapter.parameters())
                del state
                held = memory.live / parameters
                assert 2 <= held < 2.2, "two moments"
