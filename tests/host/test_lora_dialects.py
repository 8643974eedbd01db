"""Dialects of LoRA files on every family: read as the host reads them, written so that it can."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.lora_convert
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.families import FAMILIES, family_patcher
from hostkit.lora_files import Lora, change, dialects, host_change, random_lora
from hostkit.training import pack_module
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

DOCUMENT = Path(__file__).parents[2] / "docs" / "loras.md"


# Variants of a family with the same network have the same names.
NETWORKS = {repr((f.host, sorted(f.config.items(), key=str))): kind for kind, f in FAMILIES.items()}
UNETS = ("SD15", "SD20", "SD21UnclipL", "SD21UnclipH", "SDXL", "SDXLRefiner", "SSD1B",
         "Segmind_Vega", "KOALA_700M", "KOALA_1B")  # fmt: skip


@functools.cache
def patcher_of(kind: str) -> ModelPatcher:
    return family_patcher(kind)


@pytest.fixture(scope="module", autouse=True)
def patchers() -> Iterator[None]:
    yield
    patcher_of.cache_clear()


def read(patcher: ModelPatcher, lora: Lora) -> Any:
    return pack_module("nodes.host.lora_keys").read_existing(patcher, lora)


def our_change(patcher: ModelPatcher, lora: Lora) -> dict[str, Tensor]:
    weights = read(patcher, lora).weights
    return {f"{name}.weight": change(w.parts, w.alpha) for name, w in weights.items()}


def trained_lora(patcher: ModelPatcher, targets: str = "all_linear") -> Lora:
    """A LoRA as training gives it: by the host's own names."""
    settings = pack_module("dpo_core.training.adapter").AdapterSettings(targets=targets)
    adapted = set(pack_module("nodes.host.injection").adapted_layers(patcher, settings))
    names = {name: named for name, named in dialects(patcher)["ComfyUI"].items() if name in adapted}
    assert names.keys() == adapted
    ends = {"lora_linear_layer.up": "lora_B", "lora_linear_layer.down": "lora_A"}
    return {
        re.sub("|".join(ends), lambda found: ends[found[0]], name): tensor
        for name, tensor in random_lora("ComfyUI", names).items()
    }


