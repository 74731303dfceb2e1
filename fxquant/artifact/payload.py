"""The tensors of a graph ⇄ the tensors of a file: each storage once, contiguous, and how it lay in memory beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.artifact.graphs import is_parameter, tensors_of
from fxquant.artifact.limits import MOST_RANK
from fxquant.artifact.names import path_of
from fxquant.artifact.text import int_of, list_of, malformed, object_of, text_of
from fxquant.errors import UnsafeError, UnsavableError

_DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64,
)  # fmt: skip
_KINDS = ("b", "p")  # a buffer, a parameter


@dataclass(frozen=True, slots=True)
class Payload:
    """Tensors by name as the file has them, and what is not plain: [same as, kind, order of dimensions] by path."""

    tensors: Mapping[str, Tensor]
    odd: Mapping[str, Any]


def pack(graph_module: fx.GraphModule) -> Payload:
    """The tensors of a graph module. One that two paths share is written once, under the first."""
    found: dict[str, Tensor] = {}
    odd: dict[str, Any] = {}
    seen: dict[Any, str] = {}
    for path, tensor in tensors_of(graph_module).items():
        if tensor.dtype not in _DTYPES or tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            told = f"tensor '{path}' is {tensor.dtype}, {tensor.layout} on {tensor.device}"
            raise UnsavableError(
                "FXQ611", told, hint="dense CPU tensors of whole or floating-point numbers can be saved"
            )
        kind = "p" if is_parameter(graph_module, path) else "b"
        first = seen.setdefault(_place(tensor), path) if tensor.numel() else path
        order = _order(tensor)
        if (first, kind, order) != (path, "b", None):
            odd[path] = ["" if first == path else first, kind, order]
        if first == path:
            plain = tensor.detach() if order is None else tensor.detach().permute(order)
            found[path] = plain.contiguous()
    return Payload(found, odd)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _order(tensor: Tensor) -> list[int] | None:
    """The dimensions from slow to fast, for a tensor that lies densely in another order (channels last)."""
    if tensor.is_contiguous() or tensor.dim() > MOST_RANK:
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: (-strides[dim], dim))
    return order if tensor.permute(order).is_contiguous() else None


@dataclass
class Unpacked:
    """The tensors by path as the graph has them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()


def unpack(tensors: Mapping[str, Tensor], odd: Any) -> Unpacked:
    """What `pack` took apart. FXQ604 and FXQ605 for what it does not write."""
    found = {path_of(path, "a tensor"): tensor for path, tensor in tensors.items()}
    kinds: dict[str, str] = {}
    for path, value in object_of(odd, "the odd tensors").items():
        first, kind, order = list_of(value, f"tensor '{path[:60]}'", sizes=(3,))
        source = text_of(first, f"tensor '{path[:60]}'") or path
        if source not in tensors or (source != path and path in tensors) or kind not in _KINDS:
            raise malformed(f"tensor '{path[:60]}' is told to be {value!r:.60}")
        kinds[path_of(path, "a tensor")] = kind
        found[path] = found[source] if source != path else _reordered(tensors[source], order, path)
    return Unpacked(found, frozenset(path for path, kind in kinds.items() if kind == "p"))


def _reordered(tensor: Tensor, order: Any, path: str) -> Tensor:
    if order is None:
        return tensor
    dims = [int_of(dim, f"the order of tensor '{path}'", 0, MOST_RANK) for dim in list_of(order, "an order")]
    if sorted(dims) != list(range(tensor.dim())):
        raise UnsafeError("FXQ605", f"tensor '{path}' of {tensor.dim()} dimensions has the order {dims}")
    inverse = sorted(range(len(dims)), key=dims.__getitem__)
    return tensor.permute(inverse)
