"""What moving elements about does with channels: permuting, joining, cutting, stretching, and reading sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from fxquant.graphs.channels import Labels
from fxquant.graphs.snapshot import TensorInfo
from fxquant.passes._channel_flow import (
    Count,
    Flow,
    NotFollowed,
    Rewrite,
    Rule,
    Several,
    Size,
    State,
    Tensor,
    is_labelled,
    shape_of,
    stay,
)  # fmt: skip
from fxquant.passes._channel_reshapes import size_told
from fxquant.values import known_value

Dims = tuple[Labels, ...]


def _squeeze(flow: Flow, node: fx.Node) -> State:
    dims = flow.dims(node.args[0])
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if given is None and any(map(is_labelled, dims)):
        raise NotFollowed(f"'{node.name}' would drop them too when one is left: say squeeze(dim)")
    axes = range(len(dims)) if given is None else (given,) if isinstance(given, int) else given
    if not isinstance(axes, (range, tuple, list)):
        raise NotFollowed(f"'{node.name}' drops a dimension that is not known")
    gone = {axis % len(dims) for axis in axes if dims[axis].size == 1}
    return Tensor(tuple(labels for axis, labels in enumerate(dims) if axis not in gone))


def _unsqueeze(flow: Flow, node: fx.Node) -> State:
    dims = list(flow.dims(node.args[0]))
    axis = _integer(node, 1, "dim")
    dims.insert(axis % (len(dims) + 1), stay(1))
    return Tensor(tuple(dims))


def _permuted(order: Callable[[fx.Node, int], Sequence[int]]) -> Rule:
    def rule(flow: Flow, node: fx.Node) -> State:
        dims = flow.dims(node.args[0])
        return Tensor(tuple(dims[axis] for axis in order(node, len(dims))))

    return rule


def _permute_order(node: fx.Node, rank: int) -> Sequence[int]:
    given: Any = node.args[1:] or node.kwargs.get("dims")
    given = given[0] if given and isinstance(given[0], (tuple, list)) else given
    if not given or not all(isinstance(axis, int) for axis in given):
        raise NotFollowed(f"'{node.name}' permutes by what is not known")
    return [axis % rank for axis in given]


def _transpose_order(node: fx.Node, rank: int) -> Sequence[int]:
    one, two = _integer(node, 1, "dim0") % rank, _integer(node, 2, "dim1") % rank
    order = list(range(rank))
    order[one], order[two] = two, one
    return order


def _integer(node: fx.Node, place: int, name: str) -> int:
    value = node.args[place] if len(node.args) > place else node.kwargs.get(name)
    if not isinstance(value, int):
        raise NotFollowed(f"'{node.name}' works along a dimension that is not known")
    return value


def _cat(flow: Flow, node: fx.Node) -> State:
    sources: Any = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    whole = flow.state(sources)
    states = list(whole.items) if isinstance(whole, Several) else [flow.state(source) for source in sources]
    parts = [state.dims for state in states if isinstance(state, Tensor)]
    if len(parts) != len(states) or not isinstance(dim, int):
        raise NotFollowed(f"'{node.name}' joins what is not known")
    first, *others = parts
    at = dim % len(first)
    made = list(first)
    for other in others:
        for axis, labels in enumerate(other):
            if axis != at:
                why = f"'{node.name}' joins it with what keeps its channels"
                made[axis] = flow.channels.tie(made[axis], labels, why)
    made[at] = np.concatenate([part[at] for part in parts])
    return Tensor(tuple(made))


def _stack(flow: Flow, node: fx.Node) -> State:
    sources: Any = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(sources, (tuple, list)) or not isinstance(dim, int):
        raise NotFollowed(f"'{node.name}' joins what is not known")
    made, *others = (list(flow.dims(source)) for source in sources)
    for axis, other in ((axis, labels) for dims in others for axis, labels in enumerate(dims)):
        made[axis] = flow.channels.tie(made[axis], other, f"'{node.name}' joins it with what keeps its channels")
    made.insert(dim % (len(made) + 1), stay(len(sources)))
    return Tensor(tuple(made))


def _unbind(flow: Flow, node: fx.Node) -> State:
    dims = list(flow.dims(node.args[0]))
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(dim, int) or is_labelled(dims[dim]):
        raise NotFollowed(f"'{node.name}' takes them apart")
    count = dims.pop(dim).size
    return Several((Tensor(tuple(dims)),) * count)


def _pixel_shuffle(flow: Flow, node: fx.Node) -> State:
    """(N, C·r², H, W) → (N, C, H·r, W·r): r² channels become one."""
    module: Any = flow.program.module_of(node)
    factor = module.upscale_factor if module is not None else node.args[1]
    *before, labels, _, _ = flow.dims(node.args[0])
    if not isinstance(factor, int) or any(is_labelled(one) for one in flow.dims(node.args[0])[-2:]):
        raise NotFollowed(f"'{node.name}' works across them")
    first = labels[:: factor**2]
    made = flow.channels.tie(np.repeat(first, factor**2), labels, f"'{node.name}' joins several, and some of them stay")
    return Tensor((*before, made[:: factor**2], *map(stay, shape_of(node)[-2:])))


def _chunk(flow: Flow, node: fx.Node) -> State:
    """chunk and split, with their sizes written out where they cut channels."""
    parts = known_value(node)
    if not isinstance(parts, tuple) or not all(isinstance(part, TensorInfo) for part in parts):
        raise NotFollowed(f"the shapes of '{node.name}' are not known")
    dims = flow.dims(node.args[0])
    flow.need_plain(node, node.args[1:])
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    if not isinstance(dim, int):
        raise NotFollowed(f"'{node.name}' works along a dimension that is not known")
    at = dim % len(dims)
    ends = list(accumulate((part.shape[at] for part in parts), initial=0))
    cuts = [dims[at][start:end] for start, end in pairwise(ends)]
    if is_labelled(dims[at]):
        flow.channels.parts += cuts
        sizes = tuple(Count(cut) for cut in cuts)
        flow.rewrites.append(Rewrite(node, (node.args[0], sizes, dim), {}, torch.split))
    return Several(tuple(Tensor((*dims[:at], cut, *dims[at + 1 :])) for cut in cuts))


def _getitem(flow: Flow, node: fx.Node) -> State:
    source, index = node.args
    match flow.state(source):
        case Several(items=items):
            if isinstance(index, (int, slice)):
                found = items[index]
                return Several(found) if isinstance(found, tuple) else found
            raise NotFollowed(f"'{node.name}' reads by an index that is not known")
        case Tensor(dims=dims):
            return _indexed(flow, node, dims, index if isinstance(index, tuple) else (index,))
    raise NotFollowed(f"the shape of '{source}' is not known")


def _indexed(flow: Flow, node: fx.Node, dims: Dims, index: tuple[Any, ...]) -> State:
    flow.need_plain(node, list(index))
    given = [one for one in index if one is not None and one is not Ellipsis]
    if any(not isinstance(one, (int, slice)) for one in given):
        raise NotFollowed(f"'{node.name}' reads by an index that is not known")
    at = next((place for place, one in enumerate(index) if one is Ellipsis), len(index))
    whole = [slice(None)] * (len(dims) - len(given))
    left, written, made = iter(dims), [], []
    for step in (*index[:at], *whole, *index[at + 1 :]):
        new, labels = (None, stay(1)) if step is None else _cut(flow, node, next(left), step)
        written.append(new)
        made += [] if isinstance(step, int) else [labels]
    if any(isinstance(one, slice) and isinstance(one.stop, Count) for one in written):
        flow.rewrites.append(Rewrite(node, (node.args[0], tuple(written))))
    shape = shape_of(node)
    if len(shape) != len(made):
        raise NotFollowed(f"'{node.name}' reads by an index that is not known")
    pairs = zip(made, shape, strict=True)
    return Tensor(tuple(labels if is_labelled(labels) else stay(size) for labels, size in pairs))


def _cut(flow: Flow, node: fx.Node, labels: Labels, step: Any) -> tuple[Any, Labels]:
    """A step of an index as it is to be written, and the labels that it leaves."""
    bounds = (step, None, None) if isinstance(step, int) else (step.start, step.stop, step.step)
    if step == slice(None) or not is_labelled(labels):
        return step, labels
    if isinstance(step, int) or any(isinstance(one, fx.Node) for one in bounds) or bounds[2] not in (None, 1):
        flow.channels.freeze(labels, f"'{node.name}' picks some of them")
        return step, stay(labels.size)
    start, stop, _ = step.indices(labels.size)
    flow.channels.parts.append(labels[step])
    return slice(Count(labels[:start]), Count(labels[: max(start, stop)]), None), labels[step]


def _expand(flow: Flow, node: fx.Node) -> State:
    """Dimensions of size 1 are stretched."""
    dims, shape = flow.dims(node.args[0]), shape_of(node)
    sizes: Any = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
    if len(sizes) != len(shape):
        raise NotFollowed(f"'{node.name}' takes a shape that is computed")
    made, written = [], []
    inner = [*[stay(0)] * (len(shape) - len(dims)), *dims]
    for labels, given, size in zip(inner, sizes, shape, strict=True):
        told = given if isinstance(given, int) else flow.state(given)
        if labels.size == size:
            made.append(labels)
            written.append(size_told(flow, node, told, labels) or given)
        else:
            made.append(told.labels if isinstance(told, Size) else stay(size))
            written.append(given)
    if any(isinstance(one, Count) for one in written):
        flow.rewrites.append(Rewrite(node, (node.args[0], *written)))
    return Tensor(tuple(made))


def _expand_as(flow: Flow, node: fx.Node) -> State:
    dims, others = flow.dims(node.args[0]), flow.dims(node.args[1])
    made = [*others[: len(others) - len(dims)]]
    for labels, other in zip(dims, others[len(others) - len(dims) :], strict=True):
        if labels.size == other.size:
            flow.channels.tie(labels, other, f"'{node.name}' joins it with '{node.args[1]}', which keeps its channels")
        made.append(other)
    return Tensor(tuple(made))


def _getattr(flow: Flow, node: fx.Node) -> State:
    if node.args[1] == "shape":
        return Several(tuple(Size(labels) for labels in flow.dims(node.args[0])))
    if node.args[1] in ("ndim", "dtype", "device", "is_cuda", "requires_grad"):
        return None
    raise NotFollowed(f"'{node.name}' reads .{node.args[1]}")


def _size(flow: Flow, node: fx.Node) -> State:
    dims = flow.dims(node.args[0])
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if axis is None:
        return Several(tuple(Size(labels) for labels in dims))
    return Size(dims[_integer(node, 1, "dim")])


def _nothing(flow: Flow, node: fx.Node) -> State:
    return None


MOVES: dict[Any, Rule] = {
    **dict.fromkeys((torch.squeeze, "squeeze"), _squeeze),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), _unsqueeze),
    **dict.fromkeys((torch.permute, "permute"), _permuted(_permute_order)),
    **dict.fromkeys((torch.transpose, "transpose", torch.swapaxes, "swapaxes"), _permuted(_transpose_order)),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _cat),
    torch.stack: _stack,
    **dict.fromkeys((torch.unbind, "unbind"), _unbind),
    **dict.fromkeys((nn.PixelShuffle, F.pixel_shuffle), _pixel_shuffle),
    **dict.fromkeys((torch.chunk, "chunk", torch.split, "split"), _chunk),
    operator.getitem: _getitem,
    "expand": _expand,
    "expand_as": _expand_as,
    getattr: _getattr,
    "size": _size,
    **dict.fromkeys(("dim", "ndimension"), _nothing),
}  # functions, types of modules, and names of methods
