"""What layers with parameters do with channels: who makes new ones, who takes them, who has a number for each.

Weights of convolutions are (out, in / groups, kernel...), of transposed ones (in, out / groups, kernel...), of Linear
(out, in), of Embedding (rows, out). A grouped convolution keeps or loses whole groups, which ties its inputs to its
outputs; with one input channel a group (depthwise) that is channel by channel.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from torch import fx, nn

from fxquant.graphs.channels import Labels
from fxquant.passes._channel_flow import (
    Count,
    Flow,
    NotFollowed,
    Rule,
    State,
    Tensor,
    is_labelled,
    shape_of,
    stay,
    told,
)

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def _split(flow: Flow, node: fx.Node, spatial: int) -> tuple[tuple[Labels, ...], Labels, int]:
    """The input's dimensions before its channels, its channels, and where they stand."""
    dims = flow.dims(node.args[0])
    at = len(dims) - spatial - 1
    if at < 0 or any(is_labelled(labels) for labels in dims[at + 1 :]):
        raise NotFollowed(f"{told(node, flow.program.module_of(node))} works across them")
    return dims[:at], dims[at], at


def _after(node: fx.Node, flow: Flow, before: tuple[Labels, ...], made: Labels, spatial: int) -> Tensor:
    shape = shape_of(node)
    return Tensor((*before, made, *(stay(size) for size in shape[len(shape) - spatial :])))


def _convolution(flow: Flow, node: fx.Node) -> State:
    module = cast(Convolution, flow.program.module_of(node))
    weight, groups = module.weight, module.groups
    before, labels, at = _split(flow, node, weight.ndim - 2)
    made = flow.channels.made_by(flow.axis(weight, 0), weight.shape[0], str(node.target))
    if groups == 1:
        flow.bind(node, weight, 1, labels)
        flow.consuming.add(flow.axis(weight, 1))
        flow.consume(node, node.args[0], at, labels)
        flow.note(node, in_channels=Count(labels), out_channels=Count(made))
        flow.work[node.name] = (made, labels)
    else:
        _tie_groups(flow, node, labels, made, groups)
        flow.note(node, in_channels=Count(labels), out_channels=Count(made), groups=Count(_one_each(labels, groups)))
        flow.work[node.name] = (made,)
    flow.bind(node, module.bias, 0, made)
    flow.made[node] = made
    return _after(node, flow, before, made, weight.ndim - 2)


def _transposed(flow: Flow, node: fx.Node) -> State:
    module = cast(Transposed, flow.program.module_of(node))
    weight, groups = module.weight, module.groups
    before, labels, at = _split(flow, node, weight.ndim - 2)
    flow.bind(node, weight, 0, labels)
    flow.consuming.add(flow.axis(weight, 0))
    layer = str(node.target)
    if groups == 1:
        made = flow.channels.made_by(flow.axis(weight, 1), weight.shape[1], layer)
        flow.consume(node, node.args[0], at, labels)
        flow.note(node, in_channels=Count(labels), out_channels=Count(made))
        flow.work[node.name] = (labels, made)
    else:
        made = np.repeat(_one_each(labels, groups), weight.shape[1])  # each group's outputs go with its first input
        _tie_groups(flow, node, labels, made, groups)
        flow.note(node, in_channels=Count(labels), out_channels=Count(made), groups=Count(_one_each(labels, groups)))
        flow.work[node.name] = (labels,)
    flow.bind(node, module.bias, 0, made)
    flow.made[node] = made
    return _after(node, flow, before, made, weight.ndim - 2)


def _one_each(labels: Labels, groups: int) -> Labels:
    return labels[:: labels.size // groups]


def _tie_groups(flow: Flow, node: fx.Node, labels: Labels, made: Labels, groups: int) -> None:
    """All inputs and outputs of a group go together."""
    why = f"'{node.name}' works on groups of channels, and takes some that stay"
    first = _one_each(labels, groups)
    for one in (labels, made):
        flow.channels.tie(np.repeat(first, one.size // groups), one, why)


def _linear(flow: Flow, node: fx.Node) -> State:
    module = cast(nn.Linear, flow.program.module_of(node))
    *before, labels = flow.dims(node.args[0])
    made = flow.channels.made_by(flow.axis(module.weight, 0), module.weight.shape[0], str(node.target))
    flow.bind(node, module.weight, 1, labels)
    flow.consuming.add(flow.axis(module.weight, 1))
    flow.bind(node, module.bias, 0, made)
    flow.made[node] = made
    flow.consume(node, node.args[0], len(before), labels)
    flow.note(node, in_features=Count(labels), out_features=Count(made))
    flow.work[node.name] = (*before, made, labels)
    return Tensor((*before, made))


def _embedding(flow: Flow, node: fx.Node) -> State:
    module = cast(nn.Embedding, flow.program.module_of(node))
    if module.max_norm is not None:
        raise NotFollowed(f"{told(node, module)} rescales its rows by their norm (max_norm)")
    made = flow.channels.made_by(flow.axis(module.weight, 1), module.weight.shape[1], str(node.target))
    flow.bind(node, module.weight, 0, stay(module.weight.shape[0]))
    flow.note(node, embedding_dim=Count(made))
    return Tensor((*flow.dims(node.args[0]), made))


def _batch_norm(flow: Flow, node: fx.Node) -> State:
    module: Any = flow.program.module_of(node)
    dims = flow.dims(node.args[0])
    at = 1
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        at = len(dims) - module._get_no_batch_dim()  # type: ignore[no-untyped-call]  # (C, L...) without a batch
        if any(is_labelled(labels) for labels in dims[at + 1 :]):
            raise NotFollowed(f"{told(node, module)} works across them")
    for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
        flow.bind(node, tensor, 0, dims[at])
    flow.note(node, num_features=Count(dims[at]))
    return Tensor(dims)


def _layer_norm(flow: Flow, node: fx.Node) -> State:
    """The channels that stay are normalized among themselves."""
    module = cast(nn.LayerNorm | nn.RMSNorm, flow.program.module_of(node))
    dims = flow.dims(node.args[0])
    last = dims[len(dims) - len(module.normalized_shape) :]
    for tensor in (module.weight, getattr(module, "bias", None)):
        for dim, labels in enumerate(last):
            flow.bind(node, tensor, dim, labels)
    flow.note(node, normalized_shape=tuple(Count(labels) for labels in last))
    return Tensor(dims)


def _group_norm(flow: Flow, node: fx.Node) -> State:
    """Whole groups go, so that the others are normalized as before."""
    module = cast(nn.GroupNorm, flow.program.module_of(node))
    dims = flow.dims(node.args[0])
    if any(is_labelled(labels) for labels in dims[2:]):
        raise NotFollowed(f"{told(node, module)} works across them")
    if module.num_groups == 1 and is_labelled(dims[1]):
        raise NotFollowed(f"{told(node, module)} normalizes over all of them at once")
    _tie_groups(flow, node, dims[1], dims[1], module.num_groups)
    for tensor in (module.weight, module.bias):
        flow.bind(node, tensor, 0, dims[1])
    flow.note(node, num_channels=Count(dims[1]), num_groups=Count(_one_each(dims[1], module.num_groups)))
    return Tensor(dims)


def _prelu(flow: Flow, node: fx.Node) -> State:
    module = cast(nn.PReLU, flow.program.module_of(node))
    dims = flow.dims(node.args[0])
    if module.weight.numel() > 1:
        flow.bind(node, module.weight, 0, dims[1])
        flow.note(node, num_parameters=Count(dims[1]))
    return Tensor(dims)


LAYERS: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _batch_norm),
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
}
