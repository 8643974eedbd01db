"""CLIPs from disk. What their scores must be is worked out by the originals' arithmetic."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from judgekit.images import noisy_images
from judgekit.open_clip import CONTEXT, SIDE, OpenClip
from judgekit.tokenizers import clip_numbers, write_clip_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpo_core.judging.clip_pixels import ClipPixels
from dpo_core.judging.judge import JudgeError
from dpo_core.judging.open_clip_layout import from_open_clip, open_clip_config
from dpo_core.judging.reward_model import load_reward_model

IMAGES = noisy_images(3)
CAT = clip_numbers("cat</w>", "a</w>")
"""The prompt "cat a"."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a judge went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def original(tmp_path: Path) -> OpenClip:
    return OpenClip(write_clip_tokenizer(tmp_path))


@pytest.fixture
def folder(tmp_path: Path, original: OpenClip) -> Path:
    """The same CLIP as transformers keeps it."""
    return transformers_folder(tmp_path / "my clip", original)


def transformers_folder(folder: Path, original: OpenClip) -> Path:
    write_clip_tokenizer(folder)
    weights = {name: one.detach() for name, one in original.state_dict().items()}
    config = {"model_type": "clip", **open_clip_config(weights, "it")}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(from_open_clip(weights), folder / "model.safetensors")
    return folder


def cosines(original: OpenClip, tokens: list[int] = CAT, images: Any = IMAGES) -> Tensor:
    with torch.no_grad():
        return original.image_vectors(ClipPixels(SIDE)(images)) @ original.text_vector(tokens)


def rewritten(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


# Scores


def test_hps_is_a_hundred_times_the_cosine_of_its_open_clip(
    tmp_path: Path, original: OpenClip
) -> None:
    torch.save({"state_dict": original.state_dict()}, tmp_path / "HPS_v2.1_compressed.pt")
    judge = load_reward_model(tmp_path / "HPS_v2.1_compressed.pt")
    assert judge.name.startswith("HPSv2 (HPS_v2.1_compressed, ")
    wanted = (100 * cosines(original)).tolist()
    assert judge.score(IMAGES, "cat a") == pytest.approx(wanted, abs=1e-4)
    assert max(wanted) - min(wanted) > 1  # or the images could be exchanged unseen


def test_a_transformers_folder_scores_as_the_same_clip_times_its_own_scale(
    folder: Path, original: OpenClip
) -> None:
    scale = float(original.logit_scale.detach().exp())
    wanted = (scale * cosines(original)).tolist()
    assert load_reward_model(folder).score(IMAGES, "cat a") == pytest.approx(wanted, abs=1e-5)
    judge = load_reward_model(folder, "pickscore")
    assert judge.name.startswith("PickScore (my clip, ")
    assert judge.score(IMAGES, "cat a") == pytest.approx(wanted, abs=1e-5)


def test_a_folder_can_be_judged_on_the_scale_of_hps(folder: Path, original: OpenClip) -> None:
    found = load_reward_model(folder, "hpsv2").score(IMAGES, "cat a")
    assert found == pytest.approx((100 * cosines(original)).tolist(), abs=1e-4)


def test_a_prompt_is_cut_where_the_model_ends_and_still_ends(
    folder: Path, original: OpenClip
) -> None:
    found = load_reward_model(folder, "hpsv2").score(IMAGES, "cat " * 50)
    cut = clip_numbers(*["cat</w>"] * (CONTEXT - 2))
    assert found == pytest.approx((100 * cosines(original, cut)).tolist(), abs=1e-4)


def test_configurations_of_before_the_end_token_was_right_read_it_off_at_the_end(
    folder: Path, original: OpenClip
) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    rewritten(folder, text_config={**text, "eos_token_id": 2})
    found = load_reward_model(folder, "hpsv2").score(IMAGES, "cat a")
    assert found == pytest.approx((100 * cosines(original)).tolist(), abs=1e-4)


def test_many_images_are_scored_in_parts_to_the_same_scores(folder: Path) -> None:
    judge = load_reward_model(folder)
    images = noisy_images(19)
    alone = [judge.score([image], "dog")[0] for image in images]
    assert judge.score(images, "dog") == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_give_nearly_the_same_scores(
    folder: Path, original: OpenClip, dtype: torch.dtype
) -> None:
    found = load_reward_model(folder, "hpsv2", dtype=dtype).score(IMAGES, "cat a")
    assert found == pytest.approx((100 * cosines(original)).tolist(), abs=3)


# Files


@pytest.mark.parametrize("kept", ["bin", "shards", "wrapped", "older"])
def test_weights_are_the_same_however_they_are_kept(folder: Path, kept: str) -> None:
    wanted = load_reward_model(folder).score(IMAGES, "cat")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if kept == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif kept == "wrapped":
        wrapped = {f"module.{name}": one for name, one in weights.items()}
        torch.save({"state_dict": wrapped, "step": 4}, folder / "pytorch_model.bin")
    elif kept == "older":  # with tables of positions, and a scale of one dimension
        weights["text_model.embeddings.position_ids"] = torch.arange(CONTEXT)[None]
        weights["logit_scale"] = weights["logit_scale"].reshape(1)
        save_file(weights, folder / "model.safetensors")
    else:
        for number, names in enumerate((list(weights)[::2], list(weights)[1::2]), 1):
            part = {name: weights[name] for name in names}
            save_file(part, folder / f"model-0000{number}-of-00002.safetensors")
    found = load_reward_model(folder).score(IMAGES, "cat")
    assert found == pytest.approx(wanted, abs=1e-5)


def test_a_tokenizer_from_elsewhere_serves_weights_without_one(
    tmp_path: Path, original: OpenClip
) -> None:
    alone = tmp_path / "weights"
    alone.mkdir()
    torch.save(original.state_dict(), alone / "hps.pt")
    with pytest.raises(JudgeError, match=r"hps\.pt has no tokenizer.*vocab\.json and merges\.txt"):
        load_reward_model(alone / "hps.pt")
    found = load_reward_model(alone / "hps.pt", clip_tokenizer=tmp_path).score(IMAGES, "cat a")
    assert found == pytest.approx((100 * cosines(original)).tolist(), abs=1e-4)


def test_names_tell_weights_of_one_file_name_apart(folder: Path) -> None:
    before = load_reward_model(folder).name
    assert load_reward_model(folder).name == before
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] += 1
    save_file(weights, folder / "model.safetensors")
    assert load_reward_model(folder).name != before


