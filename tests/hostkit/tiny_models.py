"""Small random models that ComfyUI's own loaders recognise, and inputs that fit them.

Every weight is drawn from a seed and scaled so that activations stay near one: a network with a
layer at zero would hide a mistake in that layer. Shapes are the smallest the host's detection
takes for a model family, so a load and a forward pass cost a fraction of a second on a CPU.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.wan.vae import WanVAE
from comfy.model_patcher import ModelPatcher
from comfy.taesd.taesd import TAESD
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from safetensors.torch import save_file
from torch import Tensor

from hostkit.families import FAMILIES, family_latents, family_patcher, family_prompt
from hostkit.quantised import STORAGES
from hostkit.random_weights import StateDict, random_state_dict

Conditioning = list[list[Any]]

SD15_LATENT_SCALE = 0.18215

_SD15_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,  # the host tells SD 1.5 by this and by context_dim
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],  # two levels, so that the strided and the upsampling layers exist
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 0, 0, 0],
    "transformer_depth_middle": -1,
    "context_dim": 768,
    "num_heads": 8,
}
_SD3_CONFIG: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 2,  # width is 64 * depth
    "input_size": None,
    "adm_in_channels": 48,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 64, "out_features": 128},
    },
    "num_patches": 256,
    "pos_embed_max_size": 16,
    "qk_norm": "rms",
}
_FLUX_CONFIG: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 48,
    "context_in_dim": 64,
    "hidden_size": 256,  # two heads of the fixed width 128
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "txt_ids_dims": [],
}


@dataclass(frozen=True)
class TinyModel:
    """One family: how to build its network and what inputs it takes."""

    build: Callable[[], torch.nn.Module]
    latent_format: Callable[[], comfy.latent_formats.LatentFormat]
    context_width: int
    pooled_width: int


def _unet() -> torch.nn.Module:
    return UNetModel(**_SD15_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)


def _sd3() -> torch.nn.Module:
    return OpenAISignatureMMDITWrapper(
        **_SD3_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )


def _flux(guidance: bool) -> torch.nn.Module:
    return Flux(
        image_model="flux",
        guidance_embed=guidance,
        **_FLUX_CONFIG,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )


_SD15 = TinyModel(_unet, comfy.latent_formats.SD15, context_width=768, pooled_width=768)
TINY_MODELS: dict[str, TinyModel] = {
    "sd15": _SD15,
    "sd15_v": _SD15,  # same file; the prediction type is a patch, as the host's own node sets it
    "sd3": TinyModel(_sd3, comfy.latent_formats.SD3, context_width=64, pooled_width=48),
    "flux": TinyModel(lambda: _flux(False), comfy.latent_formats.Flux, 64, 48),
    "flux_guidance": TinyModel(lambda: _flux(True), comfy.latent_formats.Flux, 64, 48),
}


def diffusion_state_dict(kind: str, seed: int = 0) -> StateDict:
    """fp32 weights of the tiny network `kind` (a key of `TINY_MODELS`), keys without prefix."""
    with torch.device("meta"):
        shapes = TINY_MODELS[kind].build().state_dict()
    return random_state_dict(shapes, seed)


def write_diffusion_model(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Write the file that UNETLoader reads; returns its path."""
    weights = {name: w.to(dtype) for name, w in diffusion_state_dict(kind, seed).items()}
    path = folder / f"tiny_{kind}_{str(dtype).removeprefix('torch.')}_{seed}.safetensors"
    save_file(weights, path)
    return path


