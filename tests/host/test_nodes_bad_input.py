"""Bad input in a real host: one clear error before training, with every problem and its fix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_base
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from comfy.ops import disable_weight_init
from hostkit.pair_folder import COLD, picture, write_pair, write_pairs
from hostkit.random_weights import random_state_dict
from hostkit.server import ComfyServer, PromptRejected
from hostkit.training import pack_module
from hostkit.workflows import Prompt, node, objective, train_steps, trainer, training
from safetensors.torch import save_file


def refusal(server: ComfyServer, prompt: Prompt, at: str) -> str:
    """The message with which the node `at` ends the run."""
    result = server.queue(prompt)
    assert result.status == "error"
    failed = result.message("execution_error")
    assert failed is not None and failed["node_id"] == at
    return result.error


def reading(folder: str, **inputs: str) -> Prompt:
    """A pair folder and its report, without any model."""
    settings = {
        "folder": folder,
        "chosen_pattern": "chosen/{}",
        "rejected_pattern": "rejected/{}",
        "on_problem": "error",
    }
    return {
        "pairs": node("DPOLoadPairFolder", **(settings | inputs)),
        "report": node("PreviewAny", source=["pairs", 1]),
    }


def report(server: ComfyServer, prompt: Prompt) -> str:
    result = server.queue(prompt)
    assert (result.status, result.error) == ("success", "")
    (text,) = result.outputs["report"]["text"]
    return str(text)


@pytest.fixture(scope="module")
def faulty(comfy_server: ComfyServer) -> str:
    """A folder with one good pair and one of everything that can be wrong with one."""
    folder = comfy_server.base_dir / "input" / "faulty"
    write_pairs(folder, 6)
    (folder / "chosen" / "1.png").write_bytes(b"")
    (folder / "chosen" / "2.png").write_bytes(b"these are words")
    (folder / "rejected" / "3.txt").write_text("something else")
    picture(COLD, 4, (40, 32)).save(folder / "rejected" / "4.png")
    (folder / "rejected" / "5.png").write_bytes((folder / "chosen" / "5.png").read_bytes())
    picture(COLD, 6, (32, 32)).save(folder / "rejected" / "alone.png")
    return "faulty"


FAULTS = (
    ("Rejected image without a chosen one", "rejected/alone.png"),
    ("File is empty (zero bytes)", "chosen/1.png"),
    ("File is not an image of a known format", "chosen/2.png"),
    ("Prompts differ between the sides (caption)", "chosen/3.png and rejected/3.png"),
    ("Sizes differ between the sides", "chosen/4.png is 32 x 32, rejected/4.png is 40 x 32"),
    ("The same image on both sides", "chosen/5.png and rejected/5.png"),
)


def test_everything_wrong_with_a_folder_is_told_at_once_each_with_a_fix(
    comfy_server: ComfyServer, faulty: str
) -> None:
    message = refusal(comfy_server, reading(faulty), "pairs")
    for fault, place in FAULTS:
        assert f"{fault}:\n  - {place}\n  Fix: " in message
    assert message.count("Fix: ") == len(FAULTS)


def test_skip_leaves_the_faulty_pairs_out_and_lists_them(
    comfy_server: ComfyServer, faulty: str
) -> None:
    text = report(comfy_server, reading(faulty, on_problem="skip"))
    assert text.startswith("1 pair, 1 prompt\n")
    assert all(fault in text and place in text for fault, place in FAULTS)


def test_missing_captions_are_said_and_not_refused(comfy_server: ComfyServer) -> None:
    folder = comfy_server.base_dir / "input" / "few_captions"
    write_pairs(folder, 2)
    write_pair(folder, "bare", 9, caption=None)
    text = report(comfy_server, reading("few_captions"))
    assert "1 pair with an empty prompt (trained without one)" in text
    assert "2 from caption files, 1 without caption" in text


def test_folders_that_are_empty_missing_or_none(comfy_server: ComfyServer) -> None:
    folder = comfy_server.base_dir / "input"
    (folder / "empty").mkdir()
    assert "The folder holds no images" in refusal(comfy_server, reading("empty"), "pairs")

    missing = refusal(comfy_server, reading("no_such_folder"), "pairs")
    assert missing.startswith("There is no folder no_such_folder. Looked for: ")
    assert str(folder / "no_such_folder") in missing and "Check the name" in missing

    assert refusal(comfy_server, reading(" "), "pairs").startswith("No folder is given. ")
    assert "is no folder's name" in refusal(comfy_server, reading("a\0b"), "pairs")


@pytest.fixture
def outside(tmp_path: Path, comfy_server: ComfyServer) -> Iterator[Path]:
    """A pair folder outside of ComfyUI's own, and `input/way_out`, a link to it."""
    write_pairs(tmp_path / "outside", 2)
    link = comfy_server.base_dir / "input" / "way_out"
    link.symlink_to(tmp_path / "outside")
    yield tmp_path / "outside"
    link.unlink()


