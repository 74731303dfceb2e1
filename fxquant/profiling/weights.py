"""What the weights of each layer look like, and what is left of them as codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy
import torch
from torch import Tensor, fx, nn

from fxquant.numerics import sqnr_db
from fxquant.profiling.accumulating import Accumulator
from fxquant.profiling.distribution import NOTHING, PERCENTILES, Distribution
from fxquant.profiling.saturation import pair_sum
from fxquant.qconfigs import CONV_TRANSPOSE, WEIGHTED, TensorAsk

INT8 = TensorAsk("qint8", granularity="channel", is_symmetric=True)


@dataclass(frozen=True, slots=True)
class WeightProfile:
    """One weight of a layer, of two or more dimensions."""

    name: str  # of the parameter in its module: 'weight', 'weight_ih_l0'
    shape: tuple[int, ...]
    values: Distribution  # percentiles of |w|, exact; channels along the output axis
    granularity: str  # that was asked for: 'channel', 'tensor', or '' where it stays float
    bits: int  # of the codes that were asked for; 0 where it stays float
    sqnr_db: float | None  # of the weight as those codes; None where it stays float, or has float qparams
    median_sqnr_db: float | None  # the same of the median output channel alone: a wild one hides the others
    sqnr_per_channel_db: float  # with 8 bits and a scale for each output channel
    median_per_channel_db: float  # of the median output channel then
    bits_used: float  # log2 of the codes that the median output channel reaches, as asked for; else per tensor
    pair_sum: int  # the largest |sum| of two products with 8-bit activations: above 32,767 int16 cannot hold it


def weights_of(node: fx.Node, graph_module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the weights that a node of the float graph works with, of two or more dimensions."""
    if node.op == "call_module":
        for name, parameter in graph_module.get_submodule(str(node.target)).named_parameters():
            if parameter.dim() >= 2:
                yield name, parameter
    elif getattr(node.target, "__name__", "") in WEIGHTED:
        for source in node.all_input_nodes:
            value = attribute(graph_module, str(source.target)) if source.op == "get_attr" else None
            if isinstance(value, Tensor) and value.dim() >= 2 and value.is_floating_point():
                yield str(source.target), value


def attribute(module: nn.Module, path: str) -> object:
    """What a get_attr node fetches."""
    holder, _, name = path.rpartition(".")
    return getattr(module.get_submodule(holder), name, None)


def profile_weight(
    name: str, weight: Tensor, op: str, ask: TensorAsk | None, factor: Tensor | None = None
) -> WeightProfile:
    """The numbers of one weight.

    Args:
        name: of the parameter.
        weight: float, of two or more dimensions.
        op: class or function that works with it.
        ask: what the plan asks for it; None: it stays float.
        factor: of each output channel, where a batch norm is folded into it: what is quantized is their product.
    """
    axis = 1 if op in CONV_TRANSPOSE else 0
    weight = weight.detach().float()
    if factor is not None and factor.shape == weight.shape[axis : axis + 1]:
        weight = weight * factor.view([-1 if dim == axis else 1 for dim in range(weight.dim())])
    seen = Accumulator(axis)
    seen.add(weight)
    values = seen.result()
    values = NOTHING if values is None else replace(values, percentiles=_percentiles(weight))
    is_coded = ask is not None and not ask.is_float and ask.dtype in ("qint8", "quint8")
    asked = ask if is_coded and ask is not None and not ask.is_float_qparams else None
    by_channel = quantized(weight, INT8, axis)
    codes = by_channel if asked is None else quantized(weight, asked, axis)
    return WeightProfile(
        name=name,
        shape=tuple(weight.shape),
        values=values,
        granularity=ask.granularity if is_coded and ask is not None else "",
        bits=bits_of(ask) if is_coded and ask is not None else 0,
        sqnr_db=None if asked is None else sqnr_db(weight, codes.values),
        median_sqnr_db=None if asked is None else _median_sqnr_db(weight, codes.values, axis),
        sqnr_per_channel_db=sqnr_db(weight, by_channel.values),
        median_per_channel_db=_median_sqnr_db(weight, by_channel.values, axis),
        bits_used=_bits_used(codes.codes, axis),
        pair_sum=pair_sum(codes.codes, axis),
    )


@dataclass(frozen=True, slots=True)
class Codes:
    """A weight as integers, and the float values that they stand for."""

    codes: Tensor
    values: Tensor


def quantized(weight: Tensor, ask: TensorAsk, axis: int) -> Codes:
    """As torch's min-max observers do it: scale = max |w| / ((high - low) / 2), codes around 0 (affine: 128)."""
    low, high = code_range(ask)
    if not weight.numel():
        return Codes(weight, weight)
    around = tuple(dim for dim in range(weight.dim()) if dim != axis) if ask.granularity == "channel" else None
    peak = weight.abs().amax(around, keepdim=True) if around else weight.abs().amax()
    scale = (peak / ((high - low) / 2)).clamp(min=torch.finfo(torch.float32).eps)
    zero = 0 if low < 0 else (high - low + 1) // 2
    codes = (torch.round(weight * (1.0 / scale)) + zero).clamp(low, high) - zero
    return Codes(codes, codes * scale)


def code_range(ask: TensorAsk) -> tuple[int, int]:
    """Smallest and largest code."""
    if ask.quant_min is not None and ask.quant_max is not None:
        return ask.quant_min, ask.quant_max
    return (-128, 127) if ask.dtype == "qint8" else (0, 255)


def bits_of(ask: TensorAsk) -> int:
    """Bits of the codes that are asked for."""
    low, high = code_range(ask)
    return math.ceil(math.log2(high - low + 1))


def _percentiles(weight: Tensor) -> tuple[float, ...]:
    sizes = weight.abs().flatten()
    sizes = sizes[sizes.isfinite()]
    return tuple(float(value) for value in numpy.percentile(sizes.numpy(), PERCENTILES))


def _median_sqnr_db(weight: Tensor, values: Tensor, axis: int) -> float:
    """Of the channels that are not all zero."""
    rows, held = (tensor.movedim(axis, 0).flatten(1).double() for tensor in (weight, values))
    powers, noises = rows.square().sum(1), (rows - held).square().sum(1)
    ratios = (noises / powers)[powers > 0].tolist()
    middle = median(ratios) if ratios else 0.0
    return -10 * math.log10(middle) if middle > 0 else math.inf


def _bits_used(codes: Tensor, axis: int) -> float:
    if not codes.numel():
        return 0.0
    rows = codes.movedim(axis, 0).flatten(1)
    spans = (rows.amax(1) - rows.amin(1) + 1).tolist()
    return math.log2(median(spans))
