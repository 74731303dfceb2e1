"""Transformers by hand, so that raw torch.fx traces them: post-LN (BERT), pre-LN (GPT, ViT), attention from Linears."""

from __future__ import annotations

import math

import torch
from torch import nn


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q · kᵀ / √d) · v, from Linear, view, transpose and matmul."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.depth = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.depth)
        mixed = torch.matmul(nn.functional.softmax(scores, dim=-1), value)
        return self.output(mixed.transpose(1, 2).contiguous().view(x.size(0), -1, self.heads * self.depth))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0), -1, self.heads, self.depth).transpose(1, 2)


class PostNormLayer(nn.Module):
    """BERT: norm(x + f(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.norm1 = Attention(width, heads), nn.LayerNorm(width)
        self.up, self.activation, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        self.norm2, self.dropout = nn.LayerNorm(width), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.down(self.activation(self.up(x)))))


class PreNormLayer(PostNormLayer):
    """GPT and ViT: x + f(norm(x))."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.down(self.activation(self.up(self.norm2(x)))))


class Encoder(nn.Module):
    """Token and position embeddings, layers, the mean over tokens; a fixed length keeps the positions constant."""

    positions: torch.Tensor

    def __init__(
        self, layer: type[PostNormLayer], depth: int, width: int, heads: int, *, length: int, vocabulary: int
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.register_buffer("positions", torch.arange(length).unsqueeze(0))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(layer(width, heads, width * 4) for _ in range(depth)))
        self.final = nn.LayerNorm(width) if layer is PreNormLayer else nn.Identity()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.tokens(ids) + self.places(self.positions))
        return self.final(self.layers(x)).mean(1)


class ViT(nn.Module):
    """Patches by a strided convolution, a class token, pre-norm layers."""

    def __init__(self, size: int, patch: int, depth: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        count = (size // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, count + 1, width) * 0.2)
        self.layers = nn.Sequential(*(PreNormLayer(width, heads, width * 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1) + self.places
        return self.head(self.norm(self.layers(x))[:, 0])


def encoder(layer: type[PostNormLayer] = PostNormLayer, *, length: int = 128) -> Encoder:
    """6 × 384 with 12 heads, the shape of the small sentence encoders."""
    return Encoder(layer, 6, 384, 12, length=length, vocabulary=30522)


def encoder_tiny(layer: type[PostNormLayer] = PostNormLayer) -> Encoder:
    """2 × 32 with 4 heads over 16 tokens."""
    return Encoder(layer, 2, 32, 4, length=16, vocabulary=100)
