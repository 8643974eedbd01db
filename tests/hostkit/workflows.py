"""Prompts in the form that `/prompt` takes: node id -> class and inputs, links as [id, slot]."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(
    checkpoint: str,
    text: str = "a cat",
    seed: int = 0,
    steps: int = 2,
    batch: int = 1,
    size: int = 64,
) -> Prompt:
    """The default workflow on `checkpoint` (a file name in models/checkpoints).

    The ids are names: checkpoint, positive, negative, empty, sampler, decode, save. Images are
    `size` pixels wide and high and are saved under output/tiny.
    """
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "positive": node("CLIPTextEncode", text=text, clip=["checkpoint", 1]),
        "negative": node("CLIPTextEncode", text="", clip=["checkpoint", 1]),
        "empty": node("EmptyLatentImage", width=size, height=size, batch_size=batch),
        "sampler": node(
            "KSampler",
            model=["checkpoint", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            seed=seed,
            steps=steps,
            cfg=2.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="tiny/image"),
    }


def encoded_folder(checkpoint: str, folder: str) -> Prompt:
    """A pair folder as a dataset. The ids are names: checkpoint, pairs, dataset."""
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "pairs": node(
            "DPOLoadPairFolder",
            folder=folder,
            chosen_pattern="chosen/{}",
            rejected_pattern="rejected/{}",
            on_problem="error",
        ),
        "dataset": encoding(["pairs", 0]),
    }


def encoding(pairs: list[Any], megapixels: float = 0.0) -> dict[str, Any]:
    """DPOEncodePairs with the models of `checkpoint`."""
    return node(
        "DPOEncodePairs",
        pairs=pairs,
        vae=["checkpoint", 2],
        clip=["checkpoint", 1],
        megapixels=megapixels,
        guidance=3.5,
    )


def trainer(**inputs: Any) -> dict[str, Any]:
    """DPOTrainer on `checkpoint` and `dataset`, small and fast; `inputs` replace and add."""
    settings: dict[str, Any] = {
        "model": ["checkpoint", 0],
        "dataset": ["dataset", 0],
        "rank": 2,
        "alpha": 2.0,
        "learning_rate": 1e-3,
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "execution_mode": "sequential",
        "shared_noise": True,
        "gradient_checkpointing": False,
        "seed": 0,
    }
    return node("DPOTrainer", **(settings | inputs))


def training(checkpoint: str, folder: str, steps: int, **trainer_inputs: Any) -> Prompt:
    """A pair folder to a LoRA: `encoded_folder` with trainer and steps."""
    return {
        **encoded_folder(checkpoint, folder),
        "trainer": trainer(**trainer_inputs),
        "steps": train_steps("trainer", steps),
    }


def preview(prompts: str, **inputs: Any) -> dict[str, Any]:
    """DPOPreview with the models of `checkpoint`, small and fast; `inputs` replace and add."""
    settings: dict[str, Any] = {
        "clip": ["checkpoint", 1],
        "vae": ["checkpoint", 2],
        "prompts": prompts,
        "every": 1,
        "seed": 0,
        "steps": 2,
        "cfg": 2.0,
        "sampler": "euler",
        "scheduler": "normal",
        "width": 64,
        "height": 64,
    }
    return node("DPOPreview", **(settings | inputs))


def objective(**inputs: Any) -> dict[str, Any]:
    """DPOObjective with its defaults; `inputs` replace and add."""
    settings: dict[str, Any] = {
        "preset": "custom",
        "loss": "sigmoid",
        "beta": 5000.0,
        "beta_per_epoch": "",
        "label_smoothing": 0.0,
        "supervised_mix": 0.0,
        "safeguard": 0.0,
        "simpo_beta": 250.0,
        "simpo_gamma": 0.5,
        "cpo_alpha": 1.0,
        "mapo_lambda": 0.1,
        "exo_epsilon": 1e-3,
        "rating_scale": 1.0,
        "divergence_alpha": 0.5,
        "dpop_lambda": 1.0,
        "davidson_nu": 0.5,
        "discopop_tau": 0.05,
        "adaptive_beta": "off",
        "gradient_target": 0.2,
        "weight": 1.0,
    }
    return node("DPOObjective", **(settings | inputs))


def train_steps(before: str, steps: int, min_pairs: int = 1) -> dict[str, Any]:
    """DPOTrainSteps after the trainer or the steps of id `before`."""
    return node("DPOTrainSteps", trainer=[before, 0], steps=steps, min_pairs=min_pairs)


def sampled(model: list[Any], prefix: str, detour: int = 0) -> Prompt:
    """Latents sampled from a MODEL, saved as they are. The ids begin with `prefix`.

    Every `detour` adds a node that changes nothing: the same latents, computed anew instead of
    taken from the host's cache.
    """
    nodes: Prompt = {
        f"{prefix}_text": node("CLIPTextEncode", text="a warm sky", clip=["checkpoint", 1]),
        f"{prefix}_0": node("EmptyLatentImage", width=32, height=32, batch_size=1),
    }
    for i in range(detour):
        before = [f"{prefix}_{i}", 0]
        nodes[f"{prefix}_{i + 1}"] = node("RepeatLatentBatch", samples=before, amount=1)
    nodes[f"{prefix}_sampler"] = node(
        "KSampler",
        model=model,
        positive=[f"{prefix}_text", 0],
        negative=[f"{prefix}_text", 0],
        latent_image=[f"{prefix}_{detour}", 0],
        seed=1,
        steps=2,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    nodes[f"{prefix}_save"] = node(
        "SaveLatent", samples=[f"{prefix}_sampler", 0], filename_prefix=f"latents/{prefix}"
    )
    return nodes
