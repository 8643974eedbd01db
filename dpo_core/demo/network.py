"""The demo's denoiser: a rectified-flow network for 64 x 64 pictures, conditioned on a prompt.

A small U-Net over 2 x 2 pixel patches: convolutions where there are many positions, transformer
blocks on the 8 x 8 grid, scale and shift from the noise level and the prompt in every block
(Peebles & Xie 2022, arXiv:2212.09748). All weights sit in plain ``nn.Linear``, ``nn.Conv2d`` and
``nn.Embedding``, so that an adapter attaches as it would to a large model.

Convention, as in the large flow models: ``x = (1 - sigma) * picture + sigma * noise``, and the
network predicts the velocity ``noise - picture`` (Liu et al. 2022, arXiv:2209.03003; Lipman et al.
2022, arXiv:2210.02747). Inside, it guesses the clean picture and the velocity follows: with so few
channels a picture is easier to carry than its noise (Li & He 2025, arXiv:2511.13720). Pictures are
in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from .pictures import ATTRIBUTES, SIZE, encode

LEAST_SIGMA = 0.05
"""Noise level below which the velocity is no longer scaled up."""

WEIGHTS = "weights.safetensors"
"""File beside this module that holds the shipped base model."""


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of the network."""

    widths: tuple[int, int, int] = (32, 80, 160)
    """Channels on the 32 x 32, 16 x 16 and 8 x 8 grids."""
    embedding: int = 160
    """Length of the vector that carries noise level and prompt."""
    transformer_blocks: int = 3
    """Attention and MLP blocks on the 8 x 8 grid."""
    heads: int = 4
    """Attention heads."""


class Modulation(nn.Module):
    """Group normalisation followed by a conditioned scale and shift."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.proj = nn.Linear(embedding, 2 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x`` (B, C, H, W), ``condition`` (B, E) -> (B, C, H, W)."""
        scale, shift = self.proj(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(x), 1.0 + scale)


