"""One tiny model for every family of image models that ComfyUI loads.

The classes are the host's own, sizes are as small as their shapes allow: the host's detection
would insist on real widths, so its model class is given a small configuration directly, and from
there on everything is done as its loader does it. What tells variants of a family apart (another
prediction, a token refiner, padded text) is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import comfy.latent_formats
import comfy.ldm.anima.model
import comfy.ldm.hunyuan_video.model
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from torch import Generator, Tensor

from hostkit.random_weights import random_state_dict

Extra = Callable[[Generator, int], dict[str, Any]]
TEXT, POOLED = 24, 16


@dataclass(frozen=True)
class Family:
    """How to build a tiny model of a family, and what it takes for a prompt.

    Attributes:
        title: what people call the family.
        host: name of its class in `comfy.supported_models`.
        config: its network's sizes.
        width: of the text embedding; None if the prompt is no embedding.
        pooled: width of the pooled text embedding; None if there is none.
        extra: further entries of a CONDITIONING, of so many tokens.
        size: of the latent, in its own pixels.
        marks: keys of a file, besides weights, by which the host tells a variant.
        smaller: what the host builds in one size only, by dotted name, and its smaller self.
    """

    title: str
    host: str
    config: Mapping[str, Any]
    width: int | None = TEXT
    pooled: int | None = None
    extra: Extra = lambda generator, tokens: {}
    size: int = 8
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    smaller: Mapping[str, Any] = field(default_factory=dict)

    def host_config(self) -> Any:
        """The host's description of the model."""
        config = getattr(comfy.supported_models, self.host)(dict(self.config))
        config.unet_config |= self.config  # some classes put real sizes on top
        return config


def _masked(generator: Generator, tokens: int) -> dict[str, Any]:
    """Padding: the last tokens are none of the prompt's."""
    mask = torch.ones(1, tokens, dtype=torch.long)
    mask[:, -2:] = 0
    return {"attention_mask": mask}


def _unmasked(generator: Generator, tokens: int) -> dict[str, Any]:
    return {"attention_mask": torch.ones(1, tokens, dtype=torch.long)}


def _hunyuan_dit(generator: Generator, tokens: int) -> dict[str, Any]:
    return {
        "conditioning_mt5xl": torch.randn(1, tokens, TEXT, generator=generator),
        **_masked(generator, tokens),
        "attention_mask_mt5xl": torch.ones(1, tokens, dtype=torch.long),
    }


def _hidream(generator: Generator, tokens: int) -> dict[str, Any]:
    return {"conditioning_llama3": torch.randn(1, 2, tokens, TEXT, generator=generator)}


def _byt5(generator: Generator, tokens: int) -> dict[str, Any]:
    return {"conditioning_byt5small": torch.randn(1, 3, 1472, generator=generator)}


def _t5_ids(generator: Generator, tokens: int) -> dict[str, Any]:
    return {
        "t5xxl_ids": torch.randint(0, 1000, (tokens,), generator=generator),
        "t5xxl_weights": torch.ones(tokens),
    }


def _token_ids(generator: Generator, tokens: int) -> dict[str, Any]:
    ids = torch.randint(0, 1000, (1, tokens), generator=generator)
    ids[0, -1] = 151673  # the token that becomes the time
    return {"text_input_ids": ids}


def _picture_size(generator: Generator, tokens: int) -> dict[str, Any]:
    return {"width": 64, "height": 64}


def _unet(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
        "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [1, 0], "transformer_depth_output": [1, 0, 0, 0],
        "transformer_depth_middle": 1, "context_dim": TEXT, "use_linear_in_transformer": True,
        "use_temporal_attention": False, "adm_in_channels": None, "num_heads": 2,
        "num_head_channels": -1,
    }
    return base | sizes


