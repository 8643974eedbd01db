"""Every type of adapter: what the host loads is what was trained, on any family."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.load_states import load_state, with_upstream_loras
from hostkit.plain_lora import upstream_lora
from hostkit.tiny_models import tiny_patcher
from hostkit.training import (
    Training,
    adapter_gradients,
    compare,
    pack_module,
    random_pairs,
    steps,
    train_settings,
    training,
    training_rows,
)
from torch import Tensor

KINDS = ("lora", "rslora", "dora", "loha", "lokr")
# Convolutions come in on the UNet; Flux has fused layers and blocks that work in place.
CASES = [("sd15", kind, "convolutions") for kind in KINDS]
CASES += [("flux", kind, "all_linear") for kind in ("dora", "loha", "lokr")]
CASES += [("sd3", "dora", "attention"), ("sd3", "rslora", "attention_mlp")]


def residual(run: Training, model: str) -> Tensor:
    with torch.no_grad():
        return run.denoiser.predict(training_rows(model, run.denoiser)).residual


def stir(adapter: Any, size: float = 0.1) -> None:
    """Moves every parameter by a share of its own size, or of one where it is zero."""
    adapter.initialise()
    generator = torch.Generator().manual_seed(1)
    values = adapter.snapshot()
    for value in values.values():
        scale = value.square().mean().sqrt()
        noise = torch.randn(value.shape, generator=generator)
        value += size * noise * scale if scale > 0 else 5 * size * noise
    adapter.load(values)


def saved_lora(run: Training) -> dict[str, Tensor]:
    file = pack_module("dpo_core.saving.lora_file")
    return file.lora_tensors(run.adapter.parameters(), run.adapter.alphas())


def loaded(patcher: ModelPatcher, lora: dict[str, Tensor], strength: float = 1.0) -> ModelPatcher:
    return comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0)[0]


@pytest.mark.parametrize(("model", "kind", "targets"), CASES)
def test_what_the_host_loads_is_what_was_trained(
    model: str, kind: str, targets: str, caplog: pytest.LogCaptureFixture
) -> None:
    patcher = tiny_patcher(model)
    with training(
        patcher, rank=3, alpha=4.0, filled=False, kind=kind, targets=targets
    ) as run:
        with run.adapter.off():
            bare = residual(run, model)
        run.adapter.initialise()
        assert torch.equal(residual(run, model), bare), "a new adapter changes nothing"
        stir(run.adapter)
        live, lora = residual(run, model), saved_lora(run)
        with run.adapter.reference():
            assert torch.equal(residual(run, model), bare)
    with caplog.at_level("WARNING"), training(loaded(patcher, lora), filled=False) as run:
        applied = residual(run, model)
    assert "not loaded" not in caplog.text and "ERROR" not in caplog.text
    assert (live - bare).norm() > 0.05 * bare.norm()
    assert (applied - live).norm() < 1e-5 * live.norm()


def test_dora_on_a_lora_of_the_model_is_what_the_host_loads_after_it() -> None:
    upstream, _ = upstream_lora("sd3", 1)
    patcher = loaded(tiny_patcher("sd3"), upstream)
    with training(patcher, rank=3, filled=False, kind="dora") as run:
        for report in steps(run, random_pairs("sd3"), 1):
            assert report.metrics["prediction_change"] == 0
            assert report.metrics["dpo/reward_margin"] == 0
        stir(run.adapter)
        live, lora = residual(run, "sd3"), saved_lora(run)
    with training(loaded(patcher, lora), filled=False) as run:
        assert (residual(run, "sd3") - live).norm() < 1e-5 * live.norm()


def dora_gradients(state: str, **storage: Any) -> dict[str, Tensor]:
    """Magnitudes among them, of a model with LoRAs upstream where it is not quantised."""
    prepare = (lambda patcher: patcher) if storage else with_upstream_loras("sd3")
    with (
        load_state(state, "sd3", prepare, **storage) as (patcher, between),
        training(patcher, rank=3, filled=False, kind="dora") as run,
    ):
        run.denoiser.load()
        stir(run.adapter)
        found = adapter_gradients(run, training_rows("sd3", run.denoiser), between)
        lengths = {n: p.detach() for n, p in run.adapter.parameters().items() if "dora" in n}
        return found | {f"{name} itself": length for name, length in lengths.items()}


@pytest.mark.parametrize("storage", [{}, {"quantized": True}], ids=["fp32", "quantised"])
def test_dora_meets_the_same_weights_however_the_host_holds_them(storage: dict[str, Any]) -> None:
    plain = dora_gradients("plain", **storage)
    for state in ("offloaded", "half_resident", "evicted", "partial"):
        worst, _ = compare(dora_gradients(state, **storage), plain)
        assert worst < 2e-5, state


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_file_passes_the_check_and_a_changed_one_does_not(
    kind: str, tmp_path: Any
) -> None:
    check = pack_module("nodes.host.lora_check")
    file = pack_module("dpo_core.saving.lora_file")
    patcher = tiny_patcher("sd15")
    shape = {"kind": kind, "targets": "convolutions"}
    with training(patcher, rank=3, alpha=5.0, filled=False, **shape) as run:
        stir(run.adapter)
        lora = saved_lora(run)
    path = tmp_path / "lora.safetensors"
    file.save_lora(path, lora, {})
    assert "all used by ComfyUI's loader" in check.check_saved(path, lora, patcher)
    layer = run.adapter.names[0]
    renamed = {
        name.replace(layer, "diffusion_model.nowhere"): tensor for name, tensor in lora.items()
    }
    file.save_lora(path, renamed, {})
    with pytest.raises(check.LoraCheckError, match="would leave 1 layers"):
        check.check_saved(path, renamed, patcher)


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_gradients_are_those_of_the_error_with_and_without_checkpointing(kind: str) -> None:
    found = {}
    for checkpointing in (False, True):
        with training(
            tiny_patcher("flux"), rank=3, filled=False, checkpointing=checkpointing, kind=kind
        ) as run:
            stir(run.adapter)
            rows = training_rows("flux", run.denoiser)
            found[checkpointing] = adapter_gradients(run, rows)
    worst, _ = compare(found[True], found[False])
    assert worst < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run_learns_and_goes_on_bit_for_bit(kind: str) -> None:
    train = pack_module("dpo_core.run").train
    dropout = 0.25 if kind in ("lora", "rslora", "dora") else 0.0
    settings = train_settings(grad_accumulation_steps=1)
    pairs = random_pairs("sd3", 1)
    shape = {"kind": kind, "dropout": dropout, "filled": False, "rank": 4}
    with training(tiny_patcher("sd3"), **shape) as run:
        reports = []
        for report in train(run.denoiser, run.adapter, pairs, settings, 6):
            reports.append(report.metrics)
            if report.step == 2:
                half = report.state()
        whole = report.state()
    assert reports[0]["dpo/raw_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert reports[-1]["dpo/reward_margin"] > 0
    assert reports[-1]["dpo/raw_loss"] < 0.6
    with training(tiny_patcher("sd3"), **shape) as run:
        *_, last = train(run.denoiser, run.adapter, pairs, settings, 4, half)
        again = last.state()
    assert again.step == whole.step == 6
    assert all(torch.equal(again.adapter[name], whole.adapter[name]) for name in whole.adapter)


TARGETS = ("attention", "attention_mlp", "all_linear", "convolutions")
# Of each kind of layer in the tiny model the choices that take it, from the left of TARGETS.
TAKEN = {
    "sd15": {
        "attn1.to_q": "1111", "attn2.to_out.0": "1111", "ff.net.0.proj": "0111",
        "emb_layers.1": "0011", "in_layers.2": "0001", "time_embed.0": "0000",
        "proj_in": "0000",
    },
    "sd3": {
        "x_block.attn.qkv": "1111", "context_block.attn.qkv": "1111", "x_block.mlp.fc1": "0111",
        "x_block.adaLN_modulation.1": "0011", "final_layer.linear": "0000",
        "t_embedder.mlp.0": "0000",
    },
    "flux": {
        "img_attn.qkv": "1111", "txt_attn.proj": "1111", "img_mlp.0": "0111",
        "img_mod.lin": "0011", "single_blocks.0.linear1": "1111",
        "single_blocks.1.linear2": "1111", "single_blocks.0.modulation.lin": "0011",
        "final_layer.linear": "0000", "img_in": "0000",
    },
}  # fmt: skip


@pytest.mark.parametrize("model", TAKEN)
def test_choices_of_layers_mean_the_same_on_every_family(model: str) -> None:
    adapted = pack_module("nodes.host.injection").adapted_layers
    settings = pack_module("dpo_core.training.adapter").AdapterSettings
    patcher = tiny_patcher(model)
    chosen = [adapted(patcher, settings(targets=targets)) for targets in TARGETS]
    for ending, expected in TAKEN[model].items():
        found = "".join(str(int(any(n.endswith(ending) for n in names))) for names in chosen)
        assert found == expected, ending
    assert all(set(few) <= set(many) for few, many in pairwise(chosen))
    ends = {
        "sd15": "*time_embed*\n*out.2", "sd3": "*x_embed*\n*final*", "flux": "*img_in\n*final*"
    }
    named = adapted(patcher, settings(targets="pattern", pattern=ends[model]))
    assert named and not set(named) & set(chosen[-1]), "a pattern reaches outside of the blocks"
    with pytest.raises(ValueError, match=r"'\*nowhere\*' matches no layer.*diffusion_model"):
        adapted(patcher, settings(targets="pattern", pattern="*\n*nowhere*"))