def test_a_judge_moves_and_says_how_large_it_is(folder: Path) -> None:
    judge = load_reward_model(folder, dtype=torch.bfloat16)
    count = sum(one.numel() for one in load_file(folder / "model.safetensors").values())
    assert judge.nbytes == 2 * count
    judge.to("meta")
    assert judge.device.type == "meta"


def test_a_judge_loaded_under_inference_mode_works_on_outside_of_it(folder: Path) -> None:
    with torch.inference_mode():
        judge = load_reward_model(folder)
        inside = judge.score(IMAGES, "cat")
        judge.to("cpu")
    judge.to("cpu")
    assert judge.score(IMAGES, "cat") == pytest.approx(inside, abs=1e-5)


# The sizes of ViT-H, which HPSv2 is


def test_the_sizes_of_vit_h_are_read_off_its_shapes() -> None:
    with torch.device("meta"):
        weights = {
            "visual.conv1.weight": torch.empty(1280, 3, 14, 14),
            "visual.positional_embedding": torch.empty(257, 1280),
            "visual.proj": torch.empty(1280, 1024),
            "positional_embedding": torch.empty(77, 1024),
            "text_projection": torch.empty(1024, 1024),
            "token_embedding.weight": torch.empty(49408, 1024),
        }
        for i in range(32):
            name = f"visual.transformer.resblocks.{i}.mlp.c_fc.weight"
            weights[name] = torch.empty(5120, 1280)
        for i in range(24):
            weights[f"transformer.resblocks.{i}.mlp.c_fc.weight"] = torch.empty(4096, 1024)
    config = open_clip_config(weights, "it")
    # As LAION publishes CLIP-ViT-H-14 for transformers.
    assert config["projection_dim"] == 1024
    assert config["vision_config"] == {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
        "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "hidden_act": "gelu",
    }  # fmt: skip
    assert config["text_config"] == {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "max_position_embeddings": 77, "vocab_size": 49408,
        "hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407,
    }  # fmt: skip


