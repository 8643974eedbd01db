"""Judges made of ComfyUI's own models, and of weights on disk."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.model_management
import comfy.text_encoders.flux
import folder_paths
import numpy as np
import pytest
import torch
from hostkit.tiny_judges import (
    SIZE,
    text_config,
    tiny_clip,
    tiny_clip_vision,
    tiny_language_model,
    tiny_sdxl_clip,
    vision_config,
)
from hostkit.training import pack_module
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

similarity = pack_module("nodes.host.judges.clip_similarity")
aesthetic = pack_module("nodes.host.judges.aesthetic_judge")
language = pack_module("nodes.host.judges.vision_language_judge")
rewards = pack_module("nodes.host.judges.reward_judge")
files = pack_module("nodes.host.judges.judge_files")
registered = pack_module("nodes.host.judges.registered_judges")
JudgeError = pack_module("dpo_core.judging.judge").JudgeError

PROMPT = "a (red:1.4) cat"


@pytest.fixture(autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def colours(count: int) -> list[np.ndarray]:
    """Images that even a random model tells apart."""
    draw = np.random.default_rng(0)
    return [np.full((64, 64, 3), draw.integers(0, 256, 3), np.uint8) for _ in range(count)]


def transformers_text(clip: Any, name: str, width: int, layers: int, **config: Any) -> Any:
    """The same text model, as another library has it."""
    given = CLIPTextConfig(
        **text_config(width, layers), projection_dim=width, eos_token_id=49407, **config
    )
    model = CLIPTextModelWithProjection(given).eval()
    model.load_state_dict(getattr(clip.cond_stage_model, name).transformer.state_dict())
    return model


def transformers_scores(text_model: Any, tokens: list[int], vision: Any) -> list[float]:
    """100 times the cosines, from pictures of the model's own size, normalised by hand."""
    seeing = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**vision_config(vision.model.visual_projection.out_features))
    ).eval()
    seeing.load_state_dict(vision.model.state_dict())
    text = text_model(torch.tensor([tokens])).text_embeds
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.stack([torch.from_numpy(one) / 255 for one in pictures(2)])
    embeds = seeing(((pixels - mean) / deviation).movedim(-1, 1)).image_embeds
    return (100 * torch.cosine_similarity(text, embeds)).tolist()


def test_similarity_is_what_transformers_makes_of_the_same_weights() -> None:
    clip, vision = tiny_clip(), tiny_clip_vision()
    tokens = [token for token, _ in clip.tokenize(PROMPT)["l"][0]]
    other = transformers_text(clip, "clip_l", 16, 1, hidden_act="quick_gelu")
    wanted = transformers_scores(other, tokens, vision)
    assert abs(wanted[0] - wanted[1]) > 0.1
    judge = similarity.ClipSimilarity(clip, vision)
    assert judge.score(pictures(2), PROMPT) == pytest.approx(wanted, abs=1e-3)
    # The text encoder is left as it was for whoever encodes prompts with it.
    assert clip.cond_stage_model.clip_l.return_projected_pooled is False


def test_of_two_text_models_the_one_of_the_vision_models_width_is_taken() -> None:
    clip, vision = tiny_sdxl_clip(16, 24), tiny_clip_vision(24)
    tokens = [token for token, _ in clip.tokenize(PROMPT)["g"][0]]
    tokens = tokens[: tokens.index(49407) + 1]  # padded with zeros, which transformers would read
    other = transformers_text(clip, "clip_g", 24, 3, hidden_act="gelu")
    wanted = transformers_scores(other, tokens, vision)
    judge = similarity.ClipSimilarity(clip, vision)
    assert judge.score(pictures(2), PROMPT) == pytest.approx(wanted, abs=1e-3)


def test_images_of_any_size_are_scored() -> None:
    judge = similarity.ClipSimilarity(tiny_clip(), tiny_clip_vision())
    scores = judge.score([*pictures(1, 50, 70), *pictures(1, 20, 20)], PROMPT)
    assert len(scores) == 2 and all(-100 <= one <= 100 for one in scores)


