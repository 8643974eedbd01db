"""ImageReward from disk, against its authors' arithmetic in plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from judgekit.image_reward import SIDE, ImageReward
from judgekit.images import noisy_images
from judgekit.tokenizers import bert_numbers, write_bert_tokenizer, write_clip_tokenizer

from dpo_core.judging.blip_layout import blip_configs
from dpo_core.judging.clip_pixels import ClipPixels
from dpo_core.judging.judge import JudgeError
from dpo_core.judging.reward_model import load_reward_model

IMAGES = noisy_images(3)


@pytest.fixture
def original(tmp_path: Path) -> ImageReward:
    # Two more than the tokenizer's, as BLIP adds two of its own to BERT's.
    network = ImageReward(write_bert_tokenizer(tmp_path) + 2)
    torch.save(network.state_dict(), tmp_path / "ImageReward.pt")
    return network


def scores(original: ImageReward, tokens: list[int]) -> list[float]:
    with torch.no_grad():
        return original(ClipPixels(SIDE)(IMAGES), tokens).tolist()


def test_scores_are_those_of_the_original(tmp_path: Path, original: ImageReward) -> None:
    wanted = scores(original, bert_numbers("a", "red", "cat", "##s"))
    judge = load_reward_model(tmp_path / "ImageReward.pt")
    assert judge.name.startswith("ImageReward (ImageReward, ")
    assert judge.score(IMAGES, "A red cats") == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) - min(wanted) > 0.01  # or the images could be exchanged unseen
    assert judge.score(IMAGES, "dog") != pytest.approx(wanted, abs=1e-3)  # the prompt counts


def test_a_prompt_is_cut_to_thirty_five_tokens(tmp_path: Path, original: ImageReward) -> None:
    wanted = scores(original, bert_numbers(*["cat"] * 33))
    found = load_reward_model(tmp_path).score(IMAGES, "cat " * 60)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_many_images_are_scored_in_parts_to_the_same_scores(
    tmp_path: Path, original: ImageReward
) -> None:
    judge = load_reward_model(tmp_path)
    images = noisy_images(17)
    alone = [judge.score([image], "dog")[0] for image in images]
    assert judge.score(images, "dog") == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_give_nearly_the_same_scores(
    tmp_path: Path, original: ImageReward, dtype: torch.dtype
) -> None:
    wanted = scores(original, bert_numbers("dog"))
    found = load_reward_model(tmp_path, dtype=dtype).score(IMAGES, "dog")
    assert found == pytest.approx(wanted, abs=0.05)


def test_it_moves_with_both_of_its_encoders(tmp_path: Path, original: ImageReward) -> None:
    judge = load_reward_model(tmp_path)
    encoders = [original.blip.visual_encoder, original.blip.text_encoder]
    assert judge.nbytes == 4 * sum(p.numel() for one in encoders for p in one.parameters())
    judge.to("meta")
    assert judge.device.type == "meta"


def test_the_sizes_of_blip_large_are_read_off_its_shapes() -> None:
    with torch.device("meta"):
        weights = {
            "visual_encoder.patch_embed.proj.weight": torch.empty(1024, 3, 16, 16),
            "visual_encoder.pos_embed": torch.empty(1, 197, 1024),
            "text_encoder.embeddings.word_embeddings.weight": torch.empty(30524, 768),
            "text_encoder.embeddings.position_embeddings.weight": torch.empty(512, 768),
        }
        for i in range(24):
            weights[f"visual_encoder.blocks.{i}.mlp.fc1.weight"] = torch.empty(4096, 1024)
        for i in range(12):
            name = f"text_encoder.encoder.layer.{i}.intermediate.dense.weight"
            weights[name] = torch.empty(3072, 768)
    vision, text = blip_configs(weights, "it")
    assert (vision["num_hidden_layers"], vision["num_attention_heads"]) == (24, 16)
    assert (vision["image_size"], vision["patch_size"]) == (224, 16)
    assert (vision["hidden_size"], vision["intermediate_size"]) == (1024, 4096)
    assert (text["num_hidden_layers"], text["num_attention_heads"]) == (12, 12)
    assert (text["hidden_size"], text["intermediate_size"]) == (768, 3072)
    assert (text["vocab_size"], text["max_position_embeddings"]) == (30524, 512)
    assert text["encoder_hidden_size"] == 1024


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blip.visual_encoder.blocks.1.attn.qkv.bias", "missing: encoder.layers.1.self_attn.qkv"),
        ("blip.text_encoder.encoder.layer.1.crossattention.self.key.weight", "missing: encoder"),
        ("blip.text_encoder.embeddings.word_embeddings.weight", "lacks text_encoder.embeddings"),
        ("mlp.layers.3.bias", "no aesthetic head"),
    ],
)
def test_a_file_without_a_weight_is_refused(
    tmp_path: Path, original: ImageReward, name: str, message: str
) -> None:
    weights = original.state_dict()
    del weights[name]
    torch.save(weights, tmp_path / "ImageReward.pt")
    with pytest.raises(JudgeError, match=message):
        load_reward_model(tmp_path)


def test_without_its_tokenizer_it_is_refused(tmp_path: Path, original: ImageReward) -> None:
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(JudgeError, match=r"has no tokenizer.*vocab\.txt, or tokenizer\.json"):
        load_reward_model(tmp_path, clip_tokenizer=tmp_path)
    write_clip_tokenizer(tmp_path / "clip")
    with pytest.raises(JudgeError, match="has no tokenizer"):
        load_reward_model(tmp_path, clip_tokenizer=tmp_path / "clip")