def test_relative_paths_and_links_do_not_lead_out(
    comfy_server: ComfyServer, outside: Path
) -> None:
    for way in ("../..", "lists/../../..", "way_out"):
        message = refusal(comfy_server, reading(way), "pairs")
        assert message.startswith(f"{way} may not be read: it leads out of the folders")
        assert "Give one of these: a folder below ComfyUI's input, output or datasets" in message
    # A link to a single image inside a folder is no way out, either.
    folder = comfy_server.base_dir / "input" / "linked_file"
    write_pairs(folder, 2)
    (folder / "chosen" / "1.png").unlink()
    (folder / "chosen" / "1.png").symlink_to(outside / "chosen" / "1.png")
    message = refusal(comfy_server, reading("linked_file"), "pairs")
    assert "A link leads out of the folder" in message


def test_a_full_path_is_read_when_only_this_computer_can_ask(
    comfy_server: ComfyServer, outside: Path
) -> None:
    assert report(comfy_server, reading(str(outside))).startswith("2 pairs, 2 prompts")


def test_a_full_path_is_refused_when_others_can_ask(
    shared_server: ComfyServer, outside: Path
) -> None:
    """The same host, open to the network: only its own folders are read."""
    server = shared_server
    inside = server.base_dir / "input" / "pairs"
    write_pairs(inside, 2)
    message = refusal(server, reading(str(outside)), "pairs")
    assert message.startswith(f"{outside} may not be read: it leads out of the folders")
    # Nor does it tell what is there and what is not.
    missing = outside / "no_such_folder"
    assert refusal(server, reading(str(missing)), "pairs") == message.replace(
        str(outside), str(missing)
    )
    for inside_path in ("pairs", str(inside)):
        assert report(server, reading(inside_path)).startswith("2 pairs, 2 prompts")


def test_patterns_that_are_none(comfy_server: ComfyServer) -> None:
    write_pairs(comfy_server.base_dir / "input" / "patterns", 1)
    bad = reading("patterns", chosen_pattern="/etc/{}", rejected_pattern="rejected")
    message = refusal(comfy_server, bad, "pairs")
    assert "The chosen pattern is an absolute path" in message
    assert "The rejected pattern needs exactly one {}" in message
    other = reading("patterns", rejected_pattern="worse/{}")
    assert "No image fits the rejected pattern worse/{}" in refusal(comfy_server, other, "pairs")


def test_images_that_do_not_pair_up(comfy_server: ComfyServer) -> None:
    prompt = {
        "chosen": node("EmptyImage", width=32, height=32, batch_size=2, color=0),
        "rejected": node("EmptyImage", width=64, height=32, batch_size=3, color=255),
        "texts": node("TestListedText", lines="a\nb\nc\nd"),
        "pairs": node(
            "DPOPairsFromImages",
            chosen=["chosen", 0],
            rejected=["rejected", 0],
            prompt=["texts", 0],
        ),
        "show": node("PreviewAny", source=["pairs", 0]),
    }
    message = refusal(comfy_server, prompt, "pairs")
    assert "2 chosen but 3 rejected images" in message
    assert "4 prompts for 2 pairs" in message
    assert "Chosen image is 32 x 32, rejected 64 x 32 (2):\n  - pair 1\n  - pair 2" in message
    assert message.count("Fix: ") == 3

    prompt["rejected"] = prompt["chosen"]
    prompt["pairs"]["inputs"]["prompt"] = "a"
    assert "Chosen and rejected are the same image" in refusal(comfy_server, prompt, "pairs")


def latents(seed: int, batch: int = 2, channels: int = 4, height: int = 4) -> dict[str, Any]:
    return node(
        "TestRandomLatents", batch=batch, channels=channels, height=height, width=4, seed=seed
    )