def renamed(patcher: ModelPatcher, lora: Lora, key_names: str) -> Lora:
    found: Lora = pack_module("nodes.host.lora_dialects").renamed(patcher, lora, key_names)
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.any() and torch.allclose(tensor, other[name], rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("kind", NETWORKS.values())
def test_what_is_read_is_what_the_host_applies(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    patcher = patcher_of(kind)
    for dialect, names in dialects(patcher).items():
        fine = {n: named for n, named in names.items() if named.inside and named.trains}
        lora = random_lora(dialect, fine)
        with caplog.at_level(logging.WARNING):
            theirs = host_change(patcher, lora)
        assert caplog.text == "", dialect
        assert_same(our_change(patcher, lora), theirs)
        for name, named in names.items():
            if name not in fine:
                why = "other layers than linear" if named.inside else "a layer of another size"
                with pytest.raises(ValueError, match=why):
                    read(patcher, random_lora(dialect, {name: named}))


@pytest.mark.parametrize("kind", NETWORKS.values())
def test_what_is_written_is_what_the_host_applies_and_is_read_again(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    patcher = patcher_of(kind)
    targets = "convolutions" if FAMILIES[kind].host in UNETS else "all_linear"
    lora = trained_lora(patcher, targets)
    trained = host_change(patcher, lora)
    _, _, written = documented()[kind]
    for key_names in ("kohya", "diffusers"):
        if key_names == "diffusers" and written != "all":
            with pytest.raises(ValueError, match="names? for|no diffusers names: ") as raised:
                renamed(patcher, lora, key_names)
            assert ("ComfyUI knows no" in str(raised.value)) == (written == "none")
            continue
        file = renamed(patcher, lora, key_names)
        assert not file.keys() & lora.keys()
        with caplog.at_level(logging.WARNING):
            assert_same(host_change(patcher, file), trained)
        assert caplog.text == "", key_names
        assert_same(our_change(patcher, file), trained)


# Written out from the other tools' own files: (family, dialect) -> some of the names.
NAMES = {
    ("sd1", "kohya"): [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_up.weight",
        "lora_unet_mid_block_resnets_0_time_emb_proj.alpha",
    ],
    ("sd1", "diffusers"): [
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.lora.down.weight",
    ],
    ("sdxl", "kohya"): ["lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_up.weight"],
    ("sd3_medium", "kohya"): ["lora_unet_joint_blocks_0_context_block_attn_qkv.lora_up.weight"],
    ("sd3_medium", "diffusers"): [
        "transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight",
        "transformer.transformer_blocks.1.norm1_context.linear.lora_B.weight",
    ],
    ("flux_dev", "kohya"): ["lora_unet_single_blocks_0_modulation_lin.lora_down.weight"],
    ("flux_dev", "diffusers"): [
        "transformer.transformer_blocks.0.ff.net.0.proj.lora_B.weight",
        "transformer.single_transformer_blocks.0.attn.to_v.lora_A.weight",
        "transformer.single_transformer_blocks.0.proj_mlp.lora_B.weight",
        "transformer.single_transformer_blocks.0.proj_out.lora_A.weight",
    ],
    ("flux2", "diffusers"): [
        "transformer.transformer_blocks.0.ff_context.linear_in.lora_B.weight",
        "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_B.weight",
        "transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight",
    ],
    ("z_image", "diffusers"): ["transformer.layers.0.attention.to_out.0.lora_B.weight"],
    ("qwen_image", "diffusers"): ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"],
    ("krea2", "diffusers"): ["transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight"],
}


@pytest.mark.parametrize(("kind", "key_names"), NAMES)
def test_names_are_those_of_the_other_tools(kind: str, key_names: str) -> None:
    patcher = patcher_of(kind)
    names = renamed(patcher, trained_lora(patcher), key_names).keys()
    assert [name for name in NAMES[kind, key_names] if name not in names] == []


def test_types_that_diffusers_shares_no_names_for_are_refused() -> None:
    patcher = patcher_of("sd1")
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    parts = {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(16, 16)}
    lokr = {f"{layer}.{name}": tensor for name, tensor in parts.items()}
    with pytest.raises(ValueError, match="names for plain LoRA only.*comfyui or kohya"):
        renamed(patcher, lokr, "diffusers")
    kohya = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert renamed(patcher, lokr, "kohya").keys() == {f"{kohya}.{name}" for name in parts}


@functools.cache
def documented() -> dict[str, tuple[set[str], set[str], str]]:
    """What the document says of each family.

    Whose names are read besides those of all families, whose not for every layer, and for how many
    layers there are names of diffusers'.
    """
    titles = {family.title: kind for kind, family in FAMILIES.items()}
    found = {}
    row = re.compile(r"^\| (.+) \| (.*) \| (all|most|none) +\|$", re.MULTILINE)
    for families, names, written in row.findall(DOCUMENT.read_text(encoding="utf-8")):
        read = set(names.strip().split(", ")) - {""}
        partly = {name.removesuffix("*") for name in read if name.endswith("*")}
        for title in families.strip().split("; "):
            found[titles[title]] = ({name.removesuffix("*") for name in read}, partly, written)
    return found


def test_the_document_lists_the_names_of_every_family() -> None:
    table = documented()
    assert table.keys() == FAMILIES.keys()
    for kind in NETWORKS.values():
        found = dialects(patcher_of(kind))
        assert {"ComfyUI", "kohya"} <= found.keys()
        read = {name.partition(",")[0] for name in found} - {"ComfyUI", "kohya"}
        partly = {
            name for name in read if not all(named.inside for named in found[name].values())
        }
        assert table[kind][:2] == (read, partly), kind



def test_names_that_diffusers_gives_a_unets_attention_today_are_read_too() -> None:
    patcher = patcher_of("sdxl")
    lora = random_lora("diffusers", dialects(patcher)["diffusers"])
    ends = {".processor.to_": ".to_", "to_out_lora": "to_out.0.lora", "_lora.": ".lora.",
            "lora.up": "lora_B", "lora.down": "lora_A"}  # fmt: skip
    today = {}
    for name, tensor in lora.items():
        for old, new in ends.items():
            name = name.replace(old, new)
        today[name.replace("to_out.alpha", "to_out.0.alpha")] = tensor
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight" in today
    assert_same(our_change(patcher, today), host_change(patcher, lora))


def test_uso_loras_are_read_as_the_host_converts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = {"depth": 19, "depth_single_blocks": 38}  # by which the host knows them
    family = FAMILIES["flux_schnell"]
    monkeypatch.setitem(FAMILIES, "deep", replace(family, config={**family.config, **blocks}))
    patcher = family_patcher("deep")
    generator = torch.Generator().manual_seed(0)
    sizes = {"qkv": (192, 64), "proj": (64, 64)}
    lora = {}
    for block, layer in [
        *[("double_blocks.18", f"{part}_lora{i}") for part in sizes for i in (1, 2)],
        ("single_blocks.37", "qkv_lora"), ("single_blocks.0", "qkv_lora"),
    ]:
        rows, columns = sizes[layer.partition("_")[0]]
        name = f"{block}.processor.{layer}"
        lora[f"{name}.up.weight"] = torch.randn(rows, 2, generator=generator)
        lora[f"{name}.down.weight"] = torch.randn(2, columns, generator=generator)
    theirs = host_change(patcher, comfy.lora_convert.convert_lora(dict(lora)))
    assert len(theirs) == 6
    assert_same(our_change(patcher, lora), theirs)
