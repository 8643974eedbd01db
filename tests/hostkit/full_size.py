"""Models in their real width and, if wanted, depth, as shapes alone: they take no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from hostkit.training import Training, pack_module


@dataclass(frozen=True)
class FullSize:
    """How a model is built, and what it takes for an image of `pixels` and a prompt.

    Attributes:
        title: what people call it.
        host: name of its class in `comfy.supported_models`.
        config: its network's sizes.
        shallow: the same with few blocks.
        latent: shape of an image's.
        prompt: tokens, and width of the embedding.
        pooled: width of the pooled embedding; 0 if there is none.
        pixels: width and height of the image.
    """

    title: str
    host: str
    config: Mapping[str, Any]
    shallow: Mapping[str, Any]
    latent: tuple[int, ...]
    prompt: tuple[int, int]
    pooled: int = 0
    pixels: int = 1024
    extra: Mapping[str, Any] = field(default_factory=dict)


def _unet(**sizes: Any) -> dict[str, Any]:
    return {
        "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
        "out_channels": 4, "model_channels": 320, "use_temporal_attention": False,
        "adm_in_channels": None, "num_heads": -1, "num_head_channels": 64,
    } | sizes  # fmt: skip


MODELS = {
    "sd15": FullSize(
        "SD 1.5", "SD15",
        _unet(
            num_res_blocks=[2, 2, 2, 2], channel_mult=[1, 2, 4, 4],
            transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
            transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            transformer_depth_middle=1, context_dim=768, use_linear_in_transformer=False,
            num_heads=8, num_head_channels=-1,
        ),
        {
            "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
            "transformer_depth_output": [1, 1, 1, 1],
        },
        (4, 64, 64), (77, 768), pixels=512,
    ),
    "sdxl": FullSize(
        "SDXL", "SDXL",
        _unet(
            num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], num_classes="sequential",
            transformer_depth=[0, 0, 2, 2, 10, 10], adm_in_channels=2816,
            transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], context_dim=2048,
            transformer_depth_middle=10, use_linear_in_transformer=True,
        ),
        {
            "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 2],
            "transformer_depth_output": [0, 0, 2, 2], "transformer_depth_middle": 2,
        },
        (4, 128, 128), (77, 2048), 1280,
    ),
    "sd35": FullSize(
        "SD 3.5 medium", "SD3",
        {
            "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 24,
            "input_size": None, "adm_in_channels": 2048, "num_patches": 147456,
            "pos_embed_max_size": 384, "qk_norm": "rms", "pos_embed_scaling_factor": None,
            "x_block_self_attn_layers": list(range(13)),
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 1536},
            },
        },
        {  # its width goes with its depth
            "depth": 6, "x_block_self_attn_layers": [0, 1],
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 384},
            },
        },
        (16, 128, 128), (154, 4096), 2048,
    ),
    "flux": FullSize(
        "Flux dev", "Flux",
        {
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
            "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072, "num_heads": 24,
            "mlp_ratio": 4.0, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
            "theta": 10000, "qkv_bias": True, "txt_ids_dims": [], "guidance_embed": True,
        },
        {"depth": 2, "depth_single_blocks": 2},
        (16, 128, 128), (256, 4096), 768,
    ),
    "qwen_image": FullSize(
        "Qwen-Image", "QwenImage",
        {
            "image_model": "qwen_image", "in_channels": 64, "num_layers": 60,
            "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584,
            "axes_dims_rope": (16, 56, 56),
        },
        {"num_layers": 4},
        (16, 1, 128, 128), (128, 3584),
    ),
    "z_image": FullSize(
        "Z-Image", "ZImage",
        {
            "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840,
            "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30,
            "multiple_of": 256, "ffn_dim_multiplier": 8.0 / 3.0, "qk_norm": True,
            "cap_feat_dim": 2560, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
            "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
        {"n_layers": 4},
        (16, 128, 128), (128, 2560),
    ),
}  # fmt: skip


def full_size_patcher(kind: str, shallow: bool, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A MODEL that holds shapes, as the host describes it."""
    model = MODELS[kind]
    config = dict(model.config) | (dict(model.shallow) if shallow else {})
    with torch.inference_mode(False):
        host = getattr(comfy.supported_models, model.host)(config)
        host.unet_config |= config
        host.set_inference_dtype(dtype, None, device=comfy.model_management.get_torch_device())
        with torch.device("meta"):
            made = host.get_model({}, "")
        # Sigmas are drawn from real numbers.
        made.model_sampling = comfy.model_base.model_sampling(host, made.model_type)
    device = torch.device("cpu")
    return ModelPatcher(made, load_device=device, offload_device=device)


def full_size_pairs(kind: str, count: int = 1) -> Any:
    """Pairs for it, with nothing in them."""
    dataset, model = pack_module("dpo_core.training.dataset"), MODELS[kind]
    latent = torch.zeros(model.latent)
    extra: dict[str, Any] = {"guidance": 3.5}
    if model.pooled:
        extra["pooled_output"] = torch.zeros(1, model.pooled)
    prompt = [torch.zeros(1, *model.prompt), extra]
    pairs = [dataset.EncodedPair(latent, latent, prompt, key=f"pair {i}") for i in range(count)]
    return dataset.EncodedPairs(tuple(pairs))


@contextmanager
def shape_training(patcher: ModelPatcher, checkpointing: bool) -> Iterator[Training]:
    """A training session on its shapes; gradients are there, as after a step's first batch."""
    host = {name: pack_module(f"nodes.host.{name}") for name in ("denoiser", "model_shapes")}

    class Denoiser(host["denoiser"].HostDenoiser):  # type: ignore[misc,name-defined]
        def load(self, make_room: bool = False) -> None:
            """There is nothing to load."""

    shape = pack_module("dpo_core.training.adapter").AdapterSettings(16, 16.0)
    with torch.inference_mode(False):
        trained = pack_module("nodes.host.injection").TrainedModel(
            host["model_shapes"].ModelShapes(patcher), shape, 0, None, checkpointing
        )
    with pack_module("nodes.host.session").training_session(trained):
        for parameter in trained.adapter.parameters().values():
            parameter.grad = torch.zeros_like(parameter)
        yield Training(trained, Denoiser(trained.patcher))
