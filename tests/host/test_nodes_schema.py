"""The nodes as the front end sees them: other people's workflows use these names."""

from __future__ import annotations

from typing import Any

import pytest
from hostkit.server import ComfyServer

REQUIRED = object()
"""Stands for the default of an input that has none: a socket."""

INPUTS: dict[str, dict[str, tuple[str, Any]]] = {
    "DPOLoadPairFolder": {
        "folder": ("STRING", ""),
        "chosen_pattern": ("STRING", "chosen/{}"),
        "rejected_pattern": ("STRING", "rejected/{}"),
        "on_problem": ("COMBO", "error"),
    },
    "DPOPairsFromImages": {
        "chosen": ("IMAGE", REQUIRED),
        "rejected": ("IMAGE", REQUIRED),
        "prompt": ("STRING", ""),
    },
    "DPOJoinPairs": {"pairs_a": ("DPO_PAIRS", REQUIRED), "pairs_b": ("DPO_PAIRS", REQUIRED)},
    "DPOLoadLabelledFolder": {
        "liked": ("STRING", ""),
        "disliked": ("STRING", ""),
        "on_problem": ("COMBO", "error"),
    },
    "DPOImportPreferences": {
        "folder": ("STRING", ""),
        "layout": ("COMBO", "auto"),
        "limit": ("INT", 0),
        "on_problem": ("COMBO", "error"),
    },
    "DPORankImages": {
        "images": ("IMAGE", REQUIRED),
        "session": ("STRING", "default"),
        "mode": ("COMBO", "best_worst"),
        "use": ("COMBO", "session"),
        "pairs_per_group": ("INT", 1),
        "wait": ("BOOLEAN", False),
        "ranking": ("DPO_RANKING", None),
        "prompt": ("STRING", None),
        "latents": ("LATENT", None),
    },
    "DPOBlindCompare": {
        "images_a": ("IMAGE", REQUIRED),
        "images_b": ("IMAGE", REQUIRED),
        "prompts": ("STRING", ""),
        "session": ("STRING", "blind"),
        "ranking": ("DPO_RANKING", None),
    },
    "DPOLoadPreferences": {"session": ("COMBO", REQUIRED)},
    "DPOJudge": {
        "kind": ("COMBO", "sharpness"),
        "weight": ("FLOAT", 1.0),
        "also": ("DPO_JUDGE", None),
    },
    "DPOJudgeImages": {
        "images": ("IMAGE", REQUIRED),
        "judge": ("DPO_JUDGE", REQUIRED),
        "session": ("STRING", "default"),
        "use": ("COMBO", "session"),
        "pairs_per_group": ("INT", 1),
        "min_gap": ("FLOAT", 0.0),
        "prompt": ("STRING", None),
        "latents": ("LATENT", None),
    },
    "DPOExportPairFolder": {
        "pairs": ("DPO_PAIRS", REQUIRED),
        "folder": ("STRING", "dpo/export"),
    },
    "DPOEncodePairs": {
        "pairs": ("DPO_PAIRS", REQUIRED),
        "vae": ("VAE", REQUIRED),
        "clip": ("CLIP", REQUIRED),
        "megapixels": ("FLOAT", 0.0),
        "guidance": ("FLOAT", 3.5),
    },
    "DPODatasetFromLatents": {
        "chosen": ("LATENT", REQUIRED),
        "rejected": ("LATENT", REQUIRED),
        "positive": ("CONDITIONING", REQUIRED),
    },
    "DPOObjective": {
        "preset": ("COMBO", "custom"),
        "loss": ("COMBO", "sigmoid"),
        "beta": ("FLOAT", 5000.0),
        "beta_per_epoch": ("STRING", ""),
        "label_smoothing": ("FLOAT", 0.0),
        "supervised_mix": ("FLOAT", 0.0),
        "safeguard": ("FLOAT", 0.0),
        "simpo_beta": ("FLOAT", 250.0),
        "simpo_gamma": ("FLOAT", 0.5),
        "cpo_alpha": ("FLOAT", 1.0),
        "mapo_lambda": ("FLOAT", 0.1),
        "exo_epsilon": ("FLOAT", 1e-3),
        "rating_scale": ("FLOAT", 1.0),
        "divergence_alpha": ("FLOAT", 0.5),
        "dpop_lambda": ("FLOAT", 1.0),
        "davidson_nu": ("FLOAT", 0.5),
        "discopop_tau": ("FLOAT", 0.05),
        "adaptive_beta": ("COMBO", "off"),
        "gradient_target": ("FLOAT", 0.2),
        "weight": ("FLOAT", 1.0),
        "also": ("DPO_OBJECTIVE", None),
    },
    "DPONoise": {
        "sigmas": ("COMBO", "auto"),
        "low": ("FLOAT", 0.0),
        "high": ("FLOAT", 1.0),
        "draws_per_pair": ("INT", 1),
        "cached_draws": ("INT", 0),
    },
    "DPOOptimizer": {
        "optimizer": ("COMBO", "adamw"),
        "schedule": ("COMBO", "constant"),
        "warmup_steps": ("INT", 10),
        "total_steps": ("INT", 0),
        "weight_decay": ("FLOAT", 0.0),
        "beta1": ("FLOAT", 0.9),
        "beta2": ("FLOAT", 0.999),
        "max_grad_norm": ("FLOAT", 1.0),
        "ema": ("FLOAT", 0.0),
    },
    "DPOAdapter": {
        "type": ("COMBO", "lora"),
        "targets": ("COMBO", "all_linear"),
        "pattern": ("STRING", ""),
        "dropout": ("FLOAT", 0.0),
    },
    "DPOValidation": {
        "percent": ("INT", 10),
        "split_seed": ("INT", 0),
        "every": ("INT", 50),
        "at_start": ("BOOLEAN", True),
        "patience": ("INT", 0),
        "patience_mode": ("COMBO", "either"),
        "save_best": ("BOOLEAN", False),
    },
    "DPOTrainer": {
        "model": ("MODEL", REQUIRED),
        "dataset": ("DPO_DATASET", None),
        "rank": ("INT", 16),
        "alpha": ("FLOAT", 16.0),
        "learning_rate": ("FLOAT", 5e-5),
        "batch_size": ("INT", 1),
        "grad_accumulation_steps": ("INT", 4),
        "execution_mode": ("COMBO", "auto"),
        "shared_noise": ("BOOLEAN", True),
        "gradient_checkpointing": ("BOOLEAN", True),
        "seed": ("INT", 0),
        "objective": ("DPO_OBJECTIVE", None),
        "noise": ("DPO_NOISE", None),
        "optimizer": ("DPO_OPTIMIZER", None),
        "adapter": ("DPO_ADAPTER", None),
        "validation": ("DPO_VALIDATION", None),
        "existing_lora": ("LORA_MODEL", None),
        "continue_from": ("DPO_TRAINER", None),
        "preview": ("DPO_PREVIEW", None),
    },
    "DPOPreview": {
        "clip": ("CLIP", REQUIRED),
        "vae": ("VAE", REQUIRED),
        "prompts": ("STRING", "a photo of a cat"),
        "every": ("INT", 50),
        "seed": ("INT", 0),
        "steps": ("INT", 20),
        "cfg": ("FLOAT", 7.0),
        "sampler": ("COMBO", "euler"),
        "scheduler": ("COMBO", "normal"),
        "width": ("INT", 512),
        "height": ("INT", 512),
    },
    "DPOTrainSteps": {
        "trainer": ("DPO_TRAINER", REQUIRED),
        "steps": ("INT", 200),
        "min_pairs": ("INT", 4),
    },
    "DPOLoadLoRA": {"lora_name": ("COMBO", REQUIRED)},
    "DPOSaveLoRA": {
        "lora": ("LORA_MODEL", REQUIRED),
        "filename_prefix": ("STRING", "loras/dpo"),
        "trainer": ("DPO_TRAINER", None),
    },
}
"""Type and default of every input; a default of None: the input may be left unconnected."""