def test_equal_models_have_equal_names_and_others_do_not() -> None:
    name = similarity.ClipSimilarity(tiny_clip(), tiny_clip_vision()).name
    assert similarity.ClipSimilarity(tiny_clip(), tiny_clip_vision()).name == name
    assert similarity.ClipSimilarity(tiny_clip(seed=1), tiny_clip_vision()).name != name
    assert similarity.ClipSimilarity(tiny_clip(), tiny_clip_vision(seed=1)).name != name


@pytest.mark.parametrize(
    ("clip", "vision", "said"),
    [
        (lambda: tiny_clip(24), tiny_clip_vision, "is 24 numbers wide, the image embedding 16"),
        (tiny_clip, lambda: tiny_clip_vision(projection=False), "clip_vision has no projection"),
        (lambda: tiny_clip(projection=False), tiny_clip_vision, "lacks the text projection"),
        (lambda: tiny_sdxl_clip(16, 24), tiny_clip_vision, "lacks the text projection"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(clip: Any, vision: Any, said: str) -> None:
    with pytest.raises(JudgeError, match=said):
        similarity.ClipSimilarity(clip(), vision())


def test_a_projection_that_was_never_written_is_told_from_a_real_one(tmp_path: Path) -> None:
    clip = tiny_clip()
    (part,) = similarity.text_parts(clip)
    weight = part.model.transformer.text_projection.weight
    assert similarity.has_projection(clip, part)
    path = tmp_path / "clip_l.safetensors"
    clip.patcher.cached_patcher_init = (None, ([str(path)], None))
    save_file({"text_model.a": torch.zeros(16, 16)}, path)
    assert not similarity.has_projection(clip, part)
    save_file({"text_projection.weight": torch.zeros(16, 16)}, path)
    assert similarity.has_projection(clip, part)
    for unwritten in (torch.eye(16), torch.full((16, 16), float("nan")), torch.zeros(16, 16)):
        weight.copy_(unwritten)
        assert not similarity.has_projection(clip, part)


def test_an_aesthetic_head_scores_the_unit_vector_of_what_the_vision_model_sees(
    tmp_path: Path,
) -> None:
    vision, path = tiny_clip_vision(), tmp_path / "head.pth"
    weight = torch.arange(16.0)[None]
    torch.save({"weight": weight, "bias": torch.tensor([5.0])}, path)
    judge = aesthetic.ClipVisionAesthetic(path, vision)
    (image,) = pictures(1)
    seen = vision.encode_image(torch.from_numpy(image)[None] / 255)["image_embeds"][0]
    wanted = 5 + (weight[0] * seen).sum() / seen.square().sum().sqrt()
    assert judge.score([image], "") == pytest.approx([wanted.item()], abs=1e-4)
    with pytest.raises(JudgeError, match="takes CLIP vectors of 16 numbers, not of 24"):
        aesthetic.ClipVisionAesthetic(path, tiny_clip_vision(24))
    with pytest.raises(JudgeError, match="clip_vision has no projection"):
        aesthetic.ClipVisionAesthetic(path, tiny_clip_vision(projection=False))


@pytest.fixture(scope="module")
def writer() -> Iterator[Any]:
    with tiny_language_model() as clip:
        yield clip


@pytest.fixture
def vocabulary(writer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes the model answer with one of two words, which of them depends on what it sees."""
    monkeypatch.setattr(language, "MAX_TOKENS", 1)
    weight = writer.cond_stage_model.qwen3vl_4b.transformer.model.embed_tokens.weight
    before = weight.clone()

    def limit(*words: str) -> None:
        weight.copy_(before * 1e-3)
        for word, sign in zip(words, (1, -1), strict=True):
            (token,) = writer.tokenizer.qwen3vl_4b.tokenizer(word)["input_ids"]
            weight[token] = sign * before[0]

    yield limit
    weight.copy_(before)


def test_a_language_model_that_takes_two_images_sees_two(writer: Any) -> None:
    one, other = (torch.rand(1, 64, 64, 3) for _ in range(2))
    tokens = language._tokens_of_two(writer, "Which?", one, other)
    seen = [head["data"] for head, _ in tokens["qwen3vl_4b"][0] if isinstance(head, dict)]
    assert [torch.equal(a, b) for a, b in zip(seen, (one, other), strict=True)] == [True, True]


def test_images_of_two_sizes_lie_side_by_side_in_one_picture(writer: Any) -> None:
    small, large = torch.zeros(1, 64, 32, 3), torch.full((1, 160, 64, 3), 0.5)
    tokens = language._tokens_of_two(writer, "Which?", small, large)
    (picture,) = [head["data"] for head, _ in tokens["qwen3vl_4b"][0] if isinstance(head, dict)]
    assert picture.shape == (1, 160, 32 + 10 + 64, 3)
    assert (picture[:, 48:112, :32] == 0).all() and (picture[:, :48, :32] == 1).all()
    assert (picture[:, :, 32:42] == 1).all() and (picture[:, :, 42:] == 0.5).all()
    heads = [head for head, _ in tokens["qwen3vl_4b"][0] if not isinstance(head, dict)]
    assert "the first on the left" in writer.decode(heads)


def test_comparisons_follow_what_the_model_answers(writer: Any, vocabulary: Any) -> None:
    vocabulary("first", "second")
    asked = language._Interview("a judge", writer, "Which is better?")
    images = colours(6)
    said = [asked.prefer(first, second, "") for first, second in pairwise(images)]
    assert set(said) == {0.0, 1.0}
    judge = language.VisionLanguageJudge(writer, True)
    scores = judge.score(images[:3], PROMPT)
    assert len(set(scores)) > 1 and sum(scores) == pytest.approx(0, abs=1e-6)
    assert judge.score(images[2::-1], PROMPT) == scores[::-1]


def test_points_are_scores(writer: Any, vocabulary: Any) -> None:
    vocabulary("7", "3")
    scores = language.VisionLanguageJudge(writer, False).score(colours(6), PROMPT)
    assert set(scores) == {7.0, 3.0}


def test_unclear_answers_are_ties_unless_all_are(
    writer: Any, vocabulary: Any, caplog: pytest.LogCaptureFixture
) -> None:
    judge = language.VisionLanguageJudge(writer, False, "How many points for {prompt}?")
    vocabulary("7", "cat")
    with caplog.at_level(logging.WARNING):
        assert set(judge.score(colours(6), PROMPT)) == {7.0}
    assert "could not be read and count as ties, such as 'cat'" in caplog.text
    vocabulary("dog", "cat")
    for two_at_a_time in (True, False):
        judge = language.VisionLanguageJudge(writer, two_at_a_time)
        with pytest.raises(JudgeError, match="no answer that can be read. It said: '(cat|dog)'"):
            judge.score(colours(2), PROMPT)


def test_who_cannot_write_or_see_is_no_judge(
    writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JudgeError, match="clip cannot write text. Load a language model"):
        language.VisionLanguageJudge(tiny_clip(), True)
    monkeypatch.setattr(writer, "tokenizer", comfy.text_encoders.flux.KleinTokenizer())
    with pytest.raises(JudgeError, match="can write text, but sees no images"):
        language.VisionLanguageJudge(writer, True)


def test_a_language_model_is_no_clip_to_compare_with(writer: Any) -> None:
    with pytest.raises(JudgeError, match="clip holds no CLIP text model"):
        similarity.ClipSimilarity(writer, tiny_clip_vision())


@pytest.fixture
def judges_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "judges", ([str(tmp_path)], set()))
    return tmp_path


def save_clip(folder: Path, seed: int) -> Path:
    """A CLIP as transformers saves it, without a tokenizer."""
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=text_config(16) | {"eos_token_id": 49407},
        vision_config=vision_config(16), projection_dim=16,
    )  # fmt: skip
    with torch.inference_mode(False):
        CLIPModel(config).save_pretrained(folder)
    return folder


def test_weights_are_files_and_folders_below_models_judges(judges_folder: Path) -> None:
    for name in ("a.safetensors", "more/b.pt", "c.txt", ".hidden/d.pt", "e/config.json", "e/f.pt"):
        path = judges_folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert list(files.judge_weights()) == ["a.safetensors", "e", "more/b.pt"]
    assert "../a.safetensors" not in files.judge_weights()


def test_a_reward_model_is_loaded_once_as_long_as_its_files_stay(
    judges_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_clip(judges_folder / "pick", 0)
    judge = rewards.RewardJudge(path)
    scores = judge.score(pictures(6), PROMPT)
    # In batches as in one go.
    assert scores == pytest.approx(judge._model.score(pictures(6), PROMPT), abs=1e-4)
    assert len(set(scores)) == 6
    assert rewards.RewardJudge(path)._model is judge._model
    facts = files.weights_fingerprint("pick")
    save_clip(path, 1)
    os.utime(path / "model.safetensors", ns=(1, 1))
    assert files.weights_fingerprint("pick") != facts
    other = rewards.RewardJudge(path)
    assert other.name != judge.name
    assert other.score(pictures(2), PROMPT) != pytest.approx(scores[:2], abs=1e-4)


def test_a_reward_model_is_on_the_card_only_while_it_judges(
    judges_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = rewards.RewardJudge(save_clip(judges_folder / "pick", 0))
    moves: list[Any] = []
    management = comfy.model_management
    monkeypatch.setattr(management, "text_encoder_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(management, "free_memory", lambda size, device: moves.append(size))
    monkeypatch.setattr(judge._model, "to", lambda device: moves.append(str(device)))
    monkeypatch.setattr(judge._model, "score", lambda images, prompt: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge.score(pictures(2), PROMPT)
    assert moves == [judge._model.nbytes + management.minimum_inference_memory(), "cuda", "cpu"]


def test_an_aesthetic_head_is_told_from_a_reward_model(judges_folder: Path) -> None:
    path = judges_folder / "head.pth"
    torch.save({"weight": torch.ones(1, 768), "bias": torch.ones(1)}, path)
    with pytest.raises(JudgeError, match="Choose the kind aesthetic and connect clip_vision"):
        rewards.RewardJudge(path)


@pytest.mark.parametrize("kind", ["similarity", "reward", "points", "pairs", "aesthetic"])
def test_every_judge_obeys_stop(kind: str, writer: Any, judges_folder: Path) -> None:
    torch.save({"weight": torch.ones(1, 16), "bias": torch.ones(1)}, judges_folder / "head.pt")
    judge = {
        "similarity": lambda: similarity.ClipSimilarity(tiny_clip(), tiny_clip_vision()),
        "reward": lambda: rewards.RewardJudge(save_clip(judges_folder / "pick", 0)),
        "points": lambda: language.VisionLanguageJudge(writer, False),
        "pairs": lambda: language.VisionLanguageJudge(writer, True),
        "aesthetic": lambda: aesthetic.ClipVisionAesthetic(
            judges_folder / "head.pt", tiny_clip_vision()
        ),
    }[kind]()
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        judge.score(pictures(2), PROMPT)


def always(images: Sequence[Any], prompt: str) -> list[float]:
    return [1.0 for _ in images]


def declare(path: Path, monkeypatch: pytest.MonkeyPatch, judges: Any) -> None:
    """A module as ComfyUI has loaded it."""
    module = ModuleType(str(path))
    module.__dict__.update({"__file__": str(path), "DPO_JUDGES": judges})
    monkeypatch.setitem(sys.modules, str(path), module)


def test_judges_are_found_in_the_first_file_of_every_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = folder_paths.folder_names_and_paths
    monkeypatch.setitem(folders, "custom_nodes", ([str(tmp_path)], set()))
    declare(tmp_path / "one" / "__init__.py", monkeypatch, {"mine": always, "alike": always})
    declare(tmp_path / "two" / "__init__.py", monkeypatch, {"alike": always, "none": 7})
    declare(tmp_path / "single.py", monkeypatch, {"of a file": always})
    declare(tmp_path / "one" / "inner" / "__init__.py", monkeypatch, {"too deep": always})
    declare(tmp_path.parent / "elsewhere" / "__init__.py", monkeypatch, {"outside": always})
    declare(tmp_path / "odd" / "__init__.py", monkeypatch, "not a dictionary")
    assert list(registered.registered_judges()) == [
        "alike (one)", "alike (two)", "mine", "of a file",
    ]  # fmt: skip


def test_a_judges_source_is_its_file() -> None:
    class Callable:
        def __call__(self, images: Any, prompt: str) -> list[float]:
            return []

    assert registered.source_digest(always) == registered.source_digest(Callable())
    assert registered.source_digest(len) is None
