"""Plain integer weights → the packed parameters of the native engines. Call inside the engine's own context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.torch_ao import quiet

_OPS = torch.ops.quantized


def quantized_tensor(codes: Tensor, scale: Tensor | float, zero_point: Tensor | int, axis: int | None) -> Tensor:
    """torch's own quantized tensor over int8 or uint8 codes."""
    with quiet():
        if axis is None:
            return torch._make_per_tensor_quantized_tensor(codes, float(scale), int(zero_point))
        assert isinstance(scale, Tensor) and isinstance(zero_point, Tensor)
        return torch._make_per_channel_quantized_tensor(codes, scale.double(), zero_point, axis)


def sizes_of(value: Any, dims: int) -> list[int]:
    """A stride, padding or dilation as one number for each dimension."""
    return [value] * dims if isinstance(value, int) else list(value)


HALF_ENGINES = ("x86", "fbgemm")  # the others refuse linear_prepack_fp16


def pack_half_linear(half: Tensor, bias: Tensor | None) -> Any:
    """The packed parameters of a linear layer whose weight is held as float16."""
    return _OPS.linear_prepack_fp16(half.float(), bias)


def _pack_linear(weight: Tensor, bias: Tensor | None) -> Any:
    return _OPS.linear_prepack(weight, bias)


def _pack_conv(dims: int) -> Callable[..., Any]:
    prepack = {1: _OPS.conv1d_prepack, 2: _OPS.conv2d_prepack, 3: _OPS.conv3d_prepack}[dims]

    def pack(weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        return prepack(weight, bias, sizes_of(stride, dims), sizes_of(padding, dims), sizes_of(dilation, dims), groups)

    return pack


def _pack_transposed(dims: int) -> Callable[..., Any]:
    prepack = {
        1: _OPS.conv_transpose1d_prepack,
        2: _OPS.conv_transpose2d_prepack,
        3: _OPS.conv_transpose3d_prepack,
    }[dims]

    def pack(
        weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any
    ) -> Any:
        sizes = (sizes_of(value, dims) for value in (stride, padding, output_padding, dilation))
        return prepack(weight, bias, *sizes, groups)

    return pack


# function of the canonical graph → (how to pack its weight, the engine's op, that op with a relu)
PACKED: dict[Callable[..., Any], tuple[Callable[..., Any], Any, Any]] = {
    F.linear: (_pack_linear, _OPS.linear.default, _OPS.linear_relu.default),
    F.conv1d: (_pack_conv(1), _OPS.conv1d.default, _OPS.conv1d_relu.default),
    F.conv2d: (_pack_conv(2), _OPS.conv2d.new, _OPS.conv2d_relu.new),
    F.conv3d: (_pack_conv(3), _OPS.conv3d.new, _OPS.conv3d_relu.new),
    F.conv_transpose1d: (_pack_transposed(1), _OPS.conv_transpose1d.default, None),
    F.conv_transpose2d: (_pack_transposed(2), _OPS.conv_transpose2d.default, None),
    F.conv_transpose3d: (_pack_transposed(3), _OPS.conv_transpose3d.default, None),
}
