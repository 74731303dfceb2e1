"""Nets whose tables were found by search: MobileNetV3-Large and EfficientNet-B0, both of inverted residuals with gates.

Tables as published: Howard et al., "Searching for MobileNetV3", 2019, table 1; Tan and Le, "EfficientNet", 2019, table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from support.models.residual import conv_norm

Activation = Callable[[], nn.Module]


def relu() -> nn.Module:
    """In place, as the field writes it."""
    return nn.ReLU(inplace=True)


def hardswish() -> nn.Module:
    """x · relu6(x + 3) / 6."""
    return nn.Hardswish(inplace=True)


def silu() -> nn.Module:
    """x · sigmoid(x)."""
    return nn.SiLU(inplace=True)


def rounded(channels: float) -> int:
    """The nearest multiple of eight, eight at least, and never less than nine tenths."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found if found >= 0.9 * channels else found + 8


@dataclass(frozen=True, slots=True)
class Block:
    """One row of a table. `squeezed` is the width within the gate, 0 for none."""

    kernel: int
    inputs: int
    hidden: int
    outputs: int
    stride: int
    squeezed: int
    activation: Activation
    squeeze_activation: Activation = relu
    gate: Activation = nn.Hardsigmoid


class Gate(nn.Module):
    """Squeeze-and-excite: the mean of each channel, two 1×1 convolutions, and a gate that scales the channels."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.activation = nn.Conv2d(block.hidden, block.squeezed, 1), block.squeeze_activation()
        self.up, self.gate = nn.Conv2d(block.squeezed, block.hidden, 1), block.gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.up(self.activation(self.down(self.pool(x)))))


class GatedResidual(nn.Module):
    """1×1 wider, depthwise k×k, gate, 1×1 narrower without activation; a shortcut where shapes agree."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        wide, act = block.hidden, block.activation
        layers = [] if wide == block.inputs else [*conv_norm(block.inputs, wide, 1), act()]
        layers += [*conv_norm(wide, wide, block.kernel, block.stride, groups=wide), act()]
        layers += [Gate(block)] if block.squeezed else []
        self.layers = nn.Sequential(*layers, *conv_norm(wide, block.outputs, 1))
        self.is_residual = block.stride == 1 and block.inputs == block.outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)

    def branch_end(self) -> nn.Module | None:
        return self.layers[-1] if self.is_residual else None


class Gated(nn.Module):
    """Stem, blocks, 1×1 head, global pooling, classifier."""

    def __init__(self, blocks: list[Block], activation: Activation, head: int, classifier: list[nn.Module]) -> None:
        super().__init__()
        stem, last = blocks[0].inputs, blocks[-1].outputs
        self.stem = nn.Sequential(*conv_norm(3, stem, 3, 2), activation())
        self.blocks = nn.Sequential(*map(GatedResidual, blocks))
        self.head = nn.Sequential(*conv_norm(last, head, 1), activation())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(*classifier)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.head(self.blocks(self.stem(x)))), 1))


# kernel, hidden, outputs, has a gate, activation, stride
_V3_LARGE: tuple[tuple[int, int, int, bool, Activation, int], ...] = (
    (3, 16, 16, False, relu, 1),
    (3, 64, 24, False, relu, 2),
    (3, 72, 24, False, relu, 1),
    (5, 72, 40, True, relu, 2),
    (5, 120, 40, True, relu, 1),
    (5, 120, 40, True, relu, 1),
    (3, 240, 80, False, hardswish, 2),
    (3, 200, 80, False, hardswish, 1),
    (3, 184, 80, False, hardswish, 1),
    (3, 184, 80, False, hardswish, 1),
    (3, 480, 112, True, hardswish, 1),
    (3, 672, 112, True, hardswish, 1),
    (5, 672, 160, True, hardswish, 2),
    (5, 960, 160, True, hardswish, 1),
    (5, 960, 160, True, hardswish, 1),
)
# expand, outputs, repeats, stride, kernel
_B0: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _mobilenet_v3(
    rows: tuple[tuple[int, int, int, bool, Activation, int], ...], head: int, wide: int, classes: int
) -> Gated:
    blocks, inputs = list[Block](), 16
    for kernel, hidden, outputs, is_gated, activation, stride in rows:
        squeezed = rounded(hidden / 4) if is_gated else 0
        blocks.append(Block(kernel, inputs, hidden, outputs, stride, squeezed, activation))
        inputs = outputs
    classifier = [nn.Linear(head, wide), hardswish(), nn.Dropout(0.2), nn.Linear(wide, classes)]
    return Gated(blocks, hardswish, head, classifier)


def mobilenet_v3_large() -> Gated:
    """5.5 M parameters."""
    return _mobilenet_v3(_V3_LARGE, 960, 1280, 1000)


def mobilenet_v3_large_tiny() -> Gated:
    """Each kind of block once."""
    return _mobilenet_v3((_V3_LARGE[0], _V3_LARGE[1], _V3_LARGE[3], _V3_LARGE[4], _V3_LARGE[6]), 96, 64, 10)


def _efficientnet(rows: tuple[tuple[int, int, int, int, int], ...], stem: int, head: int, classes: int) -> Gated:
    blocks, inputs = list[Block](), stem
    for expand, outputs, repeats, stride, kernel in rows:
        for index in range(repeats):
            first = stride if index == 0 else 1
            squeezed = max(1, inputs // 4)
            blocks.append(Block(kernel, inputs, inputs * expand, outputs, first, squeezed, silu, silu, nn.Sigmoid))
            inputs = outputs
    return Gated(blocks, silu, head, [nn.Dropout(0.2), nn.Linear(head, classes)])


def efficientnet_b0() -> Gated:
    """5.3 M parameters."""
    return _efficientnet(_B0, 32, 1280, 1000)


def efficientnet_b0_tiny() -> Gated:
    """Each kind of block once or twice."""
    return _efficientnet(((1, 8, 1, 1, 3), (4, 12, 2, 2, 5)), 8, 32, 10)