def conditioning(extra: str = "", width: int = 768) -> dict[str, Any]:
    return node(
        "TestRandomConditioning", batch=1, tokens=7, width=width, seed=0, extra=extra
    )


def paired(chosen: Any, rejected: Any, positive: Any) -> Prompt:
    """A dataset from latents; shown, so that it is made."""
    return {
        "chosen": chosen,
        "rejected": rejected,
        "positive": positive,
        "dataset": node(
            "DPODatasetFromLatents",
            chosen=["chosen", 0],
            rejected=["rejected", 0],
            positive=["positive", 0],
        ),
        "trainer": trainer(),
        "steps": train_steps("trainer", 1),
    }


@pytest.fixture(scope="module")
def model(sd15_checkpoint: Path) -> Prompt:
    return {"checkpoint": node("CheckpointLoaderSimple", ckpt_name=sd15_checkpoint.name)}


def test_latents_that_do_not_pair_up(comfy_server: ComfyServer, model: Prompt) -> None:
    counts = model | paired(latents(0, batch=3), latents(1, height=6), conditioning())
    message = refusal(comfy_server, counts, "dataset")
    assert message.startswith("These latents cannot be paired:\n- 3 chosen but 2 rejected")
    assert "Pair 1: chosen is 4 channels of 4 x 4, rejected 4 channels of 4 x 6. Crop" in message
    assert "Pair 2" in message

    same = model | paired(latents(0), latents(0), conditioning())
    assert "Pair 1: chosen and rejected are the same" in refusal(comfy_server, same, "dataset")

    mask = node("SetLatentNoiseMask", samples=["bare", 0], mask=["mask", 0])
    masked = model | paired(mask, latents(1), conditioning())
    masked["bare"] = latents(0)
    masked["mask"] = node("SolidMask", value=1.0, width=32, height=32)
    assert "A latent carries a mask" in refusal(comfy_server, masked, "dataset")


def test_conditioning_that_is_more_than_a_prompt(
    comfy_server: ComfyServer, model: Prompt
) -> None:
    region = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "a region": ("ConditioningSetArea", region),
        "a mask": (
            "ConditioningSetMask",
            {"mask": ["mask", 0], "strength": 1.0, "set_cond_area": "default"},
        ),
        "a timestep range": ("ConditioningSetTimestepRange", {"start": 0.0, "end": 0.5}),
        "a strength other than 1": ("ConditioningSetAreaStrength", {"strength": 0.5}),
    }
    for kind, (class_type, inputs) in kinds.items():
        positive = node(class_type, conditioning=["bare", 0], **inputs)
        prompt = model | paired(latents(0), latents(1), positive)
        prompt["bare"] = conditioning()
        prompt["mask"] = node("SolidMask", value=1.0, width=32, height=32)
        message = refusal(comfy_server, prompt, "dataset")
        assert f"Conditioning 1 carries {kind}, which cannot be trained on" in message
        assert "connect a plain prompt" in message


@pytest.mark.parametrize(
    ("extra", "kind"),
    [("control", "a ControlNet"), ("hooks", "hooks"), ("gligen", "GLIGEN boxes")],
)
def test_conditioning_with_control_or_hooks(
    comfy_server: ComfyServer, model: Prompt, extra: str, kind: str
) -> None:
    prompt = model | paired(latents(0), latents(1), conditioning(extra))
    assert f"Conditioning 1 carries {kind}" in refusal(comfy_server, prompt, "dataset")


def test_a_combination_of_prompts(comfy_server: ComfyServer, model: Prompt) -> None:
    combined = node(
        "ConditioningCombine", conditioning_1=["two", 0], conditioning_2=["bare", 0]
    )
    prompt = model | paired(latents(0), latents(1), combined)
    prompt["bare"] = conditioning()
    prompt["two"] = node(
        "ConditioningCombine", conditioning_1=["bare", 0], conditioning_2=["bare", 0]
    )
    message = refusal(comfy_server, prompt, "dataset")
    assert "3 conditionings for 2 pairs" in message and "combination" in message


