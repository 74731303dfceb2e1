"""aten::linear in ONNX, in the form whose int8 kernel has the bias: of a runtime's choice that is by the input's codes.

static codes      Reshape → Gemm → Reshape      one kernel with bias and rounding, of matrices only
dynamic codes     MatMul → Add                  the scale is not known ahead, and Gemm's kernel wants to know it
anything else     as torch.onnx has it
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript import opset21

op: Any = opset21


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x @ weight.T + bias. Shapes: (..., inputs), (outputs, inputs), (outputs,)."""
    source, widened = _dequantize(x), _dequantize(weight)
    is_static = source is not None and widened is not None and source.inputs[0].producer() is not None
    if is_static and source.inputs[1].producer().op_type == "Constant" and bias is not None:
        return _matrix(x, weight, bias)
    if len(x.shape) == 2 and widened is None and bias is not None:
        return op.Gemm(x, weight, bias, transB=1)
    product = op.MatMul(x, op.Transpose(weight, perm=[1, 0]))
    return product if bias is None else op.Add(product, bias)


def _matrix(x: Any, weight: Any, bias: Any) -> Any:
    if len(x.shape) == 2:
        return op.Gemm(x, weight, bias, transB=1)
    inputs, outputs = int(weight.shape[1]), int(weight.shape[0])
    rows = op.Gemm(op.Reshape(x, _integers(-1, inputs)), weight, bias, transB=1)
    leading = [size if isinstance(size, int) else -1 for size in x.shape[:-1]]
    if leading.count(-1) <= 1:
        return op.Reshape(rows, _integers(*leading, outputs))
    return op.Reshape(rows, op.Concat(op.Shape(x, end=-1), _integers(outputs), axis=0))


def _dequantize(value: Any) -> Any:
    """The DequantizeLinear that gives a value; None for another."""
    made = value.producer()
    return made if made is not None and made.op_type == "DequantizeLinear" else None


def _integers(*values: int) -> Any:
    return op.Constant(value=ir.tensor(list(values), dtype=ir.DataType.INT64))
