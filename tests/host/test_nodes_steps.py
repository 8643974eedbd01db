"""Training in parts, branches, and what is found again: in a real host, bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hostkit.pair_folder import write_pair, write_pairs
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, encoding, node, sampled, train_steps, trainer, training
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

RUN = re.compile(r"run ([0-9a-f]{20})$")


@pytest.fixture(scope="module", autouse=True)
def folders(comfy_server: ComfyServer) -> None:
    for name, first in (("parts", 0), ("new_picks", 50)):
        write_pairs(comfy_server.base_dir / "input" / name, 4, first=first)


def saved(steps: str, name: str) -> Prompt:
    """Saves the LoRA of the node `steps` where `weights` finds it."""
    return {f"save_{name}": node("SaveLoRA", lora=[steps, 1], prefix=f"loras/steps/{name}")}


def weights(server: ComfyServer, name: str) -> dict[str, Tensor]:
    folder = server.base_dir / "output" / "loras" / "steps"
    newest = max(folder.glob(f"{name}_0*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    return load_file(newest)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run_of(server: ComfyServer, result: RunResult, trainer_id: str = "trainer") -> Path:
    (said,) = result.outputs[trainer_id]["text"]
    match = RUN.search(said)
    assert match is not None, said
    return server.base_dir / "output" / "dpo" / "runs" / match[1]


def first_row(run: Path) -> dict[str, float]:
    """The metrics of the first step that a run did itself."""
    row: dict[str, float] = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    return row


def forget(server: ComfyServer, run: Path) -> None:
    """Nothing of a run is left, on disk or in the host's cache."""
    shutil.rmtree(run)
    server.free()