def test_latents_and_settings_that_do_not_fit_are_told_together(
    comfy_server: ComfyServer, model: Prompt
) -> None:
    prompt = model | paired(
        latents(0, channels=16), latents(1, channels=16), conditioning()
    )
    # Linked values, which ComfyUI does not check.
    prompt["zero"] = node("PrimitiveInt", value=0)
    prompt["rate"] = node("PrimitiveFloat", value=-1.0)
    prompt["lora"] = node("DPOLoadLoRA", lora_name="stranger.safetensors")
    prompt["trainer"] = trainer(
        rank=["zero", 0], batch_size=["zero", 0], learning_rate=["rate", 0],
        existing_lora=["lora", 0],
    )
    stranger = comfy_server.base_dir / "models" / "loras" / "stranger.safetensors"
    save_file({"diffusion_model.nowhere.lora_A.weight": torch.ones(2, 3)}, stranger)
    message = refusal(comfy_server, prompt, "trainer")
    assert message.startswith("This cannot be trained:\n- ")
    for problem in (
        "rank is 0: use 1 to 1024",
        "batch_size is 0: use 1 or more",
        "learning_rate is -1.0: use a number like 5e-5",
        "The LoRA does not fit this model: none of its weights belong to a layer of it",
        "latents of shape (16, 4, 4), while SD15 takes 4 channels. Encode them with the VAE",
    ):
        assert problem in message
    assert message.count("\n- ") == 5


def test_adapters_that_do_not_fit(comfy_server: ComfyServer, model: Prompt) -> None:
    def told(existing: bool = False, **settings: Any) -> str:
        usual = {"type": "lora", "targets": "all_linear", "pattern": "", "dropout": 0.0}
        prompt = model | paired(latents(0), latents(1), conditioning())
        prompt["adapter"] = node("DPOAdapter", **(usual | settings))
        prompt["trainer"] = trainer(adapter=["adapter", 0])
        if existing:
            prompt["lora"] = node("DPOLoadLoRA", lora_name="small.safetensors")
            prompt["trainer"]["inputs"]["existing_lora"] = ["lora", 0]
        return refusal(comfy_server, prompt, "trainer")

    message = told(targets="pattern", pattern="*attn*\n*nonsense*")
    assert "'*nonsense*' matches no layer" in message
    assert "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q" in message
    message = told(type="loha", dropout=0.5, pattern="*attn* = x")
    assert "dropout cannot go with type loha" in message
    assert "rank after '*attn*'" in message and message.count("\n- ") == 2
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    small = {f"{layer}.lora_A.weight": torch.ones(2, 320),
             f"{layer}.lora_B.weight": torch.ones(320, 2)}
    save_file(small, comfy_server.base_dir / "models" / "loras" / "small.safetensors")
    assert "set type to lora instead of dora" in told(existing=True, type="dora")


def test_conditioning_of_another_models_text_encoder(
    comfy_server: ComfyServer, model: Prompt
) -> None:
    prompt = model | paired(latents(0), latents(1), conditioning(width=1024))
    message = refusal(comfy_server, prompt, "steps")
    assert message.startswith("The model cannot work with these pairs; nothing was trained.")
    assert "text encoder that belong to this model" in message


def test_a_trainer_without_a_dataset(comfy_server: ComfyServer, model: Prompt) -> None:
    prompt = model | {"trainer": trainer(), "steps": train_steps("trainer", 1)}
    del prompt["trainer"]["inputs"]["dataset"]
    assert "No dataset is connected" in refusal(comfy_server, prompt, "steps")


def test_widgets_out_of_range_do_not_start(comfy_server: ComfyServer, model: Prompt) -> None:
    wrong = {"rank": 0, "alpha": 0.0, "learning_rate": 2.0, "batch_size": 0, "seed": -1}
    prompt = model | paired(latents(0), latents(1), conditioning())
    prompt["trainer"] = trainer(**wrong, execution_mode="fast")
    prompt["steps"] = train_steps("trainer", 0, min_pairs=0)
    with pytest.raises(PromptRejected) as rejection:
        comfy_server.queue(prompt)
    errors = rejection.value.reply["node_errors"]
    named = {e["extra_info"]["input_name"] for node_id in errors for e in errors[node_id]["errors"]}
    assert named >= {*wrong, "execution_mode", "steps", "min_pairs"}


