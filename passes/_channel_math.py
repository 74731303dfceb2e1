"""What arithmetic, activations, pooling and reductions do with channels: pass on, tie, or work across them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from fxquant.graphs.channels import Labels
from fxquant.passes._channel_flow import Flow, NotFollowed, Rule, State, Tensor, is_labelled, shape_of, stay, told
from fxquant.values import known_value


def pointwise(flow: Flow, node: fx.Node) -> State:
    """Each element of the result has one element of each input: equal dimensions are tied, those of size 1 are not."""
    tensors = [source for source in node.all_input_nodes if isinstance(flow.state(source), Tensor)]
    flow.need_plain(node, *(source for source in node.all_input_nodes if source not in tensors))
    if not tensors:
        return None  # numbers
    rank = max(len(flow.dims(source)) for source in tensors)
    return Tensor(tuple(_joined(flow, node, tensors, dim) for dim in range(-rank, 0)))


def _joined(flow: Flow, node: fx.Node, tensors: Sequence[fx.Node], dim: int) -> Labels:
    there = [(source, flow.dims(source)[dim]) for source in tensors if len(flow.dims(source)) >= -dim]
    size = max(labels.size for _, labels in there)
    wide = [(source, labels) for source, labels in there if labels.size == size]
    first, labels = wide[0]
    for other, others in wide[1:]:
        stays = other if is_labelled(labels) else first
        labels = flow.channels.tie(labels, others, f"'{node.name}' joins it with '{stays}', which keeps its channels")
    return labels


def _across_last(spatial: int) -> Rule:
    """Pooling, resizing: the last dimensions change, and must not be channels."""

    def rule(flow: Flow, node: fx.Node) -> State:
        dims = flow.dims(_input(node))
        flow.need_plain(node, node.args[1:], dict(node.kwargs))
        return _resized(flow, node, dims, spatial or len(dims) - 2)

    return rule


def _resized(flow: Flow, node: fx.Node, dims: tuple[Labels, ...], spatial: int) -> Tensor:
    shape = shape_of(node)
    if any(is_labelled(labels) for labels in dims[len(dims) - spatial :]):
        raise NotFollowed(f"{told(node, flow.program.module_of(node))} works across them")
    return Tensor((*dims[: len(dims) - spatial], *(stay(size) for size in shape[len(dims) - spatial :])))


def _pad(flow: Flow, node: fx.Node) -> State:
    padding = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    if not isinstance(padding, (tuple, list)) or not all(isinstance(amount, int) for amount in padding):
        raise NotFollowed(f"'{node.name}' pads by what is not known")
    return _resized(flow, node, flow.dims(_input(node)), len(padding) // 2)


def _softmax(flow: Flow, node: fx.Node) -> State:
    module: Any = flow.program.module_of(node)
    dims = flow.dims(_input(node))
    axis = module.dim if module is not None else _argument(node, 1, "dim")
    if not isinstance(axis, int) or is_labelled(dims[axis]):
        raise NotFollowed(f"{told(node, module)} works across them")
    return Tensor(dims)


def _reduce(flow: Flow, node: fx.Node) -> State:
    """mean, sum, max over dimensions that are no channels."""
    dims = flow.dims(_input(node))
    axes, keeps = _argument(node, 1, "dim"), _argument(node, 2, "keepdim") is True
    axes = (axes,) if isinstance(axes, int) else axes
    if axes is not None and not (isinstance(axes, (tuple, list)) and all(isinstance(axis, int) for axis in axes)):
        raise NotFollowed(f"'{node.name}' works along a dimension that is not known")
    gone = set(range(len(dims))) if not axes else {axis % len(dims) for axis in axes}
    if any(is_labelled(dims[axis]) for axis in gone):
        raise NotFollowed(f"'{node.name}' works across them")
    left = [stay(1) if axis in gone else labels for axis, labels in enumerate(dims) if keeps or axis not in gone]
    if isinstance(known_value(node), tuple):
        raise NotFollowed(f"'{node.name}' gives indices too")
    return Tensor(tuple(left))


def _matmul(flow: Flow, node: fx.Node) -> State:
    """(..., m, k) @ (..., k, n): what is summed over is tied."""
    left, right = (flow.dims(source) for source in node.args[:2])
    if min(len(left), len(right)) < 2:
        raise NotFollowed(f"'{node.name}' multiplies by a vector")
    flow.channels.tie(left[-1], right[-2], f"'{node.name}' sums over them, and takes some that stay")
    flow.consume(node, node.args[0], len(left) - 1, left[-1])
    batch = left[:-2], right[:-2]
    rank = max(map(len, batch))
    outer = [_batched(flow, node, [dims[dim] for dims in batch if len(dims) >= -dim]) for dim in range(-rank, 0)]
    flow.work[node.name] = (*outer, left[-2], left[-1], right[-1])
    return Tensor((*outer, left[-2], right[-1]))


def _attention(flow: Flow, node: fx.Node) -> State:
    """Heads are followed: each attends for itself. Their width sets the scale, and stays."""
    flow.need_plain(node, node.args[3:], dict(node.kwargs))
    masks = [source for source in node.all_input_nodes if source not in node.args[:3]]
    query, key, value = (flow.dims(source) for source in node.args[:3])
    if any(is_labelled(labels) for dims in (query, key, value) for labels in dims[-2:]):
        raise NotFollowed(f"'{node.name}' works across them")
    if masks and any(is_labelled(labels) for source in masks for labels in flow.dims(source)):
        raise NotFollowed(f"'{node.name}' takes a mask for each of them")
    if len(query) != len(key) or len(key) != len(value) or node.kwargs.get("enable_gqa"):
        raise NotFollowed(f"'{node.name}' shares them out among its heads")
    heads = [_batched(flow, node, [query[dim], key[dim], value[dim]]) for dim in range(len(query) - 2)]
    flow.work[node.name] = tuple(heads)
    return Tensor((*heads, query[-2], value[-1]))


def _batched(flow: Flow, node: fx.Node, found: list[Labels]) -> Labels:
    wide = max(found, key=lambda labels: labels.size)
    for labels in found:
        if labels.size == wide.size:
            wide = flow.channels.tie(wide, labels, f"'{node.name}' joins it with what keeps its channels")
    return wide


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("input")


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


_POINTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU,
    nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU, nn.RReLU, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardshrink,
    nn.Softshrink, nn.Tanhshrink, nn.Threshold, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)  # fmt: skip
_POINTWISE = frozenset(
    {operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow, operator.abs}
    | {operator.floordiv, operator.mod}
    | {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.lt, operator.le, operator.gt}
    | {operator.ge, operator.eq, operator.ne}
)
_NAMES = """
    abs add addcmul alpha_dropout bernoulli bool celu clamp clamp_max clamp_min clip clone contiguous copy cos detach
    div double dropout dropout1d dropout2d dropout3d elu eq erf exp expm1 fill float ge gelu gt half hardshrink
    hardsigmoid hardswish hardtanh le leaky_relu lerp log log1p logsigmoid lt masked_fill maximum minimum mish mul ne
    neg nan_to_num ones_like pow rand_like randn_like reciprocal relu relu6 round rsqrt selu sigmoid sign silu sin
    softplus softshrink softsign sqrt square sub tanh tanhshrink threshold to true_divide type_as where zero zeros_like