def write_quantized_model(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a mixed-precision file: every Linear of the blocks in fp8 with a scale, the rest fp32.

    The layout is the host's: `<layer>.weight` in float8_e4m3fn, `<layer>.weight_scale` (a scalar)
    and `<layer>.comfy_quant` (JSON bytes), which together select its quantised Linear.
    """
    weights = diffusion_state_dict(kind, seed)
    marker = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    for name in list(weights):
        if "blocks." not in name or not name.endswith(".weight") or weights[name].ndim != 2:
            continue
        layer = name.removesuffix(".weight")
        scale = weights[name].abs().amax() / torch.finfo(torch.float8_e4m3fn).max
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[f"{layer}.weight_scale"] = scale
        weights[f"{layer}.comfy_quant"] = marker.clone()
    path = folder / f"tiny_{kind}_quantized_{seed}.safetensors"
    save_file(weights, path)
    return path


def write_sd15_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a whole SD 1.5 checkpoint (UNet, CLIP-L, TAESD as VAE) for CheckpointLoaderSimple.

    About 370 MB: the host takes CLIP-L in its real size only (123 million weights, here fp16).
    """
    checkpoint = {
        f"model.diffusion_model.{name}": weight
        for name, weight in diffusion_state_dict("sd15", seed).items()
    }
    checkpoint |= _clip_l_state_dict(seed + 1)
    checkpoint |= _taesd_state_dict(seed + 2)
    path = folder / f"tiny_sd15_checkpoint_{seed}.safetensors"
    save_file(checkpoint, path)
    return path


def _clip_l_state_dict(seed: int) -> StateDict:
    with torch.device("meta"):
        clip = comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16)
    shapes = {
        name.replace("clip_l.", "cond_stage_model.", 1): tensor
        for name, tensor in clip.state_dict().items()
        if ".text_model." in name
    }
    return {name: w.half() for name, w in random_state_dict(shapes, seed).items()}


def write_vae(folder: Path, channels: int, seed: int = 0) -> Path:
    """Write a TAESD of so many latent channels for VAELoader; returns its path."""
    path = folder / f"tiny_vae_{channels}_{seed}.safetensors"
    save_file(_taesd(seed, channels), path)
    return path


def tiny_vae(channels: int, seed: int = 0) -> comfy.sd.VAE:
    """A TAESD as VAELoader makes it."""
    with torch.inference_mode():
        return comfy.sd.VAE(sd=_taesd(seed, channels))


def tiny_video_vae(seed: int = 0) -> comfy.sd.VAE:
    """Qwen-Image's and Wan's VAE, to which a batch of images is a clip."""
    with torch.device("meta"):
        module = WanVAE(8, 16, temperal_downsample=[False, True, True])
    with torch.inference_mode():
        return comfy.sd.VAE(sd=random_state_dict(module.state_dict(), seed))


def _taesd(seed: int, channels: int) -> StateDict:
    with torch.device("meta"):
        shapes = TAESD(latent_channels=channels).state_dict()
    weights = random_state_dict(shapes, seed)
    weights["vae_scale"] = torch.tensor(SD15_LATENT_SCALE)
    weights["vae_shift"] = torch.tensor(0.0)
    return weights


def _taesd_state_dict(seed: int) -> StateDict:
    return {f"first_stage_model.{name}": weight for name, weight in _taesd(seed, 4).items()}


_files: dict[tuple[str, str, int], Path] = {}
_folder: Path | None = None


def _shared_folder() -> Path:
    global _folder
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(prefix="tiny_models_"))
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    return _folder


def _model_file(kind: str, storage: str, seed: int) -> Path:
    key = (kind, storage, seed)
    if key not in _files:
        if storage in STORAGES:
            _files[key] = _shared_folder() / f"tiny_{kind}_{storage}_{seed}.safetensors"
            STORAGES[storage].save(diffusion_state_dict(kind, seed), _files[key])
        elif storage == "quantized":
            _files[key] = write_quantized_model(_shared_folder(), kind, seed)
        else:
            dtype = getattr(torch, storage)
            _files[key] = write_diffusion_model(_shared_folder(), kind, dtype, seed)
    return _files[key]


def tiny_patcher(
    kind: str,
    dtype: torch.dtype = torch.float32,
    quantized: bool = False,
    seed: int = 0,
    model_options: dict[str, Any] | None = None,
    inference: bool = True,
    storage: str | None = None,
) -> ModelPatcher:
    """A freshly loaded MODEL, as UNETLoader makes it: under inference mode, weights and all.

    `kind` is a key of `TINY_MODELS`, or of `FAMILIES` (those as `dtype` only). `dtype` is the
    storage dtype: float8_e4m3fn gives weights in fp8 that are cast to fp32 for every layer.
    `quantized` loads fp8 Linears with scales into the host's mixed-precision layers instead, and
    `storage` what that key of `STORAGES` says.
    `inference=False` loads outside inference mode: a model that plain autograd can differentiate,
    to compare gradients with. Every call returns a new model.
    """
    options = dict(model_options or {})
    if kind in FAMILIES:
        return family_patcher(kind, seed, options.get("load_device"), inference, dtype)
    held = storage or ("quantized" if quantized else str(dtype).removeprefix("torch."))
    path = _model_file("sd15" if kind == "sd15_v" else kind, held, seed)
    if storage is not None:
        options |= STORAGES[storage].options
    elif not quantized:
        options.setdefault("dtype", dtype)
    with torch.inference_mode(inference):
        patcher = comfy.sd.load_diffusion_model(str(path), model_options=options)
        if kind == "sd15_v":
            (patcher,) = ModelSamplingDiscrete().patch(patcher, "v_prediction", zsnr=False)
    return patcher


