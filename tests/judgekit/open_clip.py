"""A tiny CLIP with open_clip's names and arithmetic, in plain torch."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

WIDTH, TEXT_WIDTH, PROJECTION, PATCH, GRID, CONTEXT = 128, 64, 24, 4, 4, 12
SIDE = PATCH * GRID


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 3 * width), gelu=nn.GELU(), c_proj=nn.Linear(3 * width, width)
            )
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty(GRID * GRID + 1, WIDTH))
        self.proj = nn.Parameter(torch.empty(WIDTH, PROJECTION))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH, heads=2, layers=2)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """All weights are drawn: none is 0 or 1, so that none can stand for another."""

    def __init__(self, vocabulary: int, seed: int = 0) -> None:
        super().__init__()
        self.visual = Visual()
        self.transformer = Transformer(TEXT_WIDTH, heads=1, layers=3)
        self.token_embedding = nn.Embedding(vocabulary, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, TEXT_WIDTH))
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.empty(TEXT_WIDTH, PROJECTION))
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        drawn(self, seed)

    def image_vectors(self, pixels: Tensor) -> Tensor:
        return normalize(self.visual(pixels), dim=-1)

    def text_vector(self, tokens: list[int]) -> Tensor:
        """Padded with zeros and read off at the largest number, as in open_clip."""
        numbers = torch.tensor([tokens + [0] * (CONTEXT - len(tokens))])
        mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1)
        x = self.token_embedding(numbers) + self.positional_embedding
        x = self.ln_final(self.transformer(x, mask))
        return normalize(x[0, numbers[0].argmax()] @ self.text_projection, dim=-1)


def drawn(network: nn.Module, seed: int) -> None:
    """Draws all weights of a network: about as large as trained ones."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            scale = 1.5 * weights[0].numel() ** -0.5 if weights.ndim > 1 else 0.5
            weights.copy_(torch.randn(weights.shape, generator=source) * scale)
