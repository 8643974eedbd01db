"""Pairs from wherever they come: folders, single images, batches and the lists of core's nodes.

What a trainer will learn from is in its run's id, which is a digest of latents and conditioning:
the same id, the same pairs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hostkit.pair_folder import PROMPTS, write_pair, write_pairs
from hostkit.server import ComfyServer
from hostkit.workflows import (
    Prompt,
    encoded_folder,
    encoding,
    node,
    objective,
    train_steps,
    trainer,
)

ONE_PROMPT = PROMPTS[0]


@pytest.fixture(scope="module", autouse=True)
def folders(comfy_server: ComfyServer) -> None:
    """`lists`: three pairs of one size; `sizes`: three pairs of three; both with prompts."""
    folder = comfy_server.base_dir / "input"
    write_pairs(folder / "lists", 3)
    for i, size in enumerate([(32, 32), (48, 32), (32, 40)]):
        write_pair(folder / "sizes", str(i), i, size, PROMPTS[i % 2])
    # Core's list of images and texts wants each side's captions beside its images.
    for name in ("lists", "sizes"):
        for caption in (folder / name / "chosen").glob("*.txt"):
            (folder / name / "rejected" / caption.name).write_text(caption.read_text())


def start(checkpoint: str) -> Prompt:
    return {"checkpoint": node("CheckpointLoaderSimple", ckpt_name=checkpoint)}


def from_images(prompt: Any, chosen: list[Any], rejected: list[Any]) -> Prompt:
    return {
        "pairs": node("DPOPairsFromImages", chosen=chosen, rejected=rejected, prompt=prompt),
        "dataset": encoding(["pairs", 0]),
    }


def core_folder(side: str, folder: str) -> Prompt:
    """Core's lists of images and texts of one side of a pair folder."""
    return {side: node("LoadImageTextDataSetFromFolder", folder=f"{folder}/{side}")}


def learned_from(server: ComfyServer, prompt: Prompt) -> tuple[int, str]:
    """Number of pairs and run id of a trainer on `dataset`; nothing is trained."""
    prompt = prompt | {
        "trainer": trainer(),
        "steps": train_steps("trainer", 1, min_pairs=1000),
    }
    result = server.queue(prompt)
    assert (result.status, result.error) == ("success", "")
    match = re.fullmatch(r"(\d+) pairs, run ([0-9a-f]{20})", result.outputs["trainer"]["text"][0])
    assert match is not None
    return int(match[1]), match[2]


def in_order(server: ComfyServer, folder: str, checkpoint: str) -> Prompt:
    """Single pairs made in the order in which core's list gives them, joined one by one."""
    images = server.base_dir / "input" / folder / "chosen"
    names = sorted(path.stem for path in images.glob("*.png"))
    prompt = start(checkpoint)
    for i, name in enumerate(names):
        for side in ("chosen", "rejected"):
            prompt[f"{side}_{i}"] = node("LoadImage", image=f"{folder}/{side}/{name}.png")
        text = (images / f"{name}.txt").read_text()
        single = from_images(text, [f"chosen_{i}", 0], [f"rejected_{i}", 0])
        prompt[f"pairs_{i}"] = single["pairs"]
        if i:
            before = "pairs_0" if i == 1 else f"joined_{i - 1}"
            prompt[f"joined_{i}"] = node(
                "DPOJoinPairs", pairs_a=[before, 0], pairs_b=[f"pairs_{i}", 0]
            )
    prompt["dataset"] = encoding([f"joined_{len(names) - 1}", 0])
    return prompt