def random_conditioning(
    kind: str, seed: int = 0, tokens: int = 7, batch: int = 1, guidance: float | None = None
) -> Conditioning:
    """A CONDITIONING of the widths `kind` takes, made under inference mode as node outputs are.

    The tensor is (batch, tokens, context_width), `pooled_output` is (batch, pooled_width).
    """
    if kind in FAMILIES:
        with torch.inference_mode():
            return family_prompt(kind, seed, tokens)
    model = TINY_MODELS[kind]
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        context = torch.randn(batch, tokens, model.context_width, generator=generator)
        pooled = torch.randn(batch, model.pooled_width, generator=generator)
    extra: dict[str, Any] = {"pooled_output": pooled}
    if guidance is not None:
        extra["guidance"] = guidance
    return [[context, extra]]


def random_latents(
    kind: str, batch: int = 1, size: int | tuple[int, int] | None = None, seed: int = 0
) -> Tensor:
    """LATENT samples (batch, channels, height, width), scaled as this family's VAE gives them.

    The host's `process_latent_in` brings them to unit variance. Inference tensors, as in a LATENT.
    """
    if kind in FAMILIES:
        with torch.inference_mode():
            return family_latents(kind, batch, size, seed)
    height, width = size if isinstance(size, tuple) else (size or 8, size or 8)
    latent_format = TINY_MODELS[kind].latent_format()
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        unit = torch.randn(batch, latent_format.latent_channels, height, width, generator=generator)
        return latent_format.process_out(unit)


def as_latent(samples: Tensor) -> dict[str, Tensor]:
    """The LATENT value that holds `samples`."""
    return {"samples": samples}


def denoise(
    patcher: ModelPatcher,
    latents: Tensor,
    conditioning: Conditioning,
    sigma: float,
    differentiable: bool = False,
) -> Tensor:
    """One forward pass of the loaded model by the host's own sampling path; the denoised latents.

    `latents` and the result are in VAE units, (batch, channels, height, width). The conditioning
    holds one entry, used for the whole batch. Loads the model if it is not loaded, and runs
    under inference mode as a sampler does. `differentiable` does both outside inference mode,
    with the host's training flag set and inputs that may be saved for backward: the naive way to
    train.
    """
    if not differentiable:
        with torch.inference_mode():
            return _pass(patcher, latents, conditioning, sigma)
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return _pass(patcher, latents.clone(), _copied(conditioning), sigma)
    finally:
        comfy.model_management.in_training = before


def _copied(conditioning: Conditioning) -> Conditioning:
    return [
        [context.clone(), {k: v.clone() if torch.is_tensor(v) else v for k, v in extra.items()}]
        for context, extra in conditioning
    ]


def _pass(
    patcher: ModelPatcher, latents: Tensor, conditioning: Conditioning, sigma: float
) -> Tensor:
    comfy.model_management.load_models_gpu([patcher])
    model, device = patcher.model, patcher.load_device
    x = model.process_latent_in(latents).to(device)
    conds = {"positive": comfy.sampler_helpers.convert_cond(conditioning)}
    conds = comfy.samplers.process_conds(model, x, conds, device, latent_image=x, seed=0)
    sigmas = torch.full((x.shape[0],), sigma, device=device)
    options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
    options["transformer_options"]["sample_sigmas"] = sigmas[:1].repeat(2)  # a step of no length
    patcher.pre_run()
    try:
        (out,) = comfy.samplers.calc_cond_batch(model, [conds["positive"]], x, sigmas, options)
    finally:
        patcher.cleanup()
    return model.process_latent_out(out)
