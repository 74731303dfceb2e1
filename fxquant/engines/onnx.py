"""The canonical graph as a QDQ ONNX model: torch.onnx translates it, and the fxquant:: ops have their words here.

    fxquant::quantize(x, s, z, 0, 255, uint8)      ⇒   QuantizeLinear(x, s, z)      s float32, z uint8: initializers
    fxquant::dequantize_channels(w, s, z, axis)    ⇒   DequantizeLinear(w, s, z, axis)      w int8: an initializer

A range narrower than its type's is a Clip of codes behind the QuantizeLinear.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset21
from torch import Tensor, fx
from torch.export import ExportedProgram

from fxquant.engines import onnx_recurrent, ops, recurrent_ops
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.exportable import canonical_name, exported
from fxquant.engines.onnx_tidying import tidy
from fxquant.engines.silence import silence
from fxquant.errors import in_one_line

OPSET = 21
op: Any = opset21  # its annotations are about tensors at run time, its calls here make nodes
_FULL = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}


def to_onnx(
    canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, names: tuple[list[str], list[str]] | None = None
) -> onnx.ModelProto:
    """The graph as an ONNX model, held to onnx's own checker. EngineRefusal where it has no such form.

    Sizes that the graph does not fix are open: 'batch', and others by their input's name and axis ('x_1'). `names` are
    those of the inputs and outputs; None: the graph's own.
    """
    program = exported(canonical, leaves, is_dynamic=True)
    inputs, outputs = names or ([node.name for node in canonical.graph.nodes if node.op == "placeholder"], None)
    with silence():
        made = _translated(program, inputs, outputs)
        tidy(made.model)
        proto = made.model_proto
        try:
            onnx.checker.check_model(proto, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise EngineRefusal(f"onnx's checker refuses the model: {in_one_line(error)}") from error
    return proto


def _translated(program: ExportedProgram, inputs: list[str], outputs: list[str] | None) -> torch.onnx.ONNXProgram:
    """Through the exporter; without its optimizer where that fails, as it does on chunks of an open size."""
    for optimize in (True, False):
        try:
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                custom_translation_table=_translations(),
                input_names=inputs,
                output_names=outputs,
                optimize=optimize,
            )
        except Exception as error:  # of any kind: the exporter wraps whatever its translations raise
            if not (optimize and _is_of_the_optimizer(error)):
                raise _refusal(error) from error
        else:
            break
    assert made is not None
    return made


def _is_of_the_optimizer(error: BaseException) -> bool:
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__", "")).startswith("onnxscript.optimizer") for frame, _ in frames)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    return {
        ops.QUANTIZE: _quantize,
        ops.DEQUANTIZE: _dequantize,
        ops.DEQUANTIZE_CHANNELS: _dequantize_channels,
        ops.DEQUANTIZE_BLOCKS: _dequantize_blocks,
        ops.CHOOSE_QPARAMS: _choose_qparams,
        ops.QUANTIZE_BY: _quantize_by,
        ops.DEQUANTIZE_BY: _dequantize_by,
        recurrent_ops.LSTM: onnx_recurrent.lstm,
        recurrent_ops.GRU: onnx_recurrent.gru,
    }


def _quantize(x: Any, scale: float, zero_point: int, low: int, high: int, dtype: int) -> Any:
    kind = ir.DataType(dtype)
    codes = op.QuantizeLinear(x, _scalar(scale, ir.DataType.FLOAT), _scalar(zero_point, kind))
    if (low, high) == _FULL.get(kind):
        return codes
    return op.Clip(codes, _scalar(low, kind), _scalar(high, kind))


def _dequantize(codes: Any, scale: float, zero_point: int) -> Any:
    return op.DequantizeLinear(codes, _scalar(scale, ir.DataType.FLOAT), _scalar(zero_point, codes.dtype))


def _dequantize_channels(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    return op.DequantizeLinear(codes, scale, op.Cast(zero_point, to=codes.dtype), axis=axis)


def _dequantize_blocks(codes: Any, scale: Any, zero_point: Any, block_size: int) -> Any:
    return op.DequantizeLinear(codes, scale, zero_point, axis=1, block_size=block_size)


def _choose_qparams(x: Any, reduce_range: bool) -> Any:
    """Scale and zero point of DynamicQuantizeLinear; for 7 bits, with twice its step and half its zero point."""
    _, scale, zero_point = op.DynamicQuantizeLinear(x)
    if not reduce_range:
        return scale, op.Cast(zero_point, to=ir.DataType.INT32)
    scale = op.Mul(scale, _scalar(255 / 127, ir.DataType.FLOAT))
    low = op.Min(op.ReduceMin(x, keepdims=0), _scalar(0.0, ir.DataType.FLOAT))
    return scale, op.Cast(op.Round(op.Div(op.Neg(low), scale)), to=ir.DataType.INT32)


def _quantize_by(x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: int) -> Any:
    chosen = scale.producer()
    if chosen is not None and chosen.op_type == "DynamicQuantizeLinear" and chosen.inputs[0] is x:
        return chosen.outputs[0]  # one kernel finds the range and quantizes
    return op.QuantizeLinear(x, scale, op.Cast(zero_point, to=dtype))


def _dequantize_by(codes: Any, scale: Any, zero_point: Any) -> Any:
    chosen = scale.producer()
    if chosen is not None and chosen.op_type == "DynamicQuantizeLinear":
        return op.DequantizeLinear(codes, scale, chosen.outputs[2])
    return op.DequantizeLinear(codes, scale, op.Cast(zero_point, to=codes.dtype))


def _scalar(value: float, dtype: ir.DataType) -> Any:
    return op.Constant(value=ir.tensor(value, dtype=dtype))


def _refusal(error: Exception) -> EngineRefusal:
    """With the canonical node that the exporter was at: its own error names a node of a graph that it keeps."""
    root: BaseException = error
    at = ""
    while True:
        at = at or _node_at(root.__traceback__)
        if root.__cause__ is None:
            return EngineRefusal(f"torch.onnx does not take it: {in_one_line(root)}", at)
        root = root.__cause__


def _node_at(trace: TracebackType | None) -> str:
    """The canonical node of the innermost frame that has an exported one at hand."""
    found = ""
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        found = (canonical_name(node) if isinstance(node, fx.Node) else "") or found
        trace = trace.tb_next
    return found