def test_three_and_three_steps_are_six_and_branches_do_not_disturb_each_other(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    whole = training(sd15_checkpoint.name, "parts", 6) | saved("steps", "whole")
    first = comfy_server.queue(whole)
    assert first.error == ""
    forget(comfy_server, run_of(comfy_server, first))

    parts = training(sd15_checkpoint.name, "parts", 3)
    parts["second"] = train_steps("steps", 3)
    # A branch of other settings, and one that continues under the same ones.
    parts["other"] = trainer(continue_from=["steps", 0], seed=7)
    parts["other_steps"] = train_steps("other", 3)
    parts["same"] = trainer(continue_from=["steps", 0], grad_accumulation_steps=1)
    parts["same_steps"] = train_steps("same", 3)
    parts["count"] = node("PreviewAny", source=["other_steps", 3])
    for steps in ("steps", "second", "other_steps", "same_steps"):
        parts |= saved(steps, steps)
    result = comfy_server.queue(parts)
    assert result.error == ""

    in_parts = weights(comfy_server, "second")
    assert equal(in_parts, weights(comfy_server, "whole"))
    assert equal(in_parts, weights(comfy_server, "same_steps"))
    assert not equal(in_parts, weights(comfy_server, "other_steps"))
    assert not equal(in_parts, weights(comfy_server, "steps"))
    assert result.outputs["count"]["text"] == ["6"]
    runs = {run_of(comfy_server, result, name) for name in ("trainer", "other", "same")}
    assert len(runs) == 3


def test_the_same_training_is_found_on_disk_when_the_cache_is_gone(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = training(sd15_checkpoint.name, "parts", 2, seed=11) | saved("steps", "kept")
    first = comfy_server.queue(prompt)
    run = run_of(comfy_server, first)
    log = (run / "metrics.jsonl").read_bytes()
    trained = weights(comfy_server, "kept")

    comfy_server.free()
    again = comfy_server.queue(prompt)
    assert "steps" in again.executed and "checkpoint" in again.executed
    assert "The run is found in" in again.outputs["steps"]["text"][0]
    assert run_of(comfy_server, again) == run
    assert (run / "metrics.jsonl").read_bytes() == log
    assert equal(weights(comfy_server, "kept"), trained)

    prompt["steps"]["inputs"]["steps"] = 3
    longer = comfy_server.queue(prompt)
    assert "The run is kept in" in longer.outputs["steps"]["text"][0]
    # Two steps were there: one is done, and the bar says so.
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert comfy_server.texts("steps")[-2].startswith("3/3  loss")


def test_a_folder_is_read_again_when_it_changed_and_only_then(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    folder = comfy_server.base_dir / "input" / "changing"
    write_pairs(folder, 3)
    prompt = training(sd15_checkpoint.name, "changing", 1)
    prompt["steps"] = train_steps("trainer", 1, min_pairs=100)  # nothing is trained
    first = comfy_server.queue(prompt)
    assert comfy_server.queue(prompt).executed == []

    write_pair(folder, "fourth", 4, caption="a hill")
    more = comfy_server.queue(prompt)
    assert "pairs" in more.executed and "checkpoint" not in more.executed
    assert more.outputs["trainer"]["text"][0].startswith("4 pairs, run ")

    (folder / "chosen" / "fourth.txt").write_text("a warm sky")
    other = comfy_server.queue(prompt)
    runs = [run_of(comfy_server, result) for result in (first, more, other)]
    assert len(set(runs)) == 3


def test_new_picks_keep_adapter_step_and_the_original_reference(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    """Each Run brings more pairs; a rate of almost zero shows what the second starts from."""
    prompt = training(sd15_checkpoint.name, "parts", 2, learning_rate=0.02)
    prompt["new_pairs"] = prompt["pairs"] | {"inputs": {**prompt["pairs"]["inputs"]}}
    prompt["new_pairs"]["inputs"]["folder"] = "new_picks"
    prompt["all_pairs"] = node("DPOJoinPairs", pairs_a=["pairs", 0], pairs_b=["new_pairs", 0])
    prompt["all_dataset"] = encoding(["all_pairs", 0])
    prompt["more"] = trainer(
        dataset=["all_dataset", 0], continue_from=["steps", 0], learning_rate=1e-8, rank=8
    )
    prompt["more_steps"] = train_steps("more", 2)
    prompt["count"] = node("PreviewAny", source=["more_steps", 3])
    result = comfy_server.queue(prompt | saved("steps", "before") | saved("more_steps", "after"))
    assert result.error == ""
    assert result.outputs["count"]["text"] == ["4"]
    said = result.outputs["more"]["text"][0]
    assert "at step 2" in said and "8 pairs" in said and "rank and alpha are its own" in said
    before, after = weights(comfy_server, "before"), weights(comfy_server, "after")
    assert before.keys() == after.keys() and not equal(before, after)
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    # Were the reference what training goes on from, its first step would have no margin.
    row = first_row(run_of(comfy_server, result, "more"))
    assert row["step"] == 3 and abs(row["dpo/reward_margin"]) > 1e-5


@pytest.fixture(scope="module")
def existing(comfy_server: ComfyServer, sd15_checkpoint: Path) -> str:
    """The name of a LoRA of rank 3 in the loaders' lists."""
    prompt = training(sd15_checkpoint.name, "parts", 2, rank=3, alpha=6.0, learning_rate=0.01)
    prompt["save"] = node("DPOSaveLoRA", lora=["steps", 1], filename_prefix="loras/steps/start")
    assert comfy_server.queue(prompt).error == ""
    return "steps/start_00001_.safetensors"


def test_an_existing_lora_is_refined_and_stays_the_reference_of_what_follows(
    comfy_server: ComfyServer, sd15_checkpoint: Path, existing: str
) -> None:
    prompt = training(sd15_checkpoint.name, "parts", 2, existing_lora=["read", 0])
    prompt["read"] = node("DPOLoadLoRA", lora_name=existing)
    prompt["new_pairs"] = prompt["pairs"] | {"inputs": {**prompt["pairs"]["inputs"]}}
    prompt["new_pairs"]["inputs"]["folder"] = "new_picks"
    prompt["new_dataset"] = encoding(["new_pairs", 0])
    prompt["more"] = trainer(dataset=["new_dataset", 0], continue_from=["steps", 0])
    prompt["more_steps"] = train_steps("more", 1)
    result = comfy_server.queue(prompt | saved("more_steps", "refined"))
    assert result.error == ""
    said = result.outputs["trainer"]["text"][0]
    assert "27 layers, rank 3" in said and "rank, alpha and targets set here are not used" in said

    given = load_file(comfy_server.base_dir / "output" / "loras" / existing)
    refined = weights(comfy_server, "refined")
    assert given.keys() == refined.keys() and not equal(given, refined)
    assert {float(t) for name, t in refined.items() if name.endswith(".alpha")} == {6.0}
    for name in ("trainer", "more"):
        run = run_of(comfy_server, result, name)
        anchor = load_file(run / "reference.safetensors")
        assert anchor and all(torch.equal(anchor[key], given[key]) for key in anchor)
    # Step 1 starts at the reference; new picks do not move it.
    first = first_row(run_of(comfy_server, result))
    third = first_row(run_of(comfy_server, result, "more"))
    assert (first["step"], first["dpo/reward_margin"]) == (1, 0)
    assert third["step"] == 3 and abs(third["dpo/reward_margin"]) > 1e-6


def test_a_lora_of_kohyas_is_refined_and_saved_as_kohya_and_diffusers_name_it(
    comfy_server: ComfyServer, sd15_checkpoint: Path, existing: str
) -> None:
    """A person's whole way: the file of another tool in, files for other tools out."""
    folder = comfy_server.base_dir / "output" / "loras"
    given = load_file(folder / existing)
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(3072, 2),
            "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 768)}
    save_file({f"{name}.lora_up.weight": given[f"{layer}.lora_B.weight"],
               f"{name}.lora_down.weight": given[f"{layer}.lora_A.weight"],
               f"{name}.alpha": torch.tensor(6.0)} | text, folder / "of_kohya.safetensors")

    prompt = training(sd15_checkpoint.name, "parts", 2, existing_lora=["read", 0])
    prompt["read"] = node("DPOLoadLoRA", lora_name="of_kohya.safetensors")
    for names in ("kohya", "diffusers"):
        prompt[names] = node(
            "DPOSaveLoRA", lora=["steps", 1], filename_prefix=f"loras/steps/as_{names}",
            trainer=["steps", 0], key_names=names,
        )
    result = comfy_server.queue(prompt)
    assert result.error == ""
    assert "1 layer, all used by ComfyUI's loader" in result.outputs["kohya"]["text"][0]
    kohya, diffusers = weights(comfy_server, "as_kohya"), weights(comfy_server, "as_diffusers")
    assert kohya.keys() == load_file(folder / "of_kohya.safetensors").keys()
    assert all(torch.equal(kohya[key], tensor) for key, tensor in text.items())
    assert not torch.equal(kohya[f"{name}.lora_up.weight"], given[f"{layer}.lora_B.weight"])
    path = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    assert diffusers.keys() == {f"{path}.up.weight", f"{path}.down.weight", *text}
    file = folder / "steps" / "as_kohya_00001_.safetensors"
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["ss_network_dim"] == "3"
        assert opened.metadata()["ss_network_alpha"] == "6.0"

    drawn: Prompt = {"checkpoint": prompt["checkpoint"]}
    for names in ("kohya", "diffusers"):
        drawn[names] = node(
            "LoraLoaderModelOnly", model=["checkpoint", 0], strength_model=1.0,
            lora_name=f"steps/as_{names}_00001_.safetensors",
        )
        drawn |= sampled([names, 0], f"as_{names}")
    drawn |= sampled(["checkpoint", 0], "as_none")
    before = len(comfy_server.log())
    assert comfy_server.queue(drawn).error == ""
    said = comfy_server.log()[before:]
    assert {line for line in said.splitlines() if "not loaded" in line} == {
        line for line in said.splitlines() if "not loaded: lora_te_text" in line
    }
    latents = [
        load_file(max((comfy_server.base_dir / "output" / "latents").glob(f"as_{names}_0*")))
        for names in ("kohya", "diffusers", "none")
    ]
    one, other, bare = (tensors["latent_tensor"] for tensors in latents)
    assert torch.allclose(one, other, atol=1e-5) and not torch.allclose(one, bare, atol=1e-5)

    prompt["kohya"]["inputs"].pop("trainer")
    error = comfy_server.queue(prompt).error
    assert "key_names kohya needs the model" in error and "connect trainer" in error


def test_the_same_lora_upstream_and_a_second_origin_are_refused(
    comfy_server: ComfyServer, sd15_checkpoint: Path, existing: str
) -> None:
    prompt: dict[str, Any] = training(
        sd15_checkpoint.name, "parts", 1, model=["loader", 0], existing_lora=["read", 0]
    )
    prompt["read"] = node("DPOLoadLoRA", lora_name=existing)
    prompt["loader"] = node(
        "LoraLoaderModelOnly", model=["checkpoint", 0], lora_name=existing, strength_model=0.5
    )
    assert "would act twice" in comfy_server.queue(prompt).error

    prompt["trainer"]["inputs"]["model"] = ["checkpoint", 0]
    prompt["trainer"]["inputs"]["continue_from"] = ["first", 0]
    prompt["first"] = trainer(seed=3)
    assert "either existing_lora or continue_from" in comfy_server.queue(prompt).error


def test_with_too_few_pairs_nothing_is_trained_and_the_rest_of_the_graph_runs(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = training(sd15_checkpoint.name, "parts", 5, seed=21)
    prompt["steps"] = train_steps("trainer", 5, min_pairs=9)
    prompt["after"] = train_steps("steps", 5)
    prompt["save"] = node("DPOSaveLoRA", lora=["steps", 1], filename_prefix="loras/steps/none")
    prompt["pixel"] = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
    prompt["rest"] = node("SaveImage", images=["pixel", 0], filename_prefix="rest")
    result = comfy_server.queue(prompt)
    assert (result.status, result.error) == ("success", "")
    assert result.outputs["steps"]["text"] == ["4 of 9 pairs so far: not training yet."]
    assert len(result.outputs["rest"]["images"]) == 1
    assert "save" not in result.outputs and "after" not in result.outputs
    assert not run_of(comfy_server, result).exists()
    assert not list((comfy_server.base_dir / "output" / "loras").rglob("none*"))


def test_the_optimizer_node_decides_rates_and_an_averaged_lora_goes_on_in_parts(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    settings: dict[str, Any] = {
        "optimizer": "adafactor", "schedule": "linear", "warmup_steps": 0, "total_steps": 8,
        "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "max_grad_norm": 1.0, "ema": 0.9,
    }  # fmt: skip
    whole = training(sd15_checkpoint.name, "parts", 4, optimizer=["optimizer", 0])
    whole["optimizer"] = node("DPOOptimizer", **settings)
    first = comfy_server.queue(whole | saved("steps", "averaged"))
    assert first.error == ""
    run = run_of(comfy_server, first)
    rates = [json.loads(row)["learning_rate"] for row in (run / "metrics.jsonl").open()]
    assert rates == pytest.approx([1e-3, 0.875e-3, 0.75e-3, 0.625e-3])
    last_step = load_file(run / "step_00000004.safetensors")
    averaged = weights(comfy_server, "averaged")
    # What is saved is the mean, not the last step.
    key = next(name for name in averaged if name.endswith(".lora_B.weight"))
    assert not torch.equal(averaged[key], last_step[f"adapter/{key}"])
    assert torch.equal(averaged[key], last_step[f"average/{key}"])

    forget(comfy_server, run)
    parts = whole | {"second": train_steps("steps", 2)} | saved("second", "averaged_parts")
    parts["steps"]["inputs"]["steps"] = 2
    assert comfy_server.queue(parts).error == ""
    assert equal(weights(comfy_server, "averaged_parts"), averaged)


def test_the_adapter_node_decides_layers_ranks_and_type_of_what_is_saved(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = training(sd15_checkpoint.name, "parts", 3, adapter=["adapter", 0], rank=4)
    prompt["adapter"] = node(
        "DPOAdapter", type="dora", targets="attention", pattern="*attn2* = 3", dropout=0.2
    )
    prompt["file"] = node(
        "DPOSaveLoRA", lora=["steps", 1], filename_prefix="loras/steps/kind", trainer=["steps", 0]
    )
    result = comfy_server.queue(prompt)
    assert result.error == ""
    assert "all used by ComfyUI's loader, as trained" in result.outputs["file"]["text"][0]
    (path,) = (comfy_server.base_dir / "output" / "loras" / "steps").glob("kind_0*.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"]) == {
        "algo": "lora", "dora_wd": "True", "wd_on_output": "False", "rank_dropout": "0.2",
    }
    assert json.loads(metadata["dpo.settings"])["adapter"]["pattern"] == "*attn2* = 3"
    lora = load_file(path)
    assert all(".attn" in name for name in lora)
    ranks = {
        (".attn2." in name, t.shape[0]) for name, t in lora.items() if name.endswith("A.weight")
    }
    assert ranks == {(True, 3), (False, 4)}


def test_an_optimizer_that_cannot_work_is_named_with_everything_else(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = training(sd15_checkpoint.name, "parts", 1, optimizer=["optimizer", 0], alpha=1.0)
    prompt["optimizer"] = node(
        "DPOOptimizer", optimizer="prodigy", schedule="constant", warmup_steps=0, total_steps=0,
        weight_decay=0.0, beta1=0.9, beta2=0.999, max_grad_norm=1.0, ema=0.0,
    )  # fmt: skip
    result = comfy_server.queue(prompt)
    assert result.status == "error"
    assert "prodigyopt" in result.error or "use 1" in result.error


def test_cached_draws_are_kept_with_the_run_and_used_when_it_goes_on(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    def prompt(steps: int, draws: int) -> Prompt:
        made = training(sd15_checkpoint.name, "parts", steps, noise=["noise", 0], seed=23)
        made["noise"] = node(
            "DPONoise", sigmas="stratified", low=0.0, high=1.0, draws_per_pair=1,
            cached_draws=draws,
        )  # fmt: skip
        return made

    first = comfy_server.queue(prompt(4, 2))  # four pairs: one visit
    assert first.error == ""
    run = run_of(comfy_server, first)
    kept = load_file(run / "reference_errors.safetensors")
    assert len(kept) == 4 and all(errors.shape == (2,) for errors in kept.values())
    assert comfy_server.queue(prompt(12, 2)).error == ""
    rows = [json.loads(row) for row in (run / "metrics.jsonl").open()]
    # Where both passes of the reference are saved, how far predictions moved is not known.
    computed = ["prediction_change" in row for row in rows]
    assert computed[:8] == [True] * 8 and computed[8:].count(True) <= 1
    assert all("rho" in row and "dpo/accuracy" in row for row in rows)
    later = load_file(run / "reference_errors.safetensors")
    assert len(later) == 8 and all(torch.equal(later[name], kept[name]) for name in kept)


def test_what_goes_wrong_is_warned_of_while_it_runs_and_in_the_verdict(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    def told() -> list[dict[str, Any]]:
        events = [one["data"] for one in comfy_server.events() if one["type"] == "dpo.warning"]
        return [one for one in events if "unlearned" in one["text"]]

    prompt = training(sd15_checkpoint.name, "parts", 12, seed=41, learning_rate=0.03)
    result = comfy_server.queue(prompt)
    assert result.error == ""
    (spoiled,) = told()
    assert spoiled["serious"] is True and spoiled["node"] == "steps"
    assert f"DPO: {spoiled['text']}" in comfy_server.log()
    verdict = result.outputs["steps"]["text"][0].splitlines()[1:]
    assert verdict[0] == "Take care:" and spoiled["text"] in verdict

    prompt["steps"]["inputs"]["steps"] = 14  # it goes on, and does not warn of it again
    again = comfy_server.queue(prompt)
    assert spoiled["text"] in again.outputs["steps"]["text"][0]
    assert len(told()) == 1
