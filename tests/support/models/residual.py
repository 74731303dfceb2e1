"""ResNets: basic and bottleneck blocks, one in-place ReLU a block used several times, as the field writes them."""

from __future__ import annotations

import torch
from torch import nn


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, then batch norm: the pair that folds."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Basic(nn.Module):
    """conv-bn-relu-conv-bn, plus the shortcut, then the same relu again."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inputs, width, 3, stride)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_norm(width, width, 3)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)

    def branch_end(self) -> nn.Module:
        return self.bn2


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1, each with batch norm; the last one four times as wide."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inputs, width, 1)
        self.conv2, self.bn2 = conv_norm(width, width, 3, stride)
        self.conv3, self.bn3 = conv_norm(width, width * 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * 4, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)

    def branch_end(self) -> nn.Module:
        return self.bn3


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(*conv_norm(inputs, outputs, 1, stride))


class ResNet(nn.Module):
    """Stem, four stages, global pooling, classifier."""

    def __init__(
        self, block: type[Basic] | type[Bottleneck], depths: tuple[int, ...], width: int, classes: int
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, width, 7, 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], width
        for index, depth in enumerate(depths):
            wide, stride = width * 2**index, 1 if index == 0 else 2
            blocks = [block(inputs, wide, stride)]
            inputs = wide * block.expansion
            blocks += [block(inputs, wide, 1) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layers(x))
        return self.fc(torch.flatten(x, 1))


def resnet18(width: int = 64, classes: int = 1000) -> ResNet:
    """11.7 M parameters at the full width."""
    return ResNet(Basic, (2, 2, 2, 2), width, classes)


def resnet50(width: int = 64, classes: int = 1000) -> ResNet:
    """25.6 M parameters at the full width."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width, classes)
