"""Nets of concatenations and skips: U-Net (transposed convolutions), a dense block, and the plain MLP."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from support.models.residual import conv_norm


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """conv-bn-relu twice."""
    first, second = conv_norm(inputs, outputs, 3), conv_norm(outputs, outputs, 3)
    return nn.Sequential(*first, nn.ReLU(inplace=True), *second, nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Two steps down, two up by ConvTranspose2d (2×2: see TransposeKernelTwo), concatenated skips."""

    def __init__(self, width: int = 8, classes: int = 2) -> None:
        super().__init__()
        self.down1, self.down2 = double_conv(3, width), double_conv(width, width * 2)
        self.pool = nn.MaxPool2d(2)  # called twice, and shares nothing: it has no scale of its own
        self.bottom = double_conv(width * 2, width * 4)
        self.up2 = nn.ConvTranspose2d(width * 4, width * 2, 2, stride=2)
        self.join2 = double_conv(width * 4, width * 2)
        self.up1 = nn.ConvTranspose2d(width * 2, width, 2, stride=2)
        self.join1 = double_conv(width * 2, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.down1(x)
        middle = self.down2(self.pool(high))
        low = self.bottom(self.pool(middle))
        middle = self.join2(torch.cat([self.up2(low), middle], dim=1))
        return self.head(self.join1(torch.cat([self.up1(middle), high], dim=1)))


class DenseBlock(nn.Module):
    """DenseNet: bn-relu-conv, each layer sees all before it. Norms before convs cannot fold."""

    def __init__(self, inputs: int = 8, growth: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, inputs, 3, padding=1)
        widths = [inputs + growth * index for index in range(depth)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths)
        self.head = nn.Linear(inputs + growth * depth, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(nn.functional.relu(norm(torch.cat(features, 1)), inplace=True)))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class MLP(nn.Module):
    """Linear, ReLU, Linear, ReLU, Linear."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        layers: list[nn.Module] = []
        for inputs, outputs in pairs[:-1]:
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(*pairs[-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class NormalizedMLP(nn.Module):
    """Linear and BatchNorm1d, which fold into one Linear."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.fc1, self.bn1, self.relu = nn.Linear(8, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()
        self.fc2 = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.relu(self.bn1(self.fc1(x))))