def _sdxl(**sizes: Any) -> dict[str, Any]:
    given = {
        "transformer_depth": [0, 1], "transformer_depth_output": [1, 1, 0, 0],
        "transformer_depth_middle": 1, "num_classes": "sequential",
        "adm_in_channels": POOLED + 6 * 256, "num_heads": -1, "num_head_channels": 16,
    }
    return _unet(**given | sizes)


def _flux(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "vec_in_dim": POOLED, "context_in_dim": TEXT, "hidden_size": 64, "num_heads": 2,
        "mlp_ratio": 4.0, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12],
        "theta": 10000, "qkv_bias": True, "txt_ids_dims": [], "guidance_embed": False,
    }
    return base | sizes


_FLUX2 = _flux(
    image_model="flux2", in_channels=128, out_channels=128, patch_size=1, vec_in_dim=None,
    axes_dim=[8, 8, 8, 8], theta=2000, mlp_ratio=2.0, qkv_bias=False, txt_ids_dims=[3],
    mlp_silu_act=True, global_modulation=True, ops_bias=False, default_ref_method="index",
    ref_index_scale=10.0,
)
_CHROMA = _flux(
    image_model="chroma", in_channels=64, out_channels=64, in_dim=64, out_dim=64, hidden_dim=32,
    n_layers=2, vec_in_dim=None,
)
del _CHROMA["guidance_embed"]
_RADIANCE = _CHROMA | {
    "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 4,
    "nerf_hidden_size": 8, "nerf_mlp_ratio": 2, "nerf_depth": 2, "nerf_max_freqs": 2,
    "nerf_tile_size": 512, "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32,
    "use_x0": False, "use_sequential_txt_ids": False,
}


def _sd3(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
        "adm_in_channels": POOLED, "num_patches": 64, "pos_embed_max_size": 8, "qk_norm": "rms",
        "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [],
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 128},
        },
    }
    return base | sizes


def _lumina(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 2,
        "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 1, "multiple_of": 16,
        "ffn_dim_multiplier": 1.0, "qk_norm": True, "cap_feat_dim": TEXT,
        "axes_dims": [8, 12, 12], "axes_lens": [300, 64, 64], "rope_theta": 10000.0,
    }
    return base | sizes


_Z_IMAGE = _lumina(
    dim=256, n_kv_heads=2, axes_dims=[32, 48, 48], rope_theta=256.0, z_image_modulation=True,
    time_scale=1000.0,
    pad_tokens_multiple=32,
)
_Z_IMAGE_PIXEL = _Z_IMAGE | {
    "image_model": "zimage_pixel", "patch_size": 4, "in_channels": 3, "decoder_in_channels": 48,
    "decoder_hidden_size": 32, "decoder_num_res_blocks": 1, "decoder_max_freqs": 4,
}


def _cosmos(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128,
        "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
        "model_channels": 64, "concat_padding_mask": True, "crossattn_emb_channels": TEXT,
        "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop",
        "min_fps": 1, "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 8,
        "num_blocks": 2, "num_heads": 2, "extra_per_block_abs_pos_emb": False,
        "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
        "rope_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
    }
    return base | sizes


def _pixart(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "num_heads": 2, "patch_size": 2, "hidden_size": 64, "in_channels": 4, "depth": 2,
        "model_max_length": 7, "input_size": 8, "pe_interpolation": 1, "caption_channels": TEXT,
    }
    return base | sizes


def _hydit(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "hidden_size": 64, "depth": 4, "num_heads": 2, "text_states_dim": TEXT,
        "text_states_dim_t5": TEXT, "text_len": 7, "text_len_t5": 7,
    }
    return base | sizes


def _qwen(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "attention_head_dim": 32,
        "num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (8, 12, 12),
    }
    return base | sizes