def test_sizes_that_exist_with_two_activations_are_refused(
    tmp_path: Path, original: OpenClip
) -> None:
    weights = original.state_dict() | {"visual.conv1.weight": torch.empty(1024, 3, 14, 14)}
    torch.save(weights, tmp_path / "clip_l.pt")
    with pytest.raises(JudgeError, match="1024 channels, which exists with two activations"):
        load_reward_model(tmp_path / "clip_l.pt")


# What is refused


def test_weights_missing_left_over_and_of_another_shape_are_named_together(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["vision_model.encoder.layers.1.mlp.fc1.weight"]
    weights["somebody.elses"] = torch.zeros(2)
    weights["text_projection.weight"] = torch.zeros(3, 5)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(JudgeError) as caught:
        load_reward_model(folder)
    message = str(caught.value)
    assert "missing: vision_model.encoder.layers.1.mlp.fc1.weight" in message
    assert "unknown: somebody.elses" in message
    assert "of another shape: text_projection.weight is 3 x 5, not 24 x 64" in message


@pytest.mark.parametrize(
    "name", ["visual.transformer.resblocks.0.attn.in_proj_bias", "ln_final.weight", "logit_scale"]
)
def test_an_open_clip_file_without_a_weight_is_refused(
    tmp_path: Path, original: OpenClip, name: str
) -> None:
    weights = original.state_dict()
    del weights[name]
    torch.save(weights, tmp_path / "hps.pt")
    with pytest.raises(JudgeError, match="missing: "):
        load_reward_model(tmp_path / "hps.pt")


def test_an_open_clip_file_without_a_weight_that_tells_sizes_says_so(
    tmp_path: Path, original: OpenClip
) -> None:
    weights = original.state_dict()
    del weights["visual.proj"]
    torch.save(weights, tmp_path / "hps.pt")
    with pytest.raises(JudgeError, match=r"lacks visual\.proj\. Get the file again"):
        load_reward_model(tmp_path / "hps.pt")


def test_a_file_that_would_run_programs_runs_none(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trace),)

    torch.save({"state_dict": {}, "extra": Trap()}, tmp_path / "evil.pt")
    with pytest.raises(JudgeError, match=r"evil\.pt holds more than weights"):
        load_reward_model(tmp_path / "evil.pt")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.safetensors", b"\x08", r"a\.safetensors cannot be read"),
        ("a.pt", b"", r"a\.pt cannot be read"),
        ("a.pt", b"not a checkpoint", r"a\.pt (cannot be read|holds more than weights)"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(JudgeError, match=message):
        load_reward_model(tmp_path / file)


def test_what_lies_at_a_path_is_said_when_it_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="There is nothing at"):
        load_reward_model(tmp_path / "gone")
    with pytest.raises(JudgeError, match="lie no weights"):
        load_reward_model(tmp_path)
    save_file({"model.diffusion_model.out.weight": torch.zeros(2)}, tmp_path / "sd.safetensors")
    with pytest.raises(JudgeError, match=r"no judge that is known.*model\.diffusion_model\.out"):
        load_reward_model(tmp_path / "sd.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(JudgeError, match=r"several models \(b\.safetensors, sd\.safetensors\)"):
        load_reward_model(tmp_path)


def test_a_folder_of_another_model_is_refused(folder: Path) -> None:
    rewritten(folder, model_type="siglip")
    with pytest.raises(JudgeError, match="'siglip', not clip"):
        load_reward_model(folder)


def test_a_configuration_that_makes_no_sense_is_refused(folder: Path) -> None:
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    rewritten(folder, vision_config={**vision, "hidden_act": "sorcery"})
    with pytest.raises(JudgeError, match="No network can be made of the sizes"):
        load_reward_model(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(JudgeError, match=r"config\.json cannot be read"):
        load_reward_model(folder)


def test_a_kind_that_the_weights_are_not_is_refused(folder: Path) -> None:
    with pytest.raises(JudgeError, match="is CLIP, of which no judge of the kind imagereward"):
        load_reward_model(folder, "imagereward")
    with pytest.raises(JudgeError, match="no judge of the kind 'best'"):
        load_reward_model(folder, "best")


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    known = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**known, "extra": len(known)}))
    with pytest.raises(JudgeError, match="is not that of .*my clip: it knows 59 tokens"):
        load_reward_model(folder)


def test_a_tokenizer_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "vocab.json").write_text("{")
    with pytest.raises(JudgeError, match="The tokenizer in .*my clip cannot be read"):
        load_reward_model(folder)
