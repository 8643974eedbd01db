"""A LoRA to go on from: any dialect the host reads, applied as the host applies it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.packed_layers import packed_patcher
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
    named = set()
    for name, target in comfy.lora.model_lora_keys_unet(patcher.model, {}).items():
        key, part = (target, None) if isinstance(target, str) else (target[0], target[1])
        if not belongs(name) or not key.endswith(".weight") or target in named:
            continue
        named.add(target)
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
    down, up = fused.parts["lora_A.weight"], fused.parts["lora_B.weight"]
    assert up.shape == (3 * 256, 3 * RANK) and down.shape == (3 * RANK, 256)
    # Rows of one slice see only their own columns.
    blocks = up.reshape(3, 256, 3, RANK).abs().sum(dim=(1, 3)) > 0
    assert (blocks.sum(0) == 1).all() and (blocks.sum(1) == 1).all()


@pytest.mark.parametrize("storage", ["fp8_layers", "nvfp4", "w4a4", "packed"])
def test_how_the_model_holds_its_weights_makes_no_difference(storage: str) -> None:
    held = packed_patcher("flux") if storage == "packed" else tiny_patcher("flux", storage=storage)
    plain, lora = tiny_patcher("flux"), lora_in("flux diffusers", tiny_patcher("flux"))
    ours, expected = (read(patcher, lora).weights for patcher in (held, plain))
    assert list(ours) == list(expected)
    for name, weights in ours.items():
        assert weights.alpha == expected[name].alpha
        assert all(torch.equal(t, expected[name].parts[n]) for n, t in weights.parts.items())
    saved = {f"{name}.{part}": t for name, w in ours.items() for part, t in w.parts.items()}
    renamed = pack_module("nodes.host.lora_dialects").renamed
    one, other = (renamed(patcher, saved, "diffusers") for patcher in (held, plain))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


LINEAR = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
OTHER_LINEAR = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
KERNEL = "lora_unet_input_blocks_1_0_in_layers_2"
OTHER_KERNEL = "lora_unet_input_blocks_1_0_out_layers_3"


def random_parts(**shapes: tuple[int, ...]) -> Lora:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def plain(out: int, into: int, *kernel: int) -> Lora:
    ones = [1] * len(kernel)
    parts = random_parts(up=(out, RANK, *ones), down=(RANK, into, *kernel))
    return {f"lora_{name}.weight": tensor for name, tensor in parts.items()}


def with_a_core(out: int, into: int, *kernel: int) -> Lora:
    if not kernel:
        return plain(out, into)
    parts = random_parts(up=(out, RANK, 1, 1), down=(RANK, into, 1, 1), mid=(RANK, RANK, *kernel))
    return {f"lora_{name}.weight": tensor for name, tensor in parts.items()}


def dora(out: int, into: int, *kernel: int) -> Lora:
    lengths = random_parts(x=(1, into, *[1] * len(kernel)))["x"].abs() + 0.5
    return plain(out, into, *kernel) | {"dora_scale": lengths}


def loha(out: int, into: int, *kernel: int) -> Lora:
    a, b = (out, RANK), (RANK, into * prod(kernel))
    return random_parts(hada_w1_a=a, hada_w1_b=b, hada_w2_a=a, hada_w2_b=b)


def loha_with_cores(out: int, into: int, *kernel: int) -> Lora:
    if not kernel:
        return loha(out, into)
    a, b, core = (RANK, out), (RANK, into), (RANK, RANK, *kernel)
    return random_parts(
        hada_w1_a=a, hada_w1_b=b, hada_w2_a=a, hada_w2_b=b, hada_t1=core, hada_t2=core
    )


def lokr(out: int, into: int, *kernel: int) -> Lora:
    return random_parts(lokr_w1=(4, 2), lokr_w2=(out // 4, into // 2, *kernel))


def lokr_in_factors(out: int, into: int, *kernel: int) -> Lora:
    return random_parts(
        lokr_w1_a=(4, 2), lokr_w1_b=(2, 2),
        lokr_w2_a=(out // 4, RANK), lokr_w2_b=(RANK, into // 2 * prod(kernel)),
    )


TYPES: dict[str, dict[str, Any]] = {
    "DoRA and LoHa": {LINEAR: dora, OTHER_LINEAR: loha, KERNEL: dora, OTHER_KERNEL: loha},
    "LoKr": {
        LINEAR: lokr, OTHER_LINEAR: lokr_in_factors, KERNEL: lokr, OTHER_KERNEL: lokr_in_factors
    },
    "with cores": {
        LINEAR: loha, OTHER_LINEAR: plain, KERNEL: with_a_core, OTHER_KERNEL: loha_with_cores
    },
}  # fmt: skip


def lora_of_types(kind: str, patcher: ModelPatcher) -> Lora:
    """One layer of it has no alpha."""
    lora: Lora = {}
    state = patcher.model.state_dict()
    key_map = comfy.lora.model_lora_keys_unet(patcher.model, {})
    for name, parts in TYPES[kind].items():
        shape = state[key_map[name]].shape
        lora |= {f"{name}.{part}": tensor for part, tensor in parts(*shape).items()}
        if name != OTHER_LINEAR:
            lora[f"{name}.alpha"] = torch.tensor(5.0)
    return lora


@pytest.mark.parametrize("kind", TYPES)
def test_a_lora_of_any_type_goes_on_as_what_it_is(kind: str) -> None:
    patcher = tiny_patcher("sd15")
    lora = lora_of_types(kind, patcher)
    with training(host_applied(patcher, lora), filled=False) as run:
        applied = residual(run, "sd15")
    existing = read(patcher, lora).weights
    assert len(existing) == len(TYPES[kind])
    file = pack_module("dpo_core.saving.lora_file")
    with training(patcher, existing=existing, filled=False) as run:
        with run.adapter.off():
            bare = residual(run, "sd15")
        live = residual(run, "sd15")
        assert (live - applied).norm() < 1e-5 * applied.norm()
        assert (applied - bare).norm() > 0.01 * bare.norm()
        for report in steps(run, random_pairs("sd15"), 1):
            assert report.metrics["dpo/reward_margin"] == 0
        with run.adapter.reference():
            assert torch.equal(residual(run, "sd15"), live)
        trained = residual(run, "sd15")
        assert not torch.equal(trained, live)
        saved = file.lora_tensors(run.adapter.parameters(), run.adapter.alphas())
    with training(host_applied(patcher, saved), filled=False) as run:
        assert (residual(run, "sd15") - trained).norm() < 1e-5 * trained.norm()
    again = read(patcher, saved).weights
    assert {name: w.kind for name, w in again.items()} == {n: w.kind for n, w in existing.items()}


def test_kernels_with_a_core_are_continued_although_the_host_leaves_them_out() -> None:
    patcher = tiny_patcher("sd15")
    weight = comfy.lora.model_lora_keys_unet(patcher.model, {})[KERNEL]
    out, into, *kernel = patcher.model.state_dict()[weight].shape
    factors = random_parts(lokr_w1=(4, 2), lokr_w2_a=(RANK, out // 4), lokr_w2_b=(RANK, into // 2),
                           lokr_t2=(RANK, RANK, *kernel))  # fmt: skip
    _, a, b, core = factors.values()
    whole = torch.einsum("ijkl,ip,jr->prkl", core, a, b).contiguous() * (5.0 / RANK)
    lora = {f"{KERNEL}.{name}": tensor for name, tensor in factors.items()}
    meant = {f"{KERNEL}.lokr_w1": factors["lokr_w1"], f"{KERNEL}.lokr_w2": whole}
    with training(host_applied(patcher, meant), filled=False) as run:
        applied = residual(run, "sd15")
    existing = read(patcher, lora | {f"{KERNEL}.alpha": torch.tensor(5.0)}).weights
    with training(patcher, existing=existing, filled=False) as run:
        assert (residual(run, "sd15") - applied).norm() < 1e-5 * applied.norm()


def test_what_cannot_be_refined_is_refused_by_name() -> None:
    patcher, name, (rows, columns) = layer_of("sd3")
    ones = torch.ones
    pair = {"lora_up.weight": ones(rows, 2), "lora_down.weight": ones(2, columns)}
    hada = {f"hada_w{i}_{x}": ones(shape) for i in (1, 2)
            for x, shape in (("a", (rows, 2)), ("b", (2, columns)))}  # fmt: skip
    refused: dict[str, Lora] = {
        "DoRA with a length for every output": pair | {"dora_scale": ones(rows, 1)},
        r"LoHa with lengths \(DoRA\)": hada | {"dora_scale": ones(1, columns)},
        "OFT": {"oft_blocks": ones(rows // 8, 8, 8)},
        "BOFT": {"oft_blocks": ones(2, rows // 8, 8, 8)},
        "GLoRA": {"a1.weight": ones(columns, 2), "a2.weight": ones(2, columns),
                  "b1.weight": ones(rows, 2), "b2.weight": ones(2, columns)},
        "whole differences": {"diff": ones(rows, columns)},
        "replaced weights": {"set_weight": ones(rows, columns)},
        "changes of biases": pair | {"diff_b": ones(rows)},
    }  # fmt: skip
    for what, parts in refused.items():
        with pytest.raises(ValueError, match=f"holds {what} .*before the trainer, without"):
            read(patcher, {f"{name}.{part}": tensor for part, tensor in parts.items()})
    norm = {"diffusion_model.joint_blocks.0.x_block.attn.ln_q.w_norm": ones(64)}
    with pytest.raises(ValueError, match="holds weights of norms .*ln_q"):
        read(patcher, norm)
    larger = {f"{name}.{part}": tensor for part, tensor in pair.items()}
    larger[f"{name}.reshape_weight"] = torch.tensor([rows, 2 * columns])
    with pytest.raises(ValueError, match="makes a layer of the model larger"):
        read(patcher, larger)
    flux = tiny_patcher("flux")
    parts = {"lokr_w1": ones(16, 16), "lokr_w2": ones(16, 16)}
    slice_ = {f"transformer.transformer_blocks.0.attn.to_q.{n}": t for n, t in parts.items()}
    with pytest.raises(ValueError, match="holds lokr for parts of a layer"):
        read(flux, slice_)


def test_what_cannot_be_refined_is_in_the_reference_if_a_loader_applies_it() -> None:
    # By hand: rows turned in blocks of 8 by the Cayley transform of a skew matrix.
    name = layer_of("sd3")[1]
    true = tiny_patcher("sd3", inference=False)
    weight = true.model.get_parameter(f"{name}.weight")
    blocks = random_parts(x=(weight.shape[0] // 8, 8, 8))["x"]
    skew, one = blocks - blocks.transpose(1, 2), torch.eye(8)
    turned = torch.linalg.solve(one - skew, one + skew)
    with torch.no_grad():
        rows = weight.reshape(-1, 8, weight.shape[1])
        weight.copy_(torch.einsum("knm,kno->kmo", turned, rows).reshape(weight.shape))
    with training(true, filled=False) as run:
        expected = residual(run, "sd3")
    oft = host_applied(tiny_patcher("sd3"), {f"{name}.oft_blocks": blocks})
    with training(oft, filled=False) as run:
        for report in steps(run, random_pairs("sd3"), 2):
            assert report.step > 1 or report.metrics["dpo/reward_margin"] == 0
        with run.adapter.reference():
            assert (residual(run, "sd3") - expected).norm() < 1e-5 * expected.norm()
        trained = residual(run, "sd3")
        file = pack_module("dpo_core.saving.lora_file")
        saved = file.lora_tensors(run.adapter.parameters(), run.adapter.alphas())
    with training(host_applied(oft, saved), filled=False) as run:
        both = residual(run, "sd3")
    assert (both - trained).norm() < 1e-5 * trained.norm()
    assert (trained - expected).norm() > 1e-4 * expected.norm()


def test_damaged_and_doubled_files_are_refused_whole() -> None:
    patcher, name, (rows, columns) = layer_of("sd3")
    up, down = torch.ones(rows, 2), torch.ones(2, columns)
    good = {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}
    assert read(patcher, good).weights
    lacking = {f"{name}.lora_B.weight": up}
    with pytest.raises(ValueError, match="incomplete: it lacks .*lora_A.weight"):
        read(patcher, lacking)
    with pytest.raises(ValueError, match="damaged: 1 of its tensors.*lora_B"):
        read(patcher, good | {f"{name}.lora_B.weight": up * torch.nan})
    other = "lora_unet_joint_blocks_0_x_block_attn_proj"
    doubled = good | {f"{other}.lora_up.weight": up, f"{other}.lora_down.weight": down}
    with pytest.raises(ValueError, match=f"one layer twice, as .*{other}"):
        read(patcher, doubled)
    with pytest.raises(ValueError, match="made for a layer of another size"):
        read(patcher, {f"{name}.lora_B.weight": torch.ones(rows), f"{name}.lora_A.weight": down})


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
