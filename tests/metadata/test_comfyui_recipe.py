from __future__ import annotations

from typing import Any

import pytest

from dpo_core.metadata.comfyui_recipe import Recipe, model_recipe


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def drawn(**changes: dict[str, Any]) -> dict[str, Any]:
    """A LoRA trained on what was ranked, applied, and drawn with; `changes` by node."""
    graph = {
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["file", 2]),
        "sampler": node("KSampler", model=["applied", 0], positive=["text", 0], seed=1, steps=20),
        "text": node("CLIPTextEncode", clip=["file", 1], text="a cat"),
        "applied": node("LoraModelLoader", model=["loader", 0], lora=["steps", 1],
                        strength_model=1.0),
        "loader": node("LoraLoader", model=["file", 0], clip=["file", 1],
                       lora_name="one.safetensors", strength_model=1.0, strength_clip=1.0),
        "file": node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
        "steps": node("DPOTrainSteps", trainer=["trainer", 0], steps=40),
        "trainer": node("DPOTrainer", model=["file", 0], dataset=["dataset", 0], rank=8,
                        preview=["shown", 0]),
        "shown": node("DPOPreview", seed=3),
        "dataset": node("DPOEncodePairs", pairs=["rank", 0], vae=["file", 2], clip=["file", 1]),
        "rank": node("DPORankImages", images=["other", 0], session="cats", ranking={"set_id": "1"}),
        "other": node("LoadImage", image="a.png"),
    }  # fmt: skip
    return {name: {**one, "inputs": one["inputs"] | changes.get(name, {})}
            for name, one in graph.items()}  # fmt: skip


def recipe(graph: dict[str, Any]) -> Recipe:
    return model_recipe(graph, ["decode", 0])


@pytest.mark.parametrize(
    "change",
    [
        {"steps": {"steps": 80}}, {"trainer": {"rank": 16}}, {"rank": {"session": "dogs"}},
        {"loader": {"strength_clip": 0.5}}, {"loader": {"lora_name": "two.safetensors"}},
        {"applied": {"strength_model": 0.5}}, {"applied": {"lora": ["nowhere", 0]}},
        {"file": {"ckpt_name": "xl.safetensors"}}, {"sampler": {"model": ["loader", 0]}},
    ],
)  # fmt: skip
def test_what_the_model_is_made_of_tells_recipes_apart(change: dict[str, Any]) -> None:
    assert recipe(drawn(**change)).nodes != recipe(drawn()).nodes


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": {"seed": 2}}, {"text": {"text": "a dog"}}, {"shown": {"seed": 4}},
        {"other": {"image": "b.png"}}, {"rank": {"ranking": {"set_id": "2"}}},
    ],
)  # fmt: skip
def test_what_is_drawn_and_shown_is_no_part_of_it(change: dict[str, Any]) -> None:
    assert recipe(drawn(**change)) == recipe(drawn())


def test_ids_order_and_reroutes_do_not_matter() -> None:
    graph = drawn(applied={"lora": ["way", 0]}) | {"way": node("Reroute", any=["steps", 1])}
    assert recipe(dict(reversed(graph.items()))) == recipe(drawn())


def test_files_and_what_makes_a_lora_are_named() -> None:
    found = recipe(drawn())
    assert found.files == (("lora_name", "one.safetensors"), ("ckpt_name", "sd.safetensors"))
    assert found.makers == ("DPOTrainSteps",)
    loaded = drawn(steps={"lora_name": "two.safetensors"})
    assert recipe(loaded).makers == ()


def test_hostile_and_missing_graphs_have_no_recipe() -> None:
    assert model_recipe(None, ["x", 0]) == model_recipe(drawn(), None) == Recipe((), (), ())
    circle = {
        "sampler": node("KSampler", model=["a", 0], positive=["a", 0], seed=1),
        "a": node("A", model=["b", 0]),
        "b": node("B", model=["a", 0], lora=["b", 0]),
    }
    assert [one["class_type"] for one in model_recipe(circle, ["sampler", 0]).nodes] == ["A", "B"]
