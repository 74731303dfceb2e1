"""What a graph calls in place of an in-place write: pure functions that give each alias its new value.

`rewritten` is exact whatever the views are: it looks at the storages of the tensors it is given, when it is given
them. So no table of views and their inverses is needed, and a reshape that had to copy is seen to be a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import has_side_effect

from fxquant.structure import map_leaves
from fxquant.torch_ao import is_observer


def rewritten(written: torch.Tensor, value: Any, members: Sequence[Any]) -> tuple[Any, ...]:
    """`members` as they would be after `written.copy_(value)`; none of the tensors given is changed.

    Members that share storage with `written` (itself among them) come back as views of one new storage, with their
    sizes, strides and places in it as before; the others come back as they are. A member may be a tuple of tensors.
    """
    if not written.numel():
        return tuple(members)
    leaves: list[Any] = []
    map_leaves(leaves.append, list(members))
    shared = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and _storage(leaf) == _storage(written)]
    new = _Storage((written, *shared))
    new.like(written).copy_(value)
    return tuple(
        map_leaves(lambda leaf: new.like(leaf) if any(leaf is other for other in shared) else leaf, list(members))
    )


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # which storage it is; a fake tensor has one too


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers as they lie in the storage, where a lazy conjugation or negation stands before them."""
    tensor = torch._neg_view(tensor) if tensor.is_neg() else tensor
    return tensor.conj() if tensor.is_conj() else tensor


def _lazily_like(raw: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    raw = raw.conj() if tensor.is_conj() else raw
    return torch._neg_view(raw) if tensor.is_neg() else raw


def _start(tensor: torch.Tensor) -> int:
    return int(tensor.storage_offset())


def _end(tensor: torch.Tensor) -> int:
    spans = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return _start(tensor) + int(sum(spans)) + 1 if tensor.numel() else _start(tensor)


class _Storage:
    """A copy of the part of a storage that some tensors look at. Gradients flow through the widest of them."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        widest = _raw(max(tensors, key=torch.Tensor.numel))
        self._start = 0
        self._flat: torch.Tensor | None = None
        self._bytes: Any = None
        if all(tensor.dtype == widest.dtype for tensor in tensors):
            self._start = min(map(_start, tensors))
            size = max(map(_end, tensors)) - self._start
            self._flat = widest.as_strided((size,), (1,), self._start).clone()
        else:  # tensor.view(dtype): places are counted in different units, so the storage is copied whole
            self._bytes = copy.deepcopy(widest.detach().untyped_storage())

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """The view that `tensor` would be of the copy."""
        if self._flat is not None:
            place = _start(tensor) - self._start
            return _lazily_like(self._flat.as_strided(tensor.size(), tensor.stride(), place), tensor)
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return _lazily_like(empty.set_(self._bytes, _start(tensor), tensor.size(), tensor.stride()), tensor)


def with_item(tensor: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """A copy of `tensor` after `copy[index] = value`."""
    result = tensor.clone()
    result[index] = value
    return result


def applied(method: str, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A copy of `tensor` after the in-place `method`, for those without an out-of-place twin (copy_, normal_, ...)."""
    result = tensor.clone()
    getattr(result, method)(*args, **kwargs)
    return result


@has_side_effect
def store(buffer: torch.Tensor, value: torch.Tensor) -> None:
    """Keep a buffer's new value for the next call. Dead-code elimination leaves it alone."""
    buffer.copy_(value)


def stored_buffers(graph: fx.Graph) -> tuple[str, ...]:
    """The buffers that each call changes, in order."""
    stores = (node.args[0] for node in graph.nodes if node.op == "call_function" and node.target is store)
    return tuple(dict.fromkeys(str(buffer.target) for buffer in stores if isinstance(buffer, fx.Node)))


def saved_buffers(graph_module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Copies of the buffers that a call may change, for `restore_buffers` after calls that are not the user's.

    Those that the graph stores, and those of modules of the user's own, which nobody looked into. An observer, whoever
    wrote it, is fed to remember: its ranges are left alone.
    """
    names = dict.fromkeys((*stored_buffers(graph_module.graph), *_buffers_of_leaves(graph_module)))
    return {name: graph_module.get_buffer(name).clone() for name in names}


def _buffers_of_leaves(graph_module: fx.GraphModule) -> Iterator[str]:
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            module = graph_module.get_submodule(str(node.target))
            if not type(module).__module__.startswith("torch.") and not is_observer(module):
                yield from (f"{node.target}.{name}" for name, _ in module.named_buffers())


def restore_buffers(graph_module: fx.GraphModule, saved: Mapping[str, torch.Tensor]) -> None:
    """Put back what `saved_buffers` copied."""
    for name, value in saved.items():
        graph_module.get_buffer(name).copy_(value)