def test_linked_steps_and_objective_out_of_range(comfy_server: ComfyServer, model: Prompt) -> None:
    prompt = model | paired(latents(0), latents(1), conditioning())
    prompt["zero"] = node("PrimitiveInt", value=0)
    prompt["steps"]["inputs"] |= {"steps": ["zero", 0], "min_pairs": ["zero", 0]}
    message = refusal(comfy_server, prompt, "steps")
    assert "steps is 0" in message and "min_pairs is 0" in message

    prompt["below"] = node("PrimitiveFloat", value=-1.0)
    prompt["objective"] = objective(
        beta=["below", 0], label_smoothing=["below", 0], supervised_mix=["below", 0]
    )
    prompt["trainer"]["inputs"]["objective"] = ["objective", 0]
    message = refusal(comfy_server, prompt, "objective")
    assert message.startswith("This objective cannot be used:\n- beta is -1.0")
    assert "label_smoothing is -1.0" in message and "supervised_mix is -1.0" in message


def test_a_file_that_is_no_lora(comfy_server: ComfyServer, model: Prompt) -> None:
    folder = comfy_server.base_dir / "models" / "loras"
    (folder / "broken.safetensors").write_bytes(b"these are words")
    prompt = model | paired(latents(0), latents(1), conditioning())
    prompt["lora"] = node("DPOLoadLoRA", lora_name="broken.safetensors")
    prompt["trainer"]["inputs"]["existing_lora"] = ["lora", 0]
    message = refusal(comfy_server, prompt, "lora")
    assert "broken.safetensors is not a readable .safetensors file" in message
    (folder / "broken.pt").write_bytes(b"these are words")
    prompt["lora"] = node("DPOLoadLoRA", lora_name="broken.pt")
    assert "broken.pt cannot be read" in refusal(comfy_server, prompt, "lora")
    torch.save({"layer.lora_up.weight": torch.ones(2, 2), "epoch": 3}, folder / "strange.pt")
    prompt["lora"] = node("DPOLoadLoRA", lora_name="strange.pt")
    message = refusal(comfy_server, prompt, "trainer")
    assert "none of its weights belong to a layer" in message


def test_a_video_model(comfy_server: ComfyServer) -> None:
    folder = comfy_server.base_dir / "models" / "diffusion_models"
    folder.mkdir(exist_ok=True)
    save_file(_tiny_wan(), folder / "wan.safetensors")
    prompt = paired(latents(0, channels=16), latents(1, channels=16), conditioning())
    prompt["video"] = node("UNETLoader", unet_name="wan.safetensors", weight_dtype="default")
    prompt["trainer"]["inputs"]["model"] = ["video", 0]
    message = refusal(comfy_server, prompt, "trainer")
    assert "WAN21 is a model for video; preferences train image models only." in message


def _tiny_wan() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        network = WanModel(
            model_type="t2v",
            dim=128,
            ffn_dim=64,
            num_heads=1,
            num_layers=1,
            dtype=torch.float32,
            operations=disable_weight_init,
        )
    return random_state_dict(network.state_dict(), 0)


def test_every_kind_that_is_refused_is_one_the_host_knows() -> None:
    """A name that the host no longer uses would let its models through."""
    kinds = pack_module("nodes.host.trainable")._OTHER_KINDS
    assert kinds and [name for name in kinds if not hasattr(comfy.model_base, name)] == []


def test_lora_names_that_lead_nowhere(comfy_server: ComfyServer, sd15_checkpoint: Path) -> None:
    write_pairs(comfy_server.base_dir / "input" / "named", 2)
    prompt = training(sd15_checkpoint.name, "named", 1)
    prompt["other"] = trainer(seed=5)

    def saving(prefix: str, **inputs: Any) -> Prompt:
        save = node("DPOSaveLoRA", lora=["steps", 1], filename_prefix=prefix, **inputs)
        return prompt | {"save": save}

    for prefix in ("../../mine", "/tmp/mine"):
        message = refusal(comfy_server, saving(prefix), "save")
        assert "leads out of ComfyUI's output folder" in message and "such as loras/dpo" in message
    for prefix in ("", "loras/", ".."):
        assert "no name at its end" in refusal(comfy_server, saving(prefix), "save")
    stranger = refusal(comfy_server, saving("loras/named/x", trainer=["other", 0]), "save")
    assert "not what this trainer has trained" in stranger
    assert not (comfy_server.base_dir / "output" / "loras" / "named").exists()
