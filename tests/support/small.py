"""Small models of one idea each, with data, for what the compiler does with a layer. `SMALL[name].make()`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from support.data import Sampler, images, vectors
from support.models.case import Case


class Applied(nn.Module):
    """A function of its parts and the input."""

    def __init__(self, function: Callable[..., torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.parts)


def _of(sampler: Sampler, *layers: Callable[[], nn.Module]) -> Case:
    return Case(lambda: nn.Sequential(*(layer() for layer in layers)), sampler)


def _on(sampler: Sampler, function: Callable[..., torch.Tensor], *layers: Callable[[], nn.Module]) -> Case:
    return Case(lambda: Applied(function, *(layer() for layer in layers)), sampler)


def _conv(**options: object) -> Callable[[], nn.Module]:
    return partial(nn.Conv2d, 4, 4, 3, **options)  # type: ignore[arg-type]


PICTURE, VECTOR = images(8, 4), vectors(8)
LINE: Callable[[], nn.Module] = partial(nn.Linear, 8, 8)

# Where raw FX and fxquant must agree to the bit, on engines whose kernels are sound.
AGREE: dict[str, Case] = {
    "conv": _of(PICTURE, _conv()),
    "conv_without_bias": _of(PICTURE, _conv(bias=False)),
    "conv_relu": _of(PICTURE, _conv(padding=1), nn.ReLU),
    "conv_depthwise": _of(PICTURE, _conv(groups=4)),
    "conv_dilated": _of(PICTURE, _conv(dilation=2, stride=2)),
    "conv_reflect": _of(PICTURE, _conv(padding=1, padding_mode="reflect"), nn.ReLU),
    "conv1d": _of(vectors(4, 9), partial(nn.Conv1d, 4, 6, 3), nn.ReLU),
    "conv3d": _of(vectors(2, 5, 5, 5), partial(nn.Conv3d, 2, 4, 3), nn.ReLU),
    "conv_transpose": _of(PICTURE, partial(nn.ConvTranspose2d, 4, 6, 3, stride=2)),
    "conv_transpose1d": _of(vectors(4, 7), partial(nn.ConvTranspose1d, 4, 6, 3, stride=2)),
    "linear": _of(VECTOR, LINE),
    "linear_without_bias": _of(VECTOR, partial(nn.Linear, 8, 5, bias=False)),
    "linear_of_three_dimensions": _of(vectors(3, 8), LINE, nn.ReLU),
    "add": _on(VECTOR, lambda x, a, b: a(x) + b(x), LINE, LINE),
    "add_relu": _on(VECTOR, lambda x, a, b: F.relu(a(x) + b(x)), LINE, LINE),
    "mul": _on(VECTOR, lambda x, a, b: a(x) * b(x), LINE, LINE),
    "cat": _on(VECTOR, lambda x, a, b: torch.cat([a(x), b(x)], 1), LINE, LINE),
    "matmul": _on(vectors(8, 8), lambda x, a, b: torch.matmul(a(x), b(x)), LINE, LINE),
    "max_pool": _of(PICTURE, _conv(), partial(nn.MaxPool2d, 2)),
    "avg_pool": _of(PICTURE, _conv(), partial(nn.AvgPool2d, 2)),
    "mean": _on(PICTURE, lambda x, a, b: b(a(x).mean((2, 3))), _conv(), partial(nn.Linear, 4, 2)),
    "interpolate": _on(PICTURE, lambda x, a: F.interpolate(a(x), scale_factor=2), _conv()),
    "reshape": _on(
        VECTOR, lambda x, a, b: b(a(x).reshape(x.size(0), 2, -1).transpose(1, 2)), LINE, lambda: nn.Linear(2, 3)
    ),
    "layer_norm": _of(VECTOR, LINE, partial(nn.LayerNorm, 8)),
    "sigmoid": _of(VECTOR, LINE, nn.Sigmoid),
    "hardswish": _of(PICTURE, _conv(), nn.Hardswish),
    "hardsigmoid": _of(PICTURE, _conv(), nn.Hardsigmoid),
    "tanh": _of(VECTOR, LINE, nn.Tanh),
    "leaky_relu": _of(VECTOR, LINE, nn.LeakyReLU),
    "softmax": _of(VECTOR, LINE, partial(nn.Softmax, -1)),
    "float_gelu_between": _of(VECTOR, LINE, nn.GELU, partial(nn.Linear, 8, 2)),
}

# What raw FX fails on or gets wrong.
BETTER: dict[str, Case] = {
    "conv_circular": _of(PICTURE, _conv(padding=1, padding_mode="circular")),
    "conv_same": _of(PICTURE, _conv(padding="same")),
    "prelu": _of(VECTOR, LINE, nn.PReLU),
    "chunk": _on(VECTOR, lambda x, a: torch.cat(a(x).chunk(2, 1)[::-1], 1), LINE),
    "flatten": _of(PICTURE, _conv(), nn.Flatten, partial(nn.Linear, 144, 3)),
}

SMALL: dict[str, Case] = {**AGREE, **BETTER}
