"""The canonical graph as a program of torch.export on ops that torch itself has, to be loaded without fxquant.

    fxquant::quantize(x, s, z, 0, 255, uint8)   ⇒   quantized_decomposed::quantize_per_tensor(x, s, z, 0, 255, uint8)

The two give the same bits. Who loads the file first imports `_decomposed` of torch's FX quantization, which names them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from fxquant import qdq
from fxquant.engines import ops, recurrent_ops
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.exportable import exported, is_recurrent
from fxquant.engines.silence import silence
from fxquant.errors import in_one_line
from fxquant.torch_ao import decomposed_ops


def to_exported_program(canonical: fx.GraphModule, leaves: tuple[Tensor, ...]) -> ExportedProgram:
    """The graph with open sizes; fixed ones where a recurrent layer is, which torch traces step by step."""
    is_open = not any(is_recurrent(canonical, node) for node in canonical.graph.nodes)
    program = exported(canonical, leaves, is_dynamic=is_open)
    with silence(), torch.no_grad():
        try:
            made: ExportedProgram = program.run_decompositions(_on_torch())
        except Exception as error:  # of any kind, as in torch.export itself
            raise EngineRefusal(f"torch.export does not take it: {in_one_line(error)}") from error
    return made


def _on_torch() -> dict[Any, Callable[..., Any]]:
    """Each op of ours on torch's."""
    stock = decomposed_ops()

    def quantize(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Any:
        return stock.quantize_per_tensor.default(x, scale, zero_point, low, high, dtype)

    def dequantize(codes: Tensor, scale: float, zero_point: int) -> Any:
        return stock.dequantize_per_tensor.default(codes, scale, zero_point, *qdq.FULL[codes.dtype], codes.dtype)

    def dequantize_channels(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Any:
        limits = (*qdq.FULL[codes.dtype], codes.dtype)
        return stock.dequantize_per_channel.default(codes, scale, zero_point, axis, *limits)

    def choose_qparams(x: Tensor, reduce_range: bool) -> Any:
        most = 127 if reduce_range else 255
        scale, zero_point = stock.choose_qparams.tensor(x, 0, most, torch.finfo(torch.float32).eps, torch.uint8)
        return scale.to(torch.float32), zero_point.to(torch.int32)

    def quantize_by(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, dtype: torch.dtype) -> Any:
        return stock.quantize_per_tensor.tensor(x, scale, zero_point, low, high, dtype)

    def dequantize_by(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
        limits = (*qdq.FULL[codes.dtype], codes.dtype)
        return stock.dequantize_per_tensor.tensor(codes, scale, zero_point, *limits)

    return {
        ops.QUANTIZE: quantize,
        ops.DEQUANTIZE: dequantize,
        ops.DEQUANTIZE_CHANNELS: dequantize_channels,
        ops.DEQUANTIZE_BLOCKS: ops.dequantize_blocks,
        ops.CHOOSE_QPARAMS: choose_qparams,
        ops.QUANTIZE_BY: quantize_by,
        ops.DEQUANTIZE_BY: dequantize_by,
        recurrent_ops.LSTM: recurrent_ops.lstm,
        recurrent_ops.GRU: recurrent_ops.gru,
    }
