from __future__ import annotations

import pytest

from dpo_core.training.adapter import AdapterSettings
from dpo_core.training.targets import (
    TARGETS,
    ModelLayers,
    chosen_layers,
    pattern_problems,
    pattern_rank,
)

# Names from the blocks of image models: attention, MLP, and what time and prompt steer.
FAMILIES = {
    "Qwen Image": (
        ["transformer_blocks.7.attn.to_q", "transformer_blocks.7.attn.add_k_proj",
         "transformer_blocks.7.attn.to_out.0"],
        ["transformer_blocks.7.img_mlp.net.0.proj", "transformer_blocks.7.txt_mlp.net.2"],
        ["transformer_blocks.7.img_mod.1", "transformer_blocks.7.txt_mod.1"],
    ),
    "Lumina 2, Z-Image": (
        ["layers.3.attention.qkv", "layers.3.attention.out", "noise_refiner.0.attention.qkv"],
        ["layers.3.feed_forward.w1", "layers.3.feed_forward.w2"],
        ["layers.3.adaLN_modulation.0"],
    ),
    "HiDream": (
        ["double_stream_blocks.1.block.attn1.to_q_t"],
        ["double_stream_blocks.1.block.ff_i.experts.0.w1"],
        ["double_stream_blocks.1.block.adaLN_modulation.1"],
    ),
    "AuraFlow": (
        ["double_layers.0.attn.w1q", "single_layers.4.attn.w1o"],
        ["double_layers.0.mlpC.c_fc1", "single_layers.4.mlp.c_proj"],
        ["double_layers.0.modC.1", "single_layers.4.modCX.1"],
    ),
    "Cosmos Predict 2, Anima": (
        ["blocks.2.self_attn.q_proj", "blocks.2.cross_attn.output_proj"],
        ["blocks.2.mlp.layer1"],
        ["blocks.2.adaln_modulation_self_attn.1", "blocks.2.adaln_modulation_mlp.1"],
    ),
    "OmniGen 2": (
        ["layers.0.attn.to_q"], ["layers.0.feed_forward.linear_1"], ["layers.0.norm1.linear"],
    ),
    "Kandinsky 5": (
        ["visual_transformer_blocks.0.self_attention.to_query"],
        ["visual_transformer_blocks.0.feed_forward.in_layer"],
        ["visual_transformer_blocks.0.visual_modulation.out_layer"],
    ),
    "SDXL": (
        ["input_blocks.4.1.transformer_blocks.0.attn2.to_k"],
        ["input_blocks.4.1.transformer_blocks.0.ff.net.0.proj"],
        ["input_blocks.4.0.emb_layers.1"],
    ),
    "Flux, Chroma": (
        ["double_blocks.0.img_attn.qkv", "single_blocks.37.linear1", "single_blocks.37.linear2"],
        ["double_blocks.0.txt_mlp.2"],
        ["double_blocks.0.txt_mod.lin", "single_blocks.37.modulation.lin",
         "distilled_guidance_layer.layers.0.in_layer"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_names_say_what_a_layer_does(family: str) -> None:
    attention, mlp, modulation = (
        [f"diffusion_model.{name}" for name in names] for names in FAMILIES[family]
    )
    layers = ModelLayers([*modulation, *attention, *mlp], ["conv.a"], ["diffusion_model.last"])
    assert chosen_layers("attention", "", layers) == attention
    assert chosen_layers("attention_mlp", "", layers) == [*attention, *mlp]
    assert chosen_layers("all_linear", "", layers) == [*modulation, *attention, *mlp]
    assert chosen_layers("convolutions", "", layers) == [*modulation, *attention, *mlp, "conv.a"]


LAYERS = ModelLayers(["a.0.attn.q", "a.1.attn.q", "a.0.mlp"], ["a.0.conv"], ["first", "last"])


def test_a_pattern_names_layers_wherever_they_are() -> None:
    assert chosen_layers("pattern", "*.attn.*", LAYERS) == ["a.0.attn.q", "a.1.attn.q"]
    assert chosen_layers("pattern", " last \n\n*conv = 3\n", LAYERS) == ["a.0.conv", "last"]
    assert chosen_layers("pattern", "a.[1-9].*", LAYERS) == ["a.1.attn.q"]


def test_the_last_line_with_a_rank_gives_it() -> None:
    pattern = "*attn* = 32\n*.1.* = 4\n*attn*"
    assert [pattern_rank(pattern, name, 16) for name in LAYERS.linear] == [32, 4, 16]
    settings = AdapterSettings(rank=8, pattern=pattern)
    assert [settings.rank_at(name) for name in LAYERS.linear] == [32, 4, 8]


def test_a_line_that_matches_nothing_is_refused_with_names_to_choose_from() -> None:
    shown = r"'\*atn\*' matches no layer\. .* a\.0\.attn\.q, a\.0\.mlp"
    with pytest.raises(ValueError, match=shown):
        chosen_layers("pattern", "*mlp\n*atn*", LAYERS)
    with pytest.raises(ValueError, match=r"'\*mlp = 4' matches no layer among attention"):
        chosen_layers("attention", "*mlp = 4", LAYERS)


def test_one_name_stands_for_all_blocks_in_an_error() -> None:
    many = ModelLayers([f"blocks.{i}.{kind}" for i in range(50) for kind in ("q", "k")])
    with pytest.raises(ValueError, match=r"like blocks\.0\.q, blocks\.0\.k\.$"):
        chosen_layers("pattern", "nothing", many)


def test_a_model_whose_names_do_not_tell_is_refused_and_not_left_untrained() -> None:
    shown = r"no layers that say attention.*all_linear.*pattern.*x\.0"
    with pytest.raises(ValueError, match=shown):
        chosen_layers("attention", "", ModelLayers(["x.0", "x.1"]))
    with pytest.raises(ValueError, match="no layers"):
        chosen_layers("all_linear", "", ModelLayers([]))


def test_bad_patterns_are_named_line_by_line() -> None:
    assert [pattern_problems(targets, "") for targets in TARGETS[:-1]] == [[]] * 4
    assert pattern_problems("pattern", "*attn*\n*mlp* = 8") == []
    assert pattern_problems("attention", "*attn* = 8") == []
    (empty,) = pattern_problems("pattern", " \n")
    assert "pattern is empty" in empty
    (unknown,) = pattern_problems("everything", "")
    assert "'everything'" in unknown and "all_linear" in unknown
    found = pattern_problems("pattern", "a = 0\nb = 2000\nc = x\n= 3\nd =\nfine = 7")
    assert [next(n for n in ("'a'", "'b'", "'c'", "no name", "'d'") if n in line) for line in found]
    assert len(found) == 5
    (idle,) = pattern_problems("all_linear", "*mlp*")
    assert "'*mlp*' does nothing while targets is all_linear" in idle
