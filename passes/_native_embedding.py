"""Tables of uint8 rows on torch's own look-up kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant import qdq
from fxquant.passes._packing import quantized_tensor

if TYPE_CHECKING:
    from fxquant.passes._native_graph import NativeGraph

_OPS = torch.ops.quantized


def lower(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """The kernel's call for a look-up in dequantized rows; None for other nodes."""
    if node.op != "call_function" or node.target not in (F.embedding, F.embedding_bag) or node in native.avoid:
        return None
    indices, table, *rest = node.args
    if not isinstance(table, fx.Node) or table.target is not qdq.dequantize_rows:
        return None
    codes, scale, zero_point = (native.tensor_of(argument) for argument in table.args)
    packed = _OPS.embedding_bag_prepack(quantized_tensor(codes, scale, zero_point, 0))
    held = native.hold(f"{str(table.args[0]).replace('.', '_')}_packed", packed)
    index = fx.map_arg(indices, native.values.__getitem__)
    if node.target is F.embedding:
        found: fx.Node = native.graph.call_function(embedding_byte, (held, index))
        return found
    offsets, per_sample_weights, includes_last = (
        rest[0],
        node.kwargs["per_sample_weights"],
        node.kwargs["include_last_offset"],
    )
    given = fx.map_arg((offsets, per_sample_weights), native.values.__getitem__)
    made: fx.Node = native.graph.call_function(embedding_bag_byte, (held, index, *given, includes_last))
    return made


def embedding_byte(packed: Any, indices: Tensor) -> Tensor:
    """Rows for indices of any shape; torch's kernel takes one or two dimensions."""
    if indices.dim() in (1, 2):
        found: Tensor = _OPS.embedding_byte(packed, indices.contiguous())
        return found
    flat: Tensor = _OPS.embedding_byte(packed, indices.reshape(-1))
    return flat.view(*indices.shape, flat.shape[-1])


def embedding_bag_byte(
    packed: Any, indices: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None, includes_last: bool
) -> Tensor:
    """Sums of rows, one for each bag."""
    if offsets is not None and offsets.dtype is not indices.dtype:
        offsets = offsets.to(indices.dtype)
    if per_sample_weights is not None:
        per_sample_weights = per_sample_weights.reshape(-1)
    if indices.dim() == 2 and per_sample_weights is not None:
        step = indices.shape[1]
        offsets = torch.arange(0, indices.numel(), step, dtype=indices.dtype)
        indices = indices.reshape(-1)
    summed: Tensor = _OPS.embedding_bag_byte(
        packed, indices, offsets, False, 0, False, per_sample_weights, None, includes_last
    )
    return summed