OUTPUTS = {
    "DPOLoadPairFolder": [("pairs", "DPO_PAIRS"), ("report", "STRING")],
    "DPOPairsFromImages": [("pairs", "DPO_PAIRS")],
    "DPOJoinPairs": [("pairs", "DPO_PAIRS")],
    "DPOLoadLabelledFolder": [("pairs", "DPO_PAIRS"), ("report", "STRING")],
    "DPOImportPreferences": [("pairs", "DPO_PAIRS"), ("report", "STRING")],
    "DPORankImages": [("pairs", "DPO_PAIRS"), ("best", "IMAGE"), ("ranked", "IMAGE")],
    "DPOLoadPreferences": [("pairs", "DPO_PAIRS"), ("report", "STRING")],
    "DPOBlindCompare": [("report", "STRING")],
    "DPOJudge": [("judge", "DPO_JUDGE")],
    "DPOJudgeImages": [("pairs", "DPO_PAIRS"), ("scores", "STRING"), ("ranked", "IMAGE")],
    "DPOExportPairFolder": [("path", "STRING")],
    "DPOEncodePairs": [("dataset", "DPO_DATASET")],
    "DPODatasetFromLatents": [("dataset", "DPO_DATASET")],
    "DPOObjective": [("objective", "DPO_OBJECTIVE")],
    "DPONoise": [("noise", "DPO_NOISE")],
    "DPOOptimizer": [("optimizer", "DPO_OPTIMIZER")],
    "DPOAdapter": [("adapter", "DPO_ADAPTER")],
    "DPOValidation": [("validation", "DPO_VALIDATION")],
    "DPOTrainer": [("trainer", "DPO_TRAINER")],
    "DPOPreview": [("preview", "DPO_PREVIEW")],
    "DPOTrainSteps": [
        ("trainer", "DPO_TRAINER"),
        ("lora", "LORA_MODEL"),
        ("loss_map", "LOSS_MAP"),
        ("steps", "INT"),
        ("chart", "IMAGE"),
    ],
    "DPOLoadLoRA": [("lora", "LORA_MODEL")],
    "DPOSaveLoRA": [("path", "STRING")],
}
OPTIONS = {
    ("DPOLoadPairFolder", "on_problem"): ["error", "skip"],
    ("DPOLoadLabelledFolder", "on_problem"): ["error", "skip"],
    ("DPOImportPreferences", "layout"): ["auto", "onetrainer", "huggingface"],
    ("DPOImportPreferences", "on_problem"): ["error", "skip"],
    ("DPOExportPairFolder", "layout"): ["pair_folder", "onetrainer", "huggingface"],
    ("DPORankImages", "mode"): ["best_worst", "rank", "side_by_side", "thumbs"],
    ("DPORankImages", "use"): ["session", "this_batch"],
    ("DPOJudgeImages", "use"): ["session", "this_batch"],
    ("DPOJudge", "kind"): [
        "sharpness", "contrast", "colourfulness", "brightness", "target_colour",
        "saturation_penalty", "clip_similarity", "reward_model", "aesthetic", "vision_language",
        "registered",
    ],
    ("DPOOptimizer", "schedule"): ["constant", "cosine", "linear"],
    ("DPOAdapter", "type"): ["lora", "rslora", "dora", "loha", "lokr"],
    ("DPOAdapter", "targets"): [
        "attention", "attention_mlp", "all_linear", "convolutions", "pattern",
    ],
    ("DPOValidation", "patience_mode"): ["either", "both"],
    ("DPOTrainer", "execution_mode"): [
        "sequential", "policy_concurrent", "full_concurrent", "auto",
    ],
}
OUTPUT_NODES = {
    "DPOBlindCompare", "DPOExportPairFolder", "DPOJudgeImages", "DPORankImages", "DPOSaveLoRA",
    "DPOTrainSteps",
}