def _hunyuan_image(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "image_model": "hunyuan_video", "in_channels": 64, "out_channels": 64,
        "patch_size": [1, 1], "vec_in_dim": None, "axes_dim": [16, 16], "meanflow": False,
        "context_in_dim": TEXT, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2,
        "depth_single_blocks": 2, "theta": 256, "qkv_bias": True, "byt5": True,
        "guidance_embed": False, "use_cond_type_embedding": False, "vision_in_dim": None,
        "meanflow_sum": False,
    }
    return base | sizes


def _omnigen(**sizes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "in_channels": 16, "out_channels": None, "patch_size": 2, "hidden_size": 64,
        "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1,
        "multiple_of": 16, "norm_eps": 1e-5, "axes_dim_rope": [8, 12, 12],
        "axes_lens": [64, 64, 64], "timestep_scale": 1000.0,
    }
    return base | sizes


_CASCADE_C = {
    "stable_cascade_stage": "c", "c_r": 16, "c_cond": 32, "c_hidden": [32, 32], "nhead": [2, 2],
    "blocks": [[1, 1], [1, 1]], "c_clip_text": TEXT, "c_clip_text_pooled": POOLED,
}
_CASCADE_B = {
    "stable_cascade_stage": "b", "c_r": 16, "c_cond": 32, "c_hidden": [16, 32, 32, 32],
    "nhead": [-1, -1, 2, 2], "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "block_repeat": [[1, 1, 1, 1], [2, 1, 1, 1]], "c_clip": POOLED,
}
_AURA = {
    "dim": 64, "n_layers": 4, "n_double_layers": 2, "n_heads": 2, "global_conddim": 64,
    "cond_seq_dim": TEXT, "max_seq": 64,
}
_LENS = {
    "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2,
    "attention_head_dim": 32, "num_attention_heads": 2, "enc_hidden_dim": TEXT // 2,
    "axes_dims_rope": (8, 12, 12), "multi_layer_encoder_feature": True,
    "selected_layer_index": (0, 1),
}
_PIXELDIT = {
    "image_model": "pixeldit_t2i", "num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 4,
    "pixel_attn_hidden_size": 32, "pixel_num_groups": 2, "patch_depth": 2, "pixel_depth": 1,
    "patch_size": 4, "txt_embed_dim": TEXT, "txt_max_length": 8,
}
_HIDREAM = {
    "image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [16, 8, 8],
    "caption_channels": [TEXT, TEXT], "max_resolution": [16, 16], "in_channels": 16,
    "llama_layers": [0, 1], "num_attention_heads": 2, "num_routed_experts": 4,
    "num_activated_experts": 2, "num_layers": 1, "num_single_layers": 1, "out_channels": 16,
    "patch_size": 2, "text_emb_dim": POOLED,
}
_HIDREAM_O1 = {
    "image_model": "hidream_o1",
    "text_config_overrides": {
        "vocab_size": 151936, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "rope_dims": [4, 2, 2],
    },
    "vision_config_overrides": {"depth": 1, "hidden_size": 32, "intermediate_size": 32,
                                "num_heads": 2},
}
_MAGE = {
    "image_model": "mage_flow", "in_channels": 128, "num_layers": 2, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (8, 12, 12),
}
_JOY = {
    "image_model": "joyimage", "patch_size": [1, 2, 2], "in_channels": 16, "hidden_size": 64,
    "num_attention_heads": 2, "text_dim": TEXT, "mlp_width_ratio": 2.0, "num_layers": 2,
    "rope_dim_list": [8, 12, 12],
}
_IDEOGRAM = {
    "image_model": "ideogram4", "in_channels": 128, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 32, "intermediate_size": 64, "adaln_dim": 16, "llm_features_dim": TEXT,
    "mrope_section": [6, 5, 5],
}
_KREA2 = {
    "image_model": "krea2", "features": 64, "tdim": 16, "txtdim": TEXT // 2, "heads": 2,
    "kvheads": 1, "multiplier": 2, "layers": 2, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2,
    "patch": 2, "channels": 16,
}
_KANDINSKY = {
    "image_model": "kandinsky5", "in_text_dim": TEXT, "in_text_dim2": POOLED, "time_dim": 16,
    "model_dim": 64, "ff_dim": 64, "visual_embed_dim": 64, "num_text_blocks": 1,
    "num_visual_blocks": 2, "axes_dims": (8, 12, 12), "rope_scale_factor": (1.0, 1.0, 1.0),
}
_ERNIE = {
    "image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 2,
    "ffn_hidden_size": 64, "in_channels": 128, "out_channels": 128, "text_in_dim": TEXT,
    "rope_axes_dim": (8, 12, 12),
}
_BYT5 = {
    "comfy.ldm.hunyuan_video.model.ByT5Mapper": lambda real, **given: real(
        **given | {"out_dim": 32, "hidden_dim": 32}
    )
}
_LLM_ADAPTER = {
    "comfy.ldm.anima.model.LLMAdapter": partial(
        lambda real, **given: real(
            source_dim=TEXT, target_dim=TEXT, model_dim=32, num_layers=1, num_heads=2, **given
        )
    )
}
_SD2_V = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([0.0, 1.0])}