def test_single_images_give_the_pairs_of_the_folder(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    for folder in ("lists", "sizes"):
        expected = learned_from(comfy_server, encoded_folder(sd15_checkpoint.name, folder))
        singles = learned_from(comfy_server, in_order(comfy_server, folder, sd15_checkpoint.name))
        assert expected[0] == 3 and singles == expected


def test_a_batch_under_one_prompt_gives_as_many_pairs(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    batched = start(sd15_checkpoint.name)
    for side in ("chosen", "rejected"):
        for i in range(3):
            batched[f"{side}_{i}"] = node("LoadImage", image=f"lists/{side}/{i}.png")
        batched[f"{side}_01"] = node("ImageBatch", image1=[f"{side}_0", 0], image2=[f"{side}_1", 0])
        batched[f"{side}_all"] = node(
            "ImageBatch", image1=[f"{side}_01", 0], image2=[f"{side}_2", 0]
        )
    batched |= from_images(ONE_PROMPT, ["chosen_all", 0], ["rejected_all", 0])
    count, run = learned_from(comfy_server, batched)
    assert count == 3

    # The same as a list of prompts, one for every pair; and not the same with another one.
    for last, same in ((ONE_PROMPT, True), (PROMPTS[1], False)):
        batched["texts"] = node("TestListedText", lines=f"{ONE_PROMPT}\n{ONE_PROMPT}\n{last}")
        batched["pairs"]["inputs"]["prompt"] = ["texts", 0]
        assert (learned_from(comfy_server, batched)[1] == run) is same


@pytest.mark.parametrize("folder", ["lists", "sizes"])
def test_cores_lists_of_images_and_texts_give_the_pairs_of_the_folder(
    comfy_server: ComfyServer, sd15_checkpoint: Path, folder: str
) -> None:
    listed = start(sd15_checkpoint.name)
    listed |= core_folder("chosen", folder) | core_folder("rejected", folder)
    listed |= from_images(["chosen", 1], ["chosen", 0], ["rejected", 0])
    count, run = learned_from(comfy_server, listed)
    assert count == 3

    # Core's other folder node gives the images alone.
    bare = listed | {
        side: node("LoadImageDataSetFromFolder", folder=f"{folder}/{side}")
        for side in ("chosen", "rejected")
    }
    bare["texts"] = listed["chosen"]
    bare["pairs"] = node(
        "DPOPairsFromImages", chosen=["chosen", 0], rejected=["rejected", 0], prompt=["texts", 1]
    )
    assert learned_from(comfy_server, bare) == (count, run)


@pytest.mark.parametrize("folder", ["lists", "sizes"])
def test_cores_training_datasets_give_the_pairs_of_the_images(
    comfy_server: ComfyServer, sd15_checkpoint: Path, folder: str
) -> None:
    """Lists of LATENT and CONDITIONING, one for every image."""
    images = start(sd15_checkpoint.name)
    images |= core_folder("chosen", folder) | core_folder("rejected", folder)
    latents = {**images}
    images |= from_images(["chosen", 1], ["chosen", 0], ["rejected", 0])
    images["dataset"]["inputs"]["guidance"] = 3.5
    for side in ("chosen", "rejected"):
        latents[f"{side}_encoded"] = node(
            "MakeTrainingDataset",
            images=[side, 0],
            texts=[side, 1],
            vae=["checkpoint", 2],
            clip=["checkpoint", 1],
        )
    latents["guided"] = node(
        "FluxGuidance", conditioning=["chosen_encoded", 1], guidance=3.5
    )
    latents["dataset"] = node(
        "DPODatasetFromLatents",
        chosen=["chosen_encoded", 0],
        rejected=["rejected_encoded", 0],
        positive=["guided", 0],
    )
    assert learned_from(comfy_server, latents) == learned_from(comfy_server, images)


def test_a_latent_batch_takes_one_conditioning_for_all_or_a_batch_of_them(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = start(sd15_checkpoint.name)
    sides = {"chosen": 1, "rejected": 2}
    for side, seed in sides.items():
        prompt[side] = node(
            "TestRandomLatents", batch=2, channels=4, height=4, width=4, seed=seed
        )
    prompt["dataset"] = node(
        "DPODatasetFromLatents",
        chosen=["chosen", 0],
        rejected=["rejected", 0],
        positive=["positive", 0],
    )

    def conditioned(batch: int) -> tuple[int, str]:
        # The first row of a batch is what a batch of one is.
        prompt["positive"] = node(
            "TestRandomConditioning", batch=batch, tokens=7, width=768, seed=0, extra=""
        )
        return learned_from(comfy_server, prompt)

    assert conditioned(1)[0] == conditioned(2)[0] == 2
    assert conditioned(1)[1] != conditioned(2)[1]

    # Two entries of one CONDITIONING are read as one for each pair, as core's trainer does.
    for i in range(2):
        prompt[f"positive_{i}"] = node(
            "TestRandomConditioning", batch=1, tokens=7, width=768, seed=i, extra=""
        )
    prompt["positive"] = node(
        "ConditioningCombine", conditioning_1=["positive_0", 0], conditioning_2=["positive_1", 0]
    )
    assert learned_from(comfy_server, prompt)[0] == 2


def test_joined_pairs_count_once_and_come_in_order(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "lists")
    alone = learned_from(comfy_server, prompt)
    other = encoded_folder(sd15_checkpoint.name, "sizes")
    prompt["others"] = other["pairs"]

    def joined(a: str, b: str) -> tuple[int, str]:
        prompt["joined"] = node("DPOJoinPairs", pairs_a=[a, 0], pairs_b=[b, 0])
        prompt["dataset"] = encoding(["joined", 0])
        return learned_from(comfy_server, prompt)

    assert joined("pairs", "pairs") == alone
    # The first pair of both folders is the same picture under the same prompt.
    assert joined("pairs", "others")[0] == joined("others", "pairs")[0] == 5


def test_megapixels_scale_both_sides_alike(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "sizes")
    full = learned_from(comfy_server, prompt)
    # 64 x 64 pixels, in units of 1024 x 1024.
    prompt["dataset"] = encoding(["pairs", 0], megapixels=64 * 64 / 1024**2)
    scaled = learned_from(comfy_server, prompt)
    assert scaled[0] == full[0] == 3 and scaled[1] != full[1]


@pytest.mark.parametrize("mode", ["sequential", "policy_concurrent", "full_concurrent"])
def test_pairs_of_all_sizes_are_trained_in_batches(
    comfy_server: ComfyServer, sd15_checkpoint: Path, mode: str
) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "sizes")
    prompt["others"] = node(
        "DPOLoadPairFolder",
        folder="lists",
        chosen_pattern="chosen/{}",
        rejected_pattern="rejected/{}",
        on_problem="error",
    )
    prompt["joined"] = node("DPOJoinPairs", pairs_a=["pairs", 0], pairs_b=["others", 0])
    prompt["dataset"] = encoding(["joined", 0])
    prompt["objective"] = objective(beta=2000.0, label_smoothing=0.1, supervised_mix=0.1)
    prompt["trainer"] = trainer(
        batch_size=2,
        grad_accumulation_steps=2,
        execution_mode=mode,
        shared_noise=False,
        objective=["objective", 0],
    )
    prompt["steps"] = train_steps("trainer", 1)
    result = comfy_server.queue(prompt)
    assert (result.status, result.error) == ("success", "")
    assert result.outputs["steps"]["text"][0].startswith("1 step. Over the last 1: loss ")