def _inputs(info: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any], bool]]:
    """Name -> type, options, and whether it may be left unconnected."""
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in info["input"].get(group, {}).items():
            found[name] = (kind, options[0] if options else {}, group == "optional")
    return found


@pytest.mark.parametrize("node_id", INPUTS)
def test_inputs_and_outputs_are_those_of_the_contract(
    comfy_server: ComfyServer, node_id: str
) -> None:
    info = comfy_server.object_info(node_id)
    inputs = _inputs(info)
    for name, (kind, default) in INPUTS[node_id].items():
        assert inputs[name][0] == kind, name
        assert inputs[name][2] == (default is None), name
        if default not in (None, REQUIRED):
            assert inputs[name][1]["default"] == default, name
        if (node_id, name) in OPTIONS:
            assert inputs[name][1]["options"] == OPTIONS[node_id, name]
    # Further inputs may follow those of the contract, and must not be needed.
    assert all(inputs[name][2] for name in inputs.keys() - INPUTS[node_id].keys())
    named = zip(info["output_name"], info["output"], strict=True)
    assert list(named) == OUTPUTS[node_id]
    assert info["output_node"] == (node_id in OUTPUT_NODES)
    assert info["category"] == "model/training/DPO"


def test_what_an_export_was_later_given_comes_last(comfy_server: ComfyServer) -> None:
    """Saved workflows hold widget values by their place."""
    order = comfy_server.object_info("DPOExportPairFolder")["input_order"]
    assert order["required"] == ["pairs", "folder"]
    assert order["optional"] == ["layout", "validation_percent"]


@pytest.mark.parametrize("node_id", INPUTS)
def test_every_input_has_a_tooltip_and_every_node_a_description(
    comfy_server: ComfyServer, node_id: str
) -> None:
    info = comfy_server.object_info(node_id)
    bare = [name for name, (_, options, _) in _inputs(info).items() if not options.get("tooltip")]
    assert bare == []
    assert info["description"] and info["display_name"]


def test_a_trainers_seed_stays_as_it_is_from_run_to_run(comfy_server: ComfyServer) -> None:
    seed = comfy_server.object_info("DPOTrainer")["input"]["required"]["seed"][1]
    assert seed["control_after_generate"] == "fixed"


def test_image_and_latent_sockets_take_lists(comfy_server: ComfyServer) -> None:
    """ComfyUI would otherwise call the node once per element."""
    listed = ("DPOPairsFromImages", "DPODatasetFromLatents", "DPORankImages", "DPOJudgeImages")
    for node_id in listed:
        assert comfy_server.object_info(node_id)["is_input_list"] is True


def test_the_ranking_is_a_widget_without_a_socket_that_starts_empty(
    comfy_server: ComfyServer,
) -> None:
    ranking = comfy_server.object_info("DPORankImages")["input"]["optional"]["ranking"][1]
    assert ranking["socketless"] is True and ranking["default"] == {}