FAMILIES: dict[str, Family] = {
    "sd1": Family("Stable Diffusion 1.5", "SD15", _unet(use_linear_in_transformer=False)),
    "sd1_inpaint": Family(
        "Stable Diffusion 1.5, inpainting", "SD15",
        _unet(use_linear_in_transformer=False, in_channels=9),
    ),
    "sd2": Family("Stable Diffusion 2", "SD20", _unet()),
    "sd2_v": Family("Stable Diffusion 2, v-prediction", "SD20", _unet(), marks=_SD2_V),
    "sd21_unclip": Family(
        "Stable Diffusion 2.1 unCLIP L", "SD21UnclipL",
        _unet(adm_in_channels=1536, num_classes="sequential"),
    ),
    "sd21_unclip_h": Family(
        "Stable Diffusion 2.1 unCLIP H", "SD21UnclipH",
        _unet(adm_in_channels=2048, num_classes="sequential"),
    ),
    "sdxl": Family("Stable Diffusion XL", "SDXL", _sdxl(), pooled=POOLED),
    "sdxl_v": Family(
        "Stable Diffusion XL, v-prediction", "SDXL", _sdxl(), pooled=POOLED,
        marks={"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])},
    ),
    "sdxl_edm": Family(
        "Playground 2.5", "SDXL", _sdxl(), pooled=POOLED,
        marks={"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)},
    ),
    "cosxl": Family(
        "CosXL", "SDXL", _sdxl(), pooled=POOLED,
        marks={"edm_vpred.sigma_max": torch.tensor(120.0)},
    ),
    "sdxl_refiner": Family(
        "Stable Diffusion XL refiner", "SDXLRefiner", _sdxl(adm_in_channels=POOLED + 5 * 256),
        pooled=POOLED,
    ),
    "ssd1b": Family(
        "SSD-1B", "SSD1B",
        _sdxl(transformer_depth=[0, 2], transformer_depth_output=[1, 2, 0, 0],
              transformer_depth_middle=-1),
        pooled=POOLED,
    ),
    "vega": Family(
        "Segmind Vega", "Segmind_Vega", _sdxl(transformer_depth_middle=-1), pooled=POOLED
    ),
    "koala_700m": Family(
        "KOALA 700M", "KOALA_700M", _sdxl(transformer_depth_middle=-2), pooled=POOLED
    ),
    "koala_1b": Family(
        "KOALA 1B", "KOALA_1B", _sdxl(transformer_depth=[0, 2]), pooled=POOLED
    ),
    "cascade_c": Family(
        "Stable Cascade, stage C", "Stable_Cascade_C", _CASCADE_C, pooled=POOLED, size=4
    ),
    "cascade_b": Family(
        "Stable Cascade, stage B", "Stable_Cascade_B", _CASCADE_B, pooled=POOLED, size=16
    ),
    "sd3_medium": Family("Stable Diffusion 3", "SD3", _sd3(), pooled=POOLED),
    "sd35": Family(
        "Stable Diffusion 3.5", "SD3", _sd3(x_block_self_attn_layers=[0]), pooled=POOLED
    ),
    "auraflow": Family("AuraFlow", "AuraFlow", _AURA),
    "pixart_alpha": Family(
        "PixArt Alpha", "PixArtAlpha",
        _pixart(image_model="pixart_alpha", micro_condition=True, hidden_size=48),
        extra=_picture_size, size=34,
    ),
    "pixart_sigma": Family(
        "PixArt Sigma", "PixArtSigma", _pixart(image_model="pixart_sigma", micro_condition=False),
        size=34,
    ),
    "hydit": Family(
        "Hunyuan-DiT 1.2", "HunyuanDiT", _hydit(image_model="hydit"), extra=_hunyuan_dit
    ),
    "hydit1": Family(
        "Hunyuan-DiT 1.1", "HunyuanDiT1",
        _hydit(image_model="hydit1", size_cond=True, use_style_cond=True), extra=_hunyuan_dit,
    ),
    "flux_dev": Family("Flux dev", "Flux", _flux(guidance_embed=True), pooled=POOLED),
    "flux_schnell": Family("Flux schnell", "FluxSchnell", _flux(), pooled=POOLED),
    "flux_fill": Family(
        "Flux Fill", "FluxInpaint", _flux(guidance_embed=True, in_channels=96), pooled=POOLED
    ),
    "ovis": Family(
        "Ovis-Image", "FluxSchnell",
        _flux(vec_in_dim=None, yak_mlp=True, txt_norm=True, txt_ids_dims=[1, 2]),
    ),
    "longcat": Family(
        "LongCat-Image", "LongCatImage", _flux(vec_in_dim=None, txt_ids_dims=[1, 2])
    ),
    "flux2": Family("Flux 2 dev", "Flux2", _FLUX2 | {"guidance_embed": True}, size=4),
    "flux2_klein": Family("Flux 2 Klein", "Flux2", _FLUX2, size=4),
    "lens": Family("Lens", "Lens", _LENS, extra=_masked, size=4),
    "cosmos_predict2": Family("Cosmos Predict2, text to image", "CosmosT2IPredict2", _cosmos()),
    "anima": Family(
        "Anima", "Anima", _cosmos(image_model="anima"), extra=_t5_ids, smaller=_LLM_ADAPTER
    ),
    "lumina2": Family("Lumina 2", "Lumina2", _lumina(), extra=_masked),
    "newbie": Family(
        "NewBie", "Lumina2", _lumina(clip_text_dim=POOLED), pooled=POOLED, extra=_masked
    ),
    "z_image": Family("Z-Image", "ZImage", _Z_IMAGE),
    "z_image_pixel": Family(
        "Z-Image, pixel space", "ZImagePixelSpace", _Z_IMAGE_PIXEL, size=16
    ),
    "pixeldit": Family("PixelDiT", "PixelDiTT2I", _PIXELDIT, size=16),
    "hidream": Family("HiDream-I1", "HiDream", _HIDREAM, pooled=POOLED, extra=_hidream),
    "hidream_o1": Family(
        "HiDream-O1", "HiDreamO1", _HIDREAM_O1, width=None, extra=_token_ids, size=64
    ),
    "chroma": Family("Chroma", "Chroma", _CHROMA),
    "chroma_radiance": Family(
        "Chroma Radiance", "ChromaRadiance", _RADIANCE, size=16
    ),
    "omnigen2": Family(
        "OmniGen2", "Omnigen2",
        _omnigen(image_model="omnigen2", text_feat_dim=TEXT, ffn_dim_multiplier=None),
        extra=_unmasked,
    ),
    "boogu": Family(
        "Boogu-Image", "Boogu",
        _omnigen(image_model="boogu", instruction_feat_dim=TEXT, num_double_stream_layers=1),
        extra=_unmasked,
    ),
    "mage_flow": Family("Mage-Flow", "MageFlow", _MAGE, size=4),
    "qwen_image": Family("Qwen-Image", "QwenImage", _qwen(), extra=_masked),
    "joyimage": Family("JoyImage", "JoyImage", _JOY),
    "ideogram4": Family("Ideogram 4", "Ideogram4", _IDEOGRAM, extra=_masked, size=4),
    "krea2": Family("Krea 2", "Krea2", _KREA2),
    "hunyuan_image": Family(
        "HunyuanImage 2.1", "HunyuanImage21", _hunyuan_image(), extra=_byt5, smaller=_BYT5
    ),
    "hunyuan_image_distilled": Family(
        "HunyuanImage 2.1, distilled", "HunyuanImage21",
        _hunyuan_image(meanflow=True, guidance_embed=True, byt5=False),
    ),
    "kandinsky5": Family(
        "Kandinsky 5 image", "Kandinsky5Image", _KANDINSKY, pooled=POOLED
    ),
    "ernie": Family("ERNIE-Image", "ErnieImage", _ERNIE, size=4),
}


def family_patcher(
    kind: str,
    seed: int = 0,
    load_device: torch.device | None = None,
    inference: bool = True,
    dtype: torch.dtype = torch.float32,
) -> ModelPatcher:
    """A new MODEL of a family, as the host's loader makes it from here on.

    It holds its weights in `dtype` and computes in fp32. `inference=False` builds it outside
    inference mode.
    """
    family, management = FAMILIES[kind], comfy.model_management
    device = load_device or management.get_torch_device()
    with torch.inference_mode(inference), _smaller(family):
        config = family.host_config()
        config.set_inference_dtype(
            dtype, None if dtype == torch.float32 else torch.float32, device=device
        )
        model = config.get_model(dict(family.marks), "")
        patcher = comfy.model_patcher.CoreModelPatcher(
            model, load_device=device, offload_device=management.unet_offload_device()
        )
        shapes = {
            name: tensor
            for name, tensor in model.diffusion_model.state_dict().items()
            if tensor.is_floating_point() and tensor.numel()
        }
        weights = {n: w.to(dtype) for n, w in random_state_dict(shapes, seed).items()}
        model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher


@contextlib.contextmanager
def _smaller(family: Family) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, build in family.smaller.items():
            module, _, attribute = name.rpartition(".")
            real = getattr(__import__("sys").modules[module], attribute)
            stack.enter_context(mock.patch(name, partial(build, real)))
        yield


def family_prompt(kind: str, seed: int, tokens: int) -> list[list[Any]]:
    """A CONDITIONING as the family's text encoder gives it."""
    family, generator = FAMILIES[kind], torch.Generator().manual_seed(seed)
    context = torch.randn(1, tokens, family.width or 1, generator=generator)
    extra: dict[str, Any] = {}
    if family.pooled is not None:
        extra["pooled_output"] = torch.randn(1, family.pooled, generator=generator)
    return [[context, extra | family.extra(generator, tokens)]]


def family_latents(
    kind: str, batch: int, size: int | tuple[int, int] | None, seed: int
) -> Tensor:
    """LATENT samples as the family's VAE gives them, one frame of a video where it has frames."""
    family = FAMILIES[kind]
    latent_format = family.host_config().latent_format
    if "edm_mean" in family.marks:
        latent_format = comfy.latent_formats.SDXL_Playground_2_5()
    size = size or family.size
    height, width = (size, size) if isinstance(size, int) else size
    shape = [batch, latent_format.latent_channels, *[1] * (latent_format.latent_dimensions - 2)]
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(*shape, height, width, generator=generator)
    return latent_format.process_out(unit)
