"""What reshaping does with channels.

A reshape is taken apart into runs of dimensions with equal products. In each run at most one dimension may hold
channels; its labels are spread over the elements, and read off again on the other side:

    (N, C, h, w) → (N, C·h·w)      channel c becomes the features c·h·w ... (c + 1)·h·w − 1
    (N, L, C) → (N, L, H, C / H)   the channels of a head are tied
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxquant.graphs.channels import Labels
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

Dims = tuple[Labels, ...]


def reshaped(flow: Flow, node: fx.Node, dims: Dims) -> Dims:
    """The labels of the same elements in the shape that the node gives."""
    made: list[Labels] = []
    shape = shape_of(node)
    for before, after in _runs([labels.size for labels in dims], list(shape)):
        made += _spread(flow, node, [dims[index] for index in before], [shape[index] for index in after])
    return tuple(made)


def _runs(old: list[int], new: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Shortest runs of dimensions on either side that hold the same number of elements."""
    left = right = 0
    while left < len(old) or right < len(new):
        before, after = [], []
        if left < len(old):
            before.append(left)
            left += 1
        if right < len(new):
            after.append(right)
            right += 1
        while (sizes := (prod(old[i] for i in before), prod(new[i] for i in after)))[0] != sizes[1] or not sizes[0]:
            if sizes[0] < sizes[1] and left < len(old):
                before.append(left)
                left += 1
            elif sizes[0] > sizes[1] and right < len(new):
                after.append(right)
                right += 1
            else:
                raise NotFollowed("an empty tensor is reshaped")
        yield before, after


def _spread(flow: Flow, node: fx.Node, dims: list[Labels], sizes: list[int]) -> list[Labels]:
    if len(dims) == len(sizes) == 1:
        return [dims[0]]
    labelled = [index for index, labels in enumerate(dims) if is_labelled(labels)]
    if not labelled:
        return [stay(size) for size in sizes]
    if len(labelled) > 1:
        raise NotFollowed(f"'{node.name}' joins two dimensions of channels")
    [at] = labelled
    shape = [1] * len(dims)
    shape[at] = dims[at].size
    elements = np.broadcast_to(dims[at].reshape(shape), [labels.size for labels in dims])
    return _read_off(flow, node, np.asarray(elements).reshape(sizes))


def _read_off(flow: Flow, node: fx.Node, elements: Labels) -> list[Labels]:
    """The one dimension along which the labels change, and the others.

    Where they change along several, channels become (..., heads, width): whole heads go or stay.
    """
    along = [_rows(elements, dim) for dim in range(elements.ndim)]
    found = next((dim for dim, rows in enumerate(along) if (rows == rows[:, :1]).all()), max(elements.ndim - 2, 0))
    if not along:
        raise NotFollowed(f"'{node.name}' drops a dimension of channels")
    rows = along[found]
    for column in range(1, rows.shape[1]):
        flow.channels.tie(rows[:, 0], rows[:, column], f"'{node.name}' splits them, and some of a part stay")
    return [rows[:, 0] if dim == found else stay(size) for dim, size in enumerate(elements.shape)]


def _rows(elements: Labels, dim: int) -> Labels:
    return np.moveaxis(elements, dim, 0).reshape(elements.shape[dim], -1)


def _view(flow: Flow, node: fx.Node) -> State:
    source, *given = node.args
    sizes: Any = given or [node.kwargs.get("shape", node.kwargs.get("size"))]
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    dims = reshaped(flow, node, flow.dims(source))
    told = _told(flow, sizes)
    if len(told) != len(dims):
        if any(map(is_labelled, dims)):
            raise NotFollowed(f"'{node.name}' takes a shape that is computed")
        return Tensor(dims)
    written = [size_told(flow, node, one, labels) for one, labels in zip(told, dims, strict=True)]
    if any(isinstance(one, Count) for one in written):
        new = tuple(one if isinstance(one, Count) else old for one, old in zip(written, sizes, strict=True))
        flow.rewrites.append(Rewrite(node, (source, *new) if node.op == "call_method" else (source, new)))
    return Tensor(dims)


def _told(flow: Flow, sizes: list[Any]) -> list[int | State]:
    """Each size as a number or as what is known of it; those of x.shape one by one."""
    whole = flow.state(sizes[0]) if len(sizes) == 1 else None
    if isinstance(whole, Several):
        return list(whole.items)
    return [one if isinstance(one, int) else flow.state(one) for one in sizes]


def size_told(flow: Flow, node: fx.Node, told: int | State, labels: Labels) -> Count | None:
    """A literal size is rewritten; a size that is read from a tensor must be that of the same channels."""
    if isinstance(told, Size):
        flow.channels.tie(told.labels, labels, f"'{node.name}' takes their number from what keeps its channels")
    elif not is_labelled(labels) or told == -1:
        return None
    elif isinstance(told, int):
        return Count(labels)
    else:
        flow.channels.freeze(labels, f"'{node.name}' computes their number")
    return None


def _flatten(flow: Flow, node: fx.Node) -> State:
    return Tensor(reshaped(flow, node, flow.dims(node.args[0])))


RESHAPES: dict[Any, Rule] = {
    **dict.fromkeys(("view", "reshape", torch.reshape), _view),
    **dict.fromkeys((nn.Flatten, torch.flatten, "flatten"), _flatten),
}  # functions, types of modules, and names of methods