class ConvBlock(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = Modulation(channels, embedding)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = nn.GroupNorm(8, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x`` (B, C, H, W), ``condition`` (B, E) -> (B, C, H, W)."""
        h = self.conv_in(F.silu(self.norm_in(x, condition)))
        return x + self.conv_out(F.silu(self.norm_out(h)))


class TransformerBlock(nn.Module):
    """Self-attention over all positions, then an MLP."""

    def __init__(self, channels: int, embedding: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = Modulation(channels, embedding)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)
        self.norm_mlp = Modulation(channels, embedding)
        self.mlp_in = nn.Linear(channels, 3 * channels)
        self.mlp_out = nn.Linear(3 * channels, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x`` (B, C, H, W), ``condition`` (B, E) -> (B, C, H, W)."""
        h = _tokens(self.norm_attention(x, condition))
        q, k, v = (self._split(proj(h)) for proj in (self.to_q, self.to_k, self.to_v))
        # Written out: at 64 tokens this is several times faster backwards than the fused kernel.
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)
        x = x + _grid(self.to_out((weights @ v).transpose(1, 2).flatten(2)), x)
        h = _tokens(self.norm_mlp(x, condition))
        return x + _grid(self.mlp_out(F.silu(self.mlp_in(h))), x)

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FlowNetwork(nn.Module):
    """Predicts the velocity ``noise - picture``."""

    def __init__(self, settings: NetworkSettings = NetworkSettings()) -> None:
        super().__init__()
        self.settings = settings
        high, mid, low = settings.widths
        e = settings.embedding
        self.level = nn.Sequential(nn.Linear(64, e), nn.SiLU(), nn.Linear(e, e))
        self.words = nn.ModuleList(
            nn.Embedding(len(values) + 1, e) for values in ATTRIBUTES.values()
        )
        self.prompt = nn.Sequential(nn.Linear(e * len(ATTRIBUTES), e), nn.SiLU(), nn.Linear(e, e))
        self.enter = nn.Conv2d(12, high, 3, padding=1)
        self.high_in = ConvBlock(high, e)
        self.down_mid = nn.Conv2d(high, mid, 2, stride=2)
        self.mid_in = ConvBlock(mid, e)
        self.down_low = nn.Conv2d(mid, low, 2, stride=2)
        self.position = nn.Parameter(torch.zeros(1, low, SIZE // 8, SIZE // 8))
        self.blocks = nn.ModuleList(
            TransformerBlock(low, e, settings.heads) for _ in range(settings.transformer_blocks)
        )
        self.up_mid = nn.Conv2d(low, 4 * mid, 1)
        self.mid_out = ConvBlock(mid, e)
        self.up_high = nn.Conv2d(mid, 4 * high, 1)
        self.high_out = ConvBlock(high, e)
        self.norm_leave = nn.GroupNorm(8, high)
        self.leave = nn.Conv2d(high, 12, 3, padding=1)
        self._start_quiet()

    def forward(self, x: Tensor, sigma: Tensor, prompts: Tensor) -> Tensor:
        """Velocity at noise level ``sigma``.

        Args:
            x: (B, 3, 64, 64) noised pictures.
            sigma: (B,) noise levels in [0, 1].
            prompts: (B, len(ATTRIBUTES)) int64 indices from ``pictures.encode``; 0 is unnamed.

        Returns:
            (B, 3, 64, 64) ``noise - picture``.
        """
        condition = self._condition(sigma, prompts)
        level = sigma[:, None, None, None].clamp(min=LEAST_SIGMA)
        return (x - self._picture(x, condition)) / level

    def _picture(self, x: Tensor, condition: Tensor) -> Tensor:
        high = self.enter(F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
        high = self.high_in(high, condition)
        mid = self.mid_in(self.down_mid(high), condition)
        low = self.down_low(mid) + self.position
        for block in self.blocks:
            low = block(low, condition)
        mid = self.mid_out(mid + F.pixel_shuffle(self.up_mid(low), 2), condition)
        high = self.high_out(high + F.pixel_shuffle(self.up_high(mid), 2), condition)
        return F.pixel_shuffle(self.leave(F.silu(self.norm_leave(high))), 2).contiguous()

    def _condition(self, sigma: Tensor, prompts: Tensor) -> Tensor:
        words = [word(prompts[:, i]) for i, word in enumerate(self.words)]
        return F.silu(self.level(_waves(sigma)) + self.prompt(torch.cat(words, dim=1)))

    def _start_quiet(self) -> None:
        """Begin as the identity: last layers of residual branches and of the network at zero."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                nn.init.zeros_(module.conv_out.weight)
            elif isinstance(module, TransformerBlock):
                nn.init.zeros_(module.to_out.weight)
                nn.init.zeros_(module.mlp_out.weight)
        nn.init.zeros_(self.leave.weight)
        nn.init.normal_(self.position, std=0.02)


def encode_prompts(prompts: Sequence[str]) -> Tensor:
    """Prompts as (B, len(ATTRIBUTES)) int64 indices.

    Raises:
        ValueError: a prompt names two values of one attribute.
    """
    return torch.tensor([encode(text) for text in prompts], dtype=torch.int64)


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Pictures (B, H, W, 3) in [0, 1] as (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() * 2 - 1


def to_pictures(tensor: Tensor) -> np.ndarray:
    """Tensor (B, 3, H, W) in [-1, 1] as pictures (B, H, W, 3) float32, clipped to [0, 1]."""
    unit = (tensor.detach().float().clamp(-1, 1) + 1) / 2
    return unit.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def seeded_noise(seeds: Sequence[int]) -> Tensor:
    """Starting noise (B, 3, 64, 64), each row from its own seed whatever its neighbours are."""
    return torch.stack(
        [torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 16,
    batch_size: int = 32,
) -> Tensor:
    """Pictures drawn by the model: Euler steps from noise (sigma 1) to picture (sigma 0).

    Args:
        prompts: B prompts.
        seeds: B seeds; the same seed starts from the same noise under every prompt and model.
        steps: Euler steps; each is one forward pass.
        batch_size: rows per forward pass.

    Returns:
        (B, 3, 64, 64) float32, near [-1, 1].

    Raises:
        ValueError: prompts and seeds differ in number, or a prompt contradicts itself.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed a prompt.")
    rows, words = seeded_noise(seeds), encode_prompts(prompts)
    return torch.cat(
        [
            _integrate(model, rows[i : i + batch_size], words[i : i + batch_size], steps)
            for i in range(0, len(rows), batch_size)
        ]
    )


def load_base(path: Path | None = None) -> FlowNetwork:
    """The trained base model in float32, frozen and in eval mode.

    Args:
        path: weights file; the shipped one if None.

    Raises:
        FileNotFoundError: no weights at ``path``.
    """
    if path is None:
        with as_file(files(__package__).joinpath(WEIGHTS)) as shipped:
            return load_base(shipped)
    if not path.is_file():
        raise FileNotFoundError(
            f"No base model at {path}. Make one with: python -m dpo_core.demo.pretrain --out {path}"
        )
    model = FlowNetwork()
    with safe_open(str(path), framework="pt") as file:
        model.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})
    return prepare(model.requires_grad_(False).eval())


def prepare(model: FlowNetwork) -> FlowNetwork:
    """Lay out the weights as the convolutions run fastest on a CPU."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def describe(settings: NetworkSettings) -> dict[str, str]:
    """Settings as text, for a file's metadata."""
    return {name: str(value) for name, value in asdict(settings).items()}


def _integrate(model: nn.Module, x: Tensor, words: Tensor, steps: int) -> Tensor:
    sigmas = torch.linspace(1.0, 0.0, steps + 1)
    for now, then in pairwise(sigmas):
        x = x + (then - now) * model(x, now.expand(len(x)), words)
    return x


def _waves(sigma: Tensor) -> Tensor:
    """(B,) noise levels -> (B, 64) sines and cosines."""
    rates = torch.exp(torch.linspace(0.0, math.log(100.0), 32, device=sigma.device))
    angle = sigma[:, None] * rates * math.pi
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _grid(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape)
