"""Kinds of op that hold weights: linear, convolutions, norms, embeddings, constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxquant.testing.kind import Kind, Shape, Values

if TYPE_CHECKING:
    from fxquant.testing.spec import Op

CONV = ("width", "kernel", "stride", "padding", "groups", "bias", "special")
_CONVS: dict[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
}


def _skipped(kind: type[nn.Module], *args: Any, **options: Any) -> nn.Module:
    """A module whose weights are not drawn yet: the global random state is left alone."""
    made: nn.Module = nn.utils.skip_init(kind, *args, **options)  # type: ignore[no-untyped-call]
    return made


def _linear(op: Op, values: Values) -> nn.Module:
    return _skipped(nn.Linear, values[0].shape[-1], op.width, bias=op.bias)


def _conv_fits(op: Op, values: Values) -> bool:
    channels, *sizes = values[0].shape
    is_ranked = values[0].rank == (2 if op.kind.endswith("1d") else 3)
    return is_ranked and channels % op.groups == 0 and all(size > 0 for size in _sizes(op, sizes))


def _sizes(op: Op, sizes: list[int]) -> list[int]:
    if "transpose" in op.kind:
        return [(size - 1) * op.stride - 2 * op.padding + op.kernel for size in sizes]
    return [(size + 2 * op.padding - op.kernel) // op.stride + 1 for size in sizes]


def _conv_shape(op: Op, values: Values) -> Shape:
    return (op.width * op.groups, *_sizes(op, list(values[0].shape[1:])))


def _conv(op: Op, values: Values) -> nn.Module:
    return _skipped(
        _CONVS[op.kind], values[0].shape[0], op.width * op.groups, op.kernel,
        stride=op.stride, padding=op.padding, groups=op.groups, bias=op.bias,
    )  # fmt: skip


def _batchnorm(op: Op, values: Values) -> nn.Module:
    return _skipped(nn.BatchNorm2d if values[0].rank == 3 else nn.BatchNorm1d, values[0].shape[0])


def _layer_norm(op: Op, values: Values) -> nn.Module:
    return _skipped(nn.LayerNorm, values[0].shape[-1])


def _embedding(op: Op, values: Values) -> nn.Module:
    return _skipped(nn.Embedding, values[0].vocabulary, op.width)


def _constant(op: Op, values: Values) -> torch.Tensor:
    return torch.zeros(values[0].shape)


LAYERS = (
    Kind(
        "linear", shape=lambda op, values: (*values[0].shape[:-1], op.width), part=_linear,
        draws=("width", "bias", "special"), is_module=True, makes_contiguous=True,
    ),
    *(Kind(name, fits=_conv_fits, shape=_conv_shape, part=_conv, draws=CONV, is_module=True) for name in _CONVS),
    Kind("batchnorm", part=_batchnorm, is_module=True),
    Kind("layer_norm", part=_layer_norm, draws=("special",), is_module=True),
    Kind(
        "embedding", shape=lambda op, values: (*values[0].shape, op.width), takes_tokens=True,
        part=_embedding, draws=("width", "special"), is_module=True,
    ),
    Kind("add_constant", part=_constant, call=lambda op, part, x: x + part, draws=("special",)),
    Kind("mul_constant", part=_constant, call=lambda op, part, x: part * x, draws=("special",)),
)  # fmt: skip