"""
_POINTWISE_NAMES = frozenset(_NAMES.split())  # in torch, torch.nn.functional, as methods; with or without a final '_'

_POOLS: dict[type[nn.Module], int] = {
    getattr(nn, f"{kind}{spatial}d"): spatial
    for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
    for spatial in (1, 2, 3)
} | {nn.LPPool1d: 1, nn.LPPool2d: 2, nn.Upsample: 0, nn.UpsamplingNearest2d: 2, nn.UpsamplingBilinear2d: 2}
_PADS = {
    getattr(nn, f"{kind}Pad{spatial}d"): spatial
    for kind in ("Zero", "Constant", "Reflection", "Replication")
    for spatial in (1, 2, 3)
}
_POOL_CALLS: dict[Any, int] = {
    function: spatial
    for spatial in (1, 2, 3)
    for name in (f"max_pool{spatial}d", f"avg_pool{spatial}d", f"adaptive_avg_pool{spatial}d")
    for home in (F, torch)
    if (function := getattr(home, name, None)) is not None
}

MATH: dict[Any, Rule] = {
    **dict.fromkeys(_POINTWISE_MODULES, pointwise),
    **dict.fromkeys(_POINTWISE, pointwise),
    **{kind: _across_last(spatial) for kind, spatial in {**_POOLS, **_PADS, **_POOL_CALLS}.items()},
    F.interpolate: _across_last(0),
    F.pad: _pad,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax), _softmax),
    **dict.fromkeys((torch.softmax, torch.log_softmax, "softmax", "log_softmax"), _softmax),
    **dict.fromkeys((torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin"), _reduce),
    **dict.fromkeys((torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm"), _matmul),
    F.scaled_dot_product_attention: _attention,
}  # types of modules, functions, and names of methods


def is_pointwise(target: Any) -> bool:
    """A function of torch's or a method that works element by element, by its name?"""
    if isinstance(target, str):
        return target.rstrip("_") in _POINTWISE_NAMES
    home = str(getattr(target, "__module__", "") or "torch")
    is_torch = home.startswith(("torch", "_VariableFunctions"))
    return is_torch and str(getattr(target, "__name__", "")).rstrip("_") in _POINTWISE_NAMES
