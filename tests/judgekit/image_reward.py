"""A tiny ImageReward with its authors' names and arithmetic, in plain torch: timm's ViT, BERT with
cross-attention, and the head."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from .open_clip import drawn

WIDTH, TEXT_WIDTH, PATCH, GRID, POSITIONS = 128, 192, 4, 4, 40
HEAD = 64
SIDE = PATCH * GRID


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(N, L, D) each."""
    q, k, v = (x.unflatten(2, (-1, HEAD)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(2, 3) / HEAD**0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Named(nn.Module):
    """Modules by name, without arithmetic of their own."""

    def __init__(self, /, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class VisionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn = Named(qkv=nn.Linear(WIDTH, 3 * WIDTH), proj=nn.Linear(WIDTH, WIDTH))
        self.mlp = Named(fc1=nn.Linear(WIDTH, 2 * WIDTH), fc2=nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn.proj(attend(*self.attn.qkv(self.norm1(x)).chunk(3, dim=-1)))
        return x + self.mlp.fc2(gelu(self.mlp.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, GRID * GRID + 1, WIDTH))
        self.patch_embed = Named(proj=nn.Conv2d(3, WIDTH, PATCH, PATCH))
        self.blocks = nn.ModuleList([VisionBlock() for _ in range(2)])
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _attention(key_width: int) -> Named:
    return Named(
        self=Named(
            query=nn.Linear(TEXT_WIDTH, TEXT_WIDTH),
            key=nn.Linear(key_width, TEXT_WIDTH),
            value=nn.Linear(key_width, TEXT_WIDTH),
        ),
        output=_output(TEXT_WIDTH),
    )


def _output(width: int) -> Named:
    return Named(
        dense=nn.Linear(width, TEXT_WIDTH), LayerNorm=nn.LayerNorm(TEXT_WIDTH, eps=1e-12)
    )


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.crossattention = _attention(TEXT_WIDTH), _attention(WIDTH)
        self.intermediate = Named(dense=nn.Linear(TEXT_WIDTH, 2 * TEXT_WIDTH))
        self.output = _output(2 * TEXT_WIDTH)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        for attention, keys in ((self.attention, None), (self.crossattention, seen)):
            keys = x if keys is None else keys
            inner = attention.self
            y = attend(inner.query(x), inner.key(keys), inner.value(keys))
            x = attention.output.LayerNorm(attention.output.dense(y) + x)
        y = self.output.dense(gelu(self.intermediate.dense(x)))
        return self.output.LayerNorm(y + x)


class Bert(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embeddings = Named(
            word_embeddings=nn.Embedding(vocabulary, TEXT_WIDTH),
            position_embeddings=nn.Embedding(POSITIONS, TEXT_WIDTH),
            LayerNorm=nn.LayerNorm(TEXT_WIDTH, eps=1e-12),
        )
        self.embeddings.register_buffer("position_ids", torch.arange(POSITIONS).expand(1, -1))
        self.encoder = Named(layer=nn.ModuleList([BertLayer() for _ in range(2)]))

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        places = self.embeddings.position_embeddings.weight[: tokens.shape[1]]
        x = self.embeddings.LayerNorm(self.embeddings.word_embeddings(tokens) + places)
        for layer in self.encoder.layer:
            x = layer(x, seen)
        return x


class ImageReward(nn.Module):
    """With BLIP's projections, which are in the file and not in the score."""

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        super().__init__()
        self.blip = Named(
            visual_encoder=VisionTransformer(),
            text_encoder=Bert(vocabulary),
            vision_proj=nn.Linear(WIDTH, 8),
            text_proj=nn.Linear(TEXT_WIDTH, 8),
        )
        sizes = [TEXT_WIDTH, 32, 16, 1]
        layers: list[nn.Module] = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.mlp = Named(layers=nn.Sequential(layers[0], nn.Dropout(), layers[1], layers[2]))
        drawn(self, seed)

    def forward(self, pixels: Tensor, tokens: list[int]) -> Tensor:
        seen = self.blip.visual_encoder(pixels)
        read = self.blip.text_encoder(torch.tensor([tokens] * len(pixels)), seen)
        score = read[:, 0]
        for layer in self.mlp.layers:
            score = score if isinstance(layer, nn.Dropout) else layer(score)
        return (score[:, 0] - 0.16717362830052426) / 1.0333394966054072
