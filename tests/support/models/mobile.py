"""MobileNets: depthwise convolutions, inverted residuals; V2 with ReLU6, V3 with hard-swish and squeeze-excite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from support.models.residual import conv_norm

Activation = Callable[[], nn.Module]


def relu6() -> nn.Module:
    """As torchvision has it."""
    return nn.ReLU6(inplace=True)


def hardswish() -> nn.Module:
    """x · relu6(x + 3) / 6."""
    return nn.Hardswish(inplace=True)


class SqueezeExcite(nn.Module):
    """Each channel is scaled by a gate that sees the whole picture."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.relu, self.gate = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.gate(self.up(self.relu(self.down(self.pool(x)))))
        return scale * x


class InvertedResidual(nn.Module):
    """1×1 wider, depthwise 3×3, (squeeze-excite), 1×1 narrower without activation; a shortcut where shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expand: int, activation: Activation, *, excite: bool = False
    ) -> None:
        super().__init__()
        hidden = inputs * expand
        widen = [] if expand == 1 else [*conv_norm(inputs, hidden, 1), activation()]
        depthwise = [*conv_norm(hidden, hidden, 3, stride, groups=hidden), activation()]
        squeeze = [SqueezeExcite(hidden, max(hidden // 4, 4))] if excite else []
        self.conv = nn.Sequential(*widen, *depthwise, *squeeze, *conv_norm(hidden, outputs, 1))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_residual:
            return x + self.conv(x)
        return self.conv(x)

    def branch_end(self) -> nn.Module | None:
        return self.conv[-1] if self.is_residual else None


class MobileNetV2(nn.Module):
    """Stem, inverted residuals by (expand, channels, repeats, stride), 1×1 head, classifier behind dropout."""

    def __init__(self, stages: tuple[tuple[int, int, int, int], ...], stem: int, head: int, classes: int) -> None:
        super().__init__()
        layers = [*conv_norm(3, stem, 3, 2), relu6()]
        inputs = stem
        for expand, channels, repeats, stride in stages:
            for index in range(repeats):
                layers.append(InvertedResidual(inputs, channels, stride if index == 0 else 1, expand, relu6))
                inputs = channels
        self.features = nn.Sequential(*layers, *conv_norm(inputs, head, 1), relu6())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class MobileNetV3(nn.Module):
    """A short V3: hard-swish, squeeze-and-excite in every other block, two-layer classifier."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, width, 3, 2), hardswish())
        self.blocks = nn.Sequential(
            InvertedResidual(width, width, 1, 1, relu6, excite=True),
            InvertedResidual(width, width * 2, 2, 4, hardswish),
            InvertedResidual(width * 2, width * 2, 1, 4, hardswish, excite=True),
            InvertedResidual(width * 2, width * 4, 2, 6, hardswish, excite=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(width * 4, width * 8), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(width * 8, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.blocks(self.stem(x)))
        return self.classifier(x.flatten(1))


def mobilenet_v2() -> MobileNetV2:
    """3.5 M parameters, as in the paper (Sandler et al. 2018, table 2)."""
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    return MobileNetV2(stages, 32, 1280, 1000)


def mobilenet_v2_tiny() -> MobileNetV2:
    """Every kind of block once or twice."""
    return MobileNetV2(((1, 8, 1, 1), (4, 12, 2, 2), (4, 16, 2, 1)), 8, 32, 10)
