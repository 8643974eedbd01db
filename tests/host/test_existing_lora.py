"""A LoRA to go on from: any dialect the host reads, applied as the host applies it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.loha import LoHaAdapter
from hostkit.tiny_models import tiny_patcher
from hostkit.training import Training, pack_module, random_pairs, steps, training, training_rows
from torch import Tensor

Lora = dict[str, Tensor]
RANK = 3

# How a trainer names layers, and the endings of its matrices (up, down).
DIALECTS: dict[str, tuple[str, Callable[[str], bool], tuple[str, str]]] = {
    "sd15 native": ("sd15", lambda n: n.startswith("diffusion_model."), ("lora_B", "lora_A")),
    "sd15 kohya": ("sd15", lambda n: "lora_unet_input" in n, ("lora_up", "lora_down")),
    "sd15 kohya diffusers": (
        "sd15", lambda n: "lora_unet_down" in n or "lora_unet_up" in n, ("lora_up", "lora_down"),
    ),
    "sd15 diffusers": (
        "sd15", lambda n: n.startswith("unet.") and ".processor." in n, ("_lora.up", "_lora.down"),
    ),
    "sd3 native": ("sd3", lambda n: n.startswith("diffusion_model."), ("lora_B", "lora_A")),
    "sd3 diffusers": ("sd3", lambda n: n.startswith("transformer."), ("lora_B", "lora_A")),
    "sd3 onetrainer": (
        "sd3", lambda n: n.startswith("lora_transformer_"), ("lora_up", "lora_down"),
    ),
    "flux kohya": ("flux", lambda n: n.startswith("lora_unet_"), ("lora_up", "lora_down")),
    "flux diffusers": ("flux", lambda n: n.startswith("transformer."), ("lora_B", "lora_A")),
    "flux qkv alone": (
        "flux", lambda n: n.startswith("transformer.") and ".to_" in n and "out" not in n,
        ("lora_B", "lora_A"),
    ),
}


def lora_in(dialect: str, patcher: ModelPatcher, alpha: float | None = 5.0) -> Lora:
    """Random weights for every matrix and kernel that the dialect can name in this model."""
    _, belongs, (up_end, down_end) = DIALECTS[dialect]
    state = patcher.model.state_dict()
    generator = torch.Generator().manual_seed(0)
    lora: Lora = {}
    for name, target in comfy.lora.model_lora_keys_unet(patcher.model, {}).items():
        key, part = (target, None) if isinstance(target, str) else (target[0], target[1])
        if not belongs(name) or not key.endswith(".weight"):
            continue
        if key not in state or state[key].ndim < 2:  # the host's tables name more than there is
            continue
        rows = state[key].shape[0] if part is None else part[2]
        columns = tuple(state[key].shape[1:])
        up = 0.3 * torch.randn(rows, RANK, generator=generator)
        down = 0.3 * torch.randn(RANK, *columns, generator=generator) / columns[0] ** 0.5
        separator = "" if up_end.startswith("_") else "."
        ones = [1] * (len(columns) - 1)
        lora[f"{name}{separator}{up_end}.weight"] = up.reshape(rows, RANK, *ones)
        lora[f"{name}{separator}{down_end}.weight"] = down
        if alpha is not None:
            lora[f"{name}.alpha"] = torch.tensor(alpha)
    return lora


def host_applied(patcher: ModelPatcher, lora: Lora) -> ModelPatcher:
    return comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0)[0]


def read(patcher: ModelPatcher, lora: Lora) -> Any:
    return pack_module("nodes.host.lora_keys").read_existing(patcher, lora)


def refuse_if_upstream(patcher: ModelPatcher, weights: Any) -> None:
    pack_module("nodes.host.lora_keys").refuse_if_upstream(patcher, weights)


def residual(run: Training, kind: str) -> Tensor:
    with torch.no_grad():
        return run.denoiser.predict(training_rows(kind, run.denoiser)).residual


@pytest.mark.parametrize("alpha", [5.0, None], ids=["alpha", "no alpha"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_live_adapter_is_what_the_hosts_loader_applies(
    dialect: str, alpha: float | None
) -> None:
    kind = DIALECTS[dialect][0]
    patcher = tiny_patcher(kind)
    lora = lora_in(dialect, patcher, alpha)
    assert len(lora) >= 6
    with training(host_applied(patcher, lora), filled=False) as run:
        applied = residual(run, kind)
    existing = read(patcher, lora)
    with training(patcher, existing=existing.weights, filled=False) as run:
        live = residual(run, kind)
        with run.adapter.off():
            bare = residual(run, kind)
    assert (live - applied).norm() < 1e-5 * applied.norm()
    assert (applied - bare).norm() > 0.05 * bare.norm()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_saved_again_is_what_was_read(dialect: str) -> None:
    kind = DIALECTS[dialect][0]
    patcher = tiny_patcher(kind)
    existing = read(patcher, lora_in(dialect, patcher))
    file = pack_module("dpo_core.saving.lora_file")
    with training(patcher, existing=existing.weights, filled=False) as run:
        live = residual(run, kind)
        saved = file.lora_tensors(run.adapter.parameters(), run.adapter.alphas())
    with training(host_applied(patcher, saved), filled=False) as run:
        assert (residual(run, kind) - live).norm() < 1e-5 * live.norm()


def test_slices_of_a_fused_layer_become_one_pair_of_their_summed_rank() -> None:
    patcher = tiny_patcher("flux")
    weights = read(patcher, lora_in("flux qkv alone", patcher)).weights
    fused = weights["diffusion_model.double_blocks.0.img_attn.qkv"]
    assert fused.rank == 3 * RANK and fused.alpha == 3 * RANK
    assert fused.up.shape == (3 * 256, 3 * RANK) and fused.down.shape == (3 * RANK, 256)
    # Rows of one slice see only their own columns.
    blocks = fused.up.reshape(3, 256, 3, RANK).abs().sum(dim=(1, 3)) > 0
    assert (blocks.sum(0) == 1).all() and (blocks.sum(1) == 1).all()


def test_weights_for_text_encoders_are_carried_as_they_are() -> None:
    patcher = tiny_patcher("sd15")
    lora = lora_in("sd15 kohya", patcher)
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    text = {
        f"{name}.lora_up.weight": torch.randn(768, 2).half(),
        f"{name}.lora_down.weight": torch.randn(2, 768).half(),
        f"{name}.alpha": torch.tensor(2.0),
    }
    existing = read(patcher, lora | text)
    assert existing.carried.keys() == text.keys()
    assert all(torch.equal(existing.carried[k], text[k]) for k in text)
    assert existing.weights.keys() == read(patcher, lora).weights.keys()


def test_a_lora_for_another_model_is_refused() -> None:
    flux, sd15 = tiny_patcher("flux"), tiny_patcher("sd15")
    with pytest.raises(ValueError, match="does not fit this model: none of its weights"):
        read(sd15, lora_in("flux kohya", flux))
    some = lora_in("sd15 kohya", sd15)
    foreign = {"lora_unet_elsewhere.lora_up.weight": torch.ones(4, 2),
               "lora_unet_elsewhere.lora_down.weight": torch.ones(2, 4)}
    with pytest.raises(ValueError, match="2 of its weights belong to no layer.*elsewhere"):
        read(sd15, some | foreign)


@pytest.mark.parametrize(
    ("dialect", "ending", "shape"),
    [
        ("sd3 native", "mlp.fc1.lora_A.weight", (RANK, 96)),
        ("flux qkv alone", "to_k.lora_A.weight", (RANK, 96)),
        ("flux qkv alone", "to_k.lora_B.weight", (128, RANK)),
        ("flux diffusers", "norm_out.linear.lora_B.weight", (128, RANK)),
    ],
)
def test_a_lora_for_layers_of_another_size_is_refused(
    dialect: str, ending: str, shape: tuple[int, int]
) -> None:
    patcher = tiny_patcher(DIALECTS[dialect][0])
    lora = lora_in(dialect, patcher)
    name = next(name for name in lora if name.endswith(ending))
    lora[name] = torch.randn(shape)
    with pytest.raises(ValueError, match="made for a layer of another size"):
        read(patcher, lora)


def test_a_lora_for_layers_that_only_larger_models_have_is_refused() -> None:
    patcher = tiny_patcher("sd3")  # its last block has no MLP for the prompt
    lora = lora_in("sd3 diffusers", patcher)
    name = "transformer.transformer_blocks.1.ff_context.net.2"
    lora |= {f"{name}.lora_B.weight": torch.ones(128, 2),
             f"{name}.lora_A.weight": torch.ones(2, 512)}
    with pytest.raises(ValueError, match="belong to no layer of it, such as .*ff_context"):
        read(patcher, lora)


def test_a_slice_beyond_its_layer_is_refused() -> None:
    # Lumina 2 has fewer keys than queries; the host takes q, k and v for thirds of one matrix.
    name = "layers.0.attention.to_v"
    lora = {f"{name}.lora_B.weight": torch.ones(64, 2), f"{name}.lora_A.weight": torch.ones(2, 64)}
    with pytest.raises(ValueError, match="at .*attention.qkv it is made for a layer of another"):
        read(tiny_patcher("lumina2"), lora)


def layer_of(kind: str) -> tuple[ModelPatcher, str, torch.Size]:
    patcher = tiny_patcher(kind)
    name = {
        "sd15": "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q",
        "sd3": "diffusion_model.joint_blocks.0.x_block.attn.proj",
    }[kind]
    return patcher, name, patcher.model.state_dict()[f"{name}.weight"].shape


def test_kinds_other_than_plain_lora_are_refused_by_name() -> None:
    patcher, name, (rows, columns) = layer_of("sd3")
    ones = torch.ones
    loha = {f"{name}.hada_w1_a": ones(rows, 2), f"{name}.hada_w1_b": ones(2, columns),
            f"{name}.hada_w2_a": ones(rows, 2), f"{name}.hada_w2_b": ones(2, columns)}
    lokr = {f"{name}.lokr_w1": ones(2, 2), f"{name}.lokr_w2": ones(rows // 2, columns // 2)}
    dora = {f"{name}.lora_up.weight": ones(rows, 2), f"{name}.lora_down.weight": ones(2, columns),
            f"{name}.dora_scale": ones(rows, 1)}
    difference = {f"{name}.diff": ones(rows, columns)}
    bias = {f"{name}.lora_up.weight": ones(rows, 2), f"{name}.lora_down.weight": ones(2, columns),
            f"{name}.diff_b": ones(rows)}
    assert LoHaAdapter.name == "loha"
    for lora, message in [
        (loha, "'loha'.*only plain LoRA can be continued"),
        (lokr, "'lokr'.*only plain LoRA can be continued"),
        (dora, "uses DoRA"),
        (difference, "'diff'.*only plain LoRA can be continued"),
        (bias, "not a layer's weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(patcher, lora)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_lora_upstream_is_refused(dialect: str) -> None:
    patcher = tiny_patcher(DIALECTS[dialect][0])
    lora = lora_in(dialect, patcher)
    weights = read(patcher, lora).weights
    refuse_if_upstream(patcher, weights)
    upstream = comfy.sd.load_lora_for_models(patcher, None, lora, 0.6, 0)[0]
    with pytest.raises(ValueError, match="already applied to the model"):
        refuse_if_upstream(upstream, weights)
    other = {k: v if k.endswith("alpha") else v + 0.01 for k, v in lora.items()}
    refuse_if_upstream(host_applied(patcher, other), weights)


def test_the_reference_is_the_lora_as_it_was() -> None:
    patcher = tiny_patcher("sd3")
    existing = read(patcher, lora_in("sd3 diffusers", patcher)).weights
    with training(patcher, existing=existing, filled=False) as run:
        start = residual(run, "sd3")
        for report in steps(run, random_pairs("sd3"), 2):
            if report.step == 1:
                assert report.metrics["dpo/reward_margin"] == 0
        assert not torch.equal(residual(run, "sd3"), start)
        with run.adapter.reference():
            assert torch.equal(residual(run, "sd3"), start)


def test_the_live_weights_are_back_after_an_exception_under_the_reference() -> None:
    patcher = tiny_patcher("sd3")
    existing = read(patcher, lora_in("sd3 native", patcher)).weights
    with training(patcher, existing=existing, filled=False) as run:
        for _ in steps(run, random_pairs("sd3"), 1):
            pass
        parameters = run.adapter.parameters()
        places = {name: p.data_ptr() for name, p in parameters.items()}
        live, frozen = run.adapter.snapshot(), run.adapter.frozen_reference()
        with pytest.raises(KeyboardInterrupt), run.adapter.reference():
            assert all(p.data_ptr() != places[name] for name, p in parameters.items())
            raise KeyboardInterrupt
        assert {name: p.data_ptr() for name, p in parameters.items()} == places
        assert all(torch.equal(live[n], t) for n, t in run.adapter.snapshot().items())
        assert all(torch.equal(frozen[n], t) for n, t in run.adapter.frozen_reference().items())
        assert any(not torch.equal(live[n], frozen[n]) for n in live)


def test_rank_and_alpha_come_from_the_lora() -> None:
    patcher = tiny_patcher("sd15")
    existing = read(patcher, lora_in("sd15 native", patcher)).weights
    with training(patcher, rank=7, alpha=1.0, existing=existing, filled=False) as run:
        assert set(run.adapter.alphas().values()) == {5.0}
        assert {p.shape[0] for n, p in run.adapter.parameters().items() if "lora_A" in n} == {RANK}
        assert any(p.ndim == 4 for p in run.adapter.parameters().values())
