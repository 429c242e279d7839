"""A small vision transformer (Dosovitskiy et al. 2021), the model of `vit.mopt`."""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """Self-attention of several heads, queries, keys and values from one layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)  # [N, heads, T, C / heads]
        return self.out(mixed.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.down(self.dropout(nn.functional.gelu(self.up(self.norm2(x))))))


class VisionTransformer(nn.Module):
    """f32[N, 1, size, size] (0 to 1) → f32[N, classes] logits.

    The defaults are the recipe's: 16 patches of 7×7, 6 blocks, 305,034 parameters. ViT-B/16 is
    `VisionTransformer(224, 16, 3, width=768, depth=12, heads=12, hidden=3072, classes=1000)`.
    """

    def __init__(
        self,
        size: int = 28,
        patch: int = 7,
        channels: int = 1,
        *,
        width: int = 64,
        depth: int = 6,
        heads: int = 4,
        hidden: int = 256,
        classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])
