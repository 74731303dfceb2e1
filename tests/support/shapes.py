"""Models by the shape of their graph and by what their Python does, for tests of capture."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Self-attention by hand, with sizes read from the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
        mixed = scores.softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.size(0), -1, width))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions in a parameter, pre-norm blocks."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 32, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attentions = nn.ModuleList(Attention(width, 2) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, image):
        assert image.dim() == 4, f"expected a batch of images, got {image.shape}"
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.position[:, : x.size(1)]
        for index, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * index](x))
            x = x + mlp(self.norms[2 * index + 1](x))
        return self.head(x[:, 0])


class UNet(nn.Module):
    """Down, up, skips concatenated, sizes taken from the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ModuleList([nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)])

    def forward(self, x):
        skips = []
        for conv in self.down:
            x = F.relu(conv(x))
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for conv, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = conv(torch.cat([x, skip], dim=1))
        return x


class Siamese(nn.Module):
    """One tower called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))

    def forward(self, left, right):
        a, b = self.tower(left), self.tower(right)
        return F.cosine_similarity(a, b), (a - b).pow(2).sum(-1)


class DenseBlock(nn.Module):
    """Each layer sees all before it; asks isinstance of its input, as densely connected networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 + 2 * index, 2, 3, padding=1) for index in range(3))

    def forward(self, x):
        features = [x] if isinstance(x, torch.Tensor) else list(x)
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class ChannelShuffle(nn.Module):
    """Groups shuffled by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, groups=2)

    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        left, right = x.chunk(2, dim=1)
        return torch.cat((right, left), dim=1)


class SqueezeExcite(nn.Module):
    """A gate per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc1, self.fc2 = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(self.pool(x)))))
        x *= gate
        return x


class Positions(nn.Module):
    """arange over a size, on the input's device, into an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 6), nn.Embedding(16, 6)
        self.register_buffer("mask", torch.full((16, 16), float("-inf")).triu(1))

    def forward(self, ids):
        length = ids.shape[1]
        hidden = self.words(ids) + self.places(torch.arange(length, device=ids.device))
        scores = hidden @ hidden.transpose(1, 2) + self.mask[:length, :length]
        return torch.zeros(ids.size(0), 1) + scores.softmax(-1).sum(-1)


class Pair(NamedTuple):
    first: object
    second: object


@dataclass
class Detection:
    """An output class that torch's pytree does not know."""

    boxes: object
    scores: object = None


class Output(OrderedDict):
    """A dict subclass whose items are attributes too, as model hubs have them."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)


class Nested(nn.Module):
    """Every kind of argument, and nested outputs of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, batch, pair=None, *rest, scale: float = 2.0, **others):
        x = self.fc(batch["image"]) * scale
        if pair is not None:
            x = x + pair[0] - pair[1]
        for value in rest:
            x = x + value
        return Output(
            x=x,
            pair=Pair(x, None),
            found=Detection(boxes=[x, batch["image"]], scores={"a": x * others["bias"], "n": 3}),
            weight=self.fc.weight,
        )


class Views(nn.Module):
    """Item and augmented assignment through names that share memory, and sizes that are rebound."""

    def forward(self, x):
        y = torch.zeros_like(x)
        y[:, 0] = 1
        y += x
        flat = y.view(-1)
        flat *= 2
        size = x.shape[0]
        other = size
        other += 1
        return y * size + other


class Guards(nn.Module):
    """Assertions and branches on ranks and shapes."""

    def forward(self, x):
        assert x.dim() in (2, 3)
        assert x.shape[1] == 4 and x.shape[0] > 0, "four columns"
        if x.ndim == 2:
            x = x[None]
        if len(x.shape) != 3:
            raise ValueError("rank")
        return x.flatten(1).view(*x.shape).reshape(tuple(x.shape))


class Branch(nn.Module):
    """A branch on a tensor's value."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        if x.sum() > 0:
            return self.fc(x)
        return x


class Deep(nn.Module):
    """A branch on a tensor's value, two modules down."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.Sequential(Branch(), nn.ReLU())

    def forward(self, x):
        return self.blocks(self.stem(x))


class Doubled(torch.autograd.Function):
    """A custom autograd function."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class Custom(nn.Module):
    """A layer with a custom autograd function in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return Doubled.apply(self.fc(x), 2)


class Named(nn.Module):
    """Submodules under a list of names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x
