"""Layers on codes whose result stays float: oneDNN's own kernels, which scale their integer sums to float32.

dequantize(codes) → conv(dequantize(w))      ⇒      qconv2d_pointwise(codes, packed)      a float32 tensor
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.passes._canonical import attribute_name, is_activation_quantize, is_native, qparams_of
from fxquant.passes._packing import sizes_of

if TYPE_CHECKING:
    from fxquant.passes._native_graph import NativeGraph

TARGETS = ("x86", "onednn")  # the engines that may use oneDNN


@dataclass(frozen=True, slots=True, eq=False)
class FloatResultWeight:
    """An int8 weight as oneDNN has packed it, best for inputs of one scale and zero point. A copy is packed anew."""

    codes: Tensor  # int8
    scale: Tensor  # float32, one or one for each output channel; zero points are 0
    bias: Tensor | None
    x_scale: float
    x_zero_point: int
    options: tuple[Any, ...]  # stride, padding, dilation, groups; none for linear
    packed: Tensor

    @classmethod
    def of(
        cls, codes: Tensor, scale: Tensor, bias: Tensor | None, x_qparams: tuple[float, int], options: tuple[Any, ...]
    ) -> FloatResultWeight:
        """Pack it. RuntimeError where oneDNN refuses."""
        if options:
            packed = torch.ops.onednn.qconv_prepack(codes, scale, *x_qparams, *options, None)
        else:
            packed = torch.ops.onednn.qlinear_prepack(codes, None)
        return cls(codes, scale, bias, *x_qparams, options, packed)

    def __deepcopy__(self, memo: dict[int, Any]) -> FloatResultWeight:
        bias = None if self.bias is None else self.bias.clone()
        x_qparams = self.x_scale, self.x_zero_point
        return self.of(self.codes.clone(), self.scale.clone(), bias, x_qparams, self.options)

    def run(self, op: Callable[..., Tensor], x: Tensor, has_relu: bool) -> Tensor:
        """The float32 result on a quantized tensor, its values in plain order."""
        zeros = torch.zeros(self.scale.shape, dtype=torch.int64)
        weight = self.packed, self.scale, zeros, self.bias
        as_float = 1.0, 0, torch.float32  # no scale and zero point of the result
        after: tuple[str, list[float], str] = "relu" if has_relu else "none", [], ""
        qx = x.int_repr(), x.q_scale(), x.q_zero_point()  # measuring feeds codes of another range
        return op(*qx, *weight, *self.options, *as_float, *after).contiguous()


def qlinear_pointwise(x: Tensor, weight: FloatResultWeight, has_relu: bool = False) -> Tensor:
    """linear, with a relu or without: codes in, float32 out."""
    return weight.run(torch.ops.onednn.qlinear_pointwise.default, x, has_relu)


def qconv1d_pointwise(x: Tensor, weight: FloatResultWeight, has_relu: bool = False) -> Tensor:
    """conv1d, with a relu or without: codes in, float32 out."""
    return weight.run(torch.ops.onednn.qconv1d_pointwise.default, x, has_relu)


def qconv2d_pointwise(x: Tensor, weight: FloatResultWeight, has_relu: bool = False) -> Tensor:
    """conv2d, with a relu or without: codes in, float32 out."""
    return weight.run(torch.ops.onednn.qconv2d_pointwise.default, x, has_relu)


KERNELS: dict[Callable[..., Any], tuple[Callable[..., Any], int]] = {  # and how many dimensions options have
    F.linear: (qlinear_pointwise, 0),
    F.conv1d: (qconv1d_pointwise, 1),
    F.conv2d: (qconv2d_pointwise, 2),
}


def lower(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """The kernel's call for a layer on codes whose float value somebody reads; None for any other node."""
    if node.op != "call_function" or node.target not in KERNELS or native.target not in TARGETS or node in native.avoid:
        return None
    x, weight, bias, *options = node.args
    if not native.is_coded(x) or qparams_of(x)[2] is not torch.uint8 or not _is_read_as_float(native, node):
        return None
    held = native.weight_of(weight)
    if held is None or (isinstance(bias, fx.Node) and bias.op != "get_attr"):
        return None
    made = _packed(held, native.tensor_of(bias), qparams_of(x)[:2], _options(options, KERNELS[node.target][1]))
    if made is None:
        return None
    name = native.own_name(f"{attribute_name(node)}_float_result_packed")
    native.constants[name] = made
    arguments = native.coded(x), native.graph.create_node("get_attr", name)
    return native.graph.call_function(KERNELS[node.target][0], arguments)


def lower_relu(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """The same kernel's call with a relu in it, for a relu that alone reads such a layer; None for any other node."""
    layer = None if node in native.avoid else native.relu_of(node)
    made = None if layer is None else native.values.get(layer)
    if made is None or made.target not in [kernel for kernel, _ in KERNELS.values()]:
        return None
    return native.graph.call_function(made.target, (*made.args, True))


def _options(options: list[Any], dims: int) -> tuple[Any, ...]:
    return (*(sizes_of(value, dims) for value in options[:3]), options[3]) if dims else ()


def _packed(
    held: Tensor, bias: Tensor | None, x_qparams: tuple[float, int], options: tuple[Any, ...]
) -> FloatResultWeight | None:
    """None where oneDNN has no such kernel, or the weight is not symmetric."""
    is_per_channel = held.qscheme() is torch.per_channel_affine
    zero_points = held.q_per_channel_zero_points() if is_per_channel else torch.tensor([held.q_zero_point()])
    if bool(zero_points.any()) or "onednn" not in torch.backends.quantized.supported_engines:
        return None
    scale = held.q_per_channel_scales().float() if is_per_channel else torch.tensor([held.q_scale()])
    try:
        return FloatResultWeight.of(held.int_repr(), scale, bias, x_qparams, options)
    except (RuntimeError, AttributeError):  # it refuses the shapes, or this torch has no such op
        return None


def _is_read_as_float(native: NativeGraph, node: fx.Node) -> bool:
    """Does anything read the value but quantizes that a kernel ends in, by itself or through a relu?"""
    return any(
        not _gives_codes(user) and not (native.relu_of(user) is node and all(map(_gives_codes, user.users)))
        for user in node.users
    )


def _gives_codes(node: fx.Node) -> bool:
    """A quantize to what engines hold; a narrower one rounds a float value."""
    return is_activation_quantize(node) and is_native(node)
