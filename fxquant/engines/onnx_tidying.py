"""Last touches to an exported ONNX model: constants as initializers, weights stored as they are read, sizes by name.

Transpose(DequantizeLinear(w, s, axis=0))  ⇒  DequantizeLinear(wᵀ, s, axis=1)       likewise Gather and Unsqueeze
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import onnx_ir

ir: Any = onnx_ir  # its protocols are looser than its classes


def tidy(model: Any) -> None:
    """Each rewrite below, in place."""
    _constants_to_initializers(model.graph)
    _store_as_read(model.graph)
    _drop_unused(model.graph)
    _name_sizes(model)


def _constants_to_initializers(graph: Any) -> None:
    """Constant nodes ⇒ initializers: engines look for scales, zero points and weights there."""
    for node in list(graph):
        value = node.outputs[0]
        if node.op_type != "Constant" or "value" not in node.attributes or value.is_graph_output():
            continue
        held = _initializer(graph, value.name, node.attributes["value"].as_tensor().numpy(), node)
        value.replace_all_uses_with(held)
        graph.remove(node, safe=True)


def _initializer(graph: Any, name: str, array: Any, node: Any) -> Any:
    """A new initializer. `name` is free once `node`, whose output may have it, is gone."""
    tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
    made = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers[name] = made
    return made


def _store_as_read(graph: Any) -> None:
    """Moves of a dequantized weight ⇒ moves of its codes, done here once."""
    for node in list(graph):
        moved = _moved(node)
        if moved is None:
            continue
        widening = node.inputs[0].producer()
        codes, *qparams = widening.inputs
        for place, (value, array) in enumerate(zip((codes, *qparams), moved.arrays, strict=True)):
            if array is not None and array is not _array(value):
                widening.replace_input_with(
                    place, _initializer(graph, f"{value.name}_as_read_by_{node.name}", array, node)
                )
        if moved.axis is not None:
            widening.attributes["axis"] = ir.AttrInt64("axis", moved.axis)
        widening.outputs[0].shape = ir.Shape(moved.arrays[0].shape)
        node.outputs[0].replace_all_uses_with(widening.outputs[0])
        graph.remove(node, safe=True)


class _Moved(NamedTuple):
    """Codes, scale and zero point after a move, and the axis that the qparams lie along."""

    arrays: list[Any]
    axis: int | None


def _moved(node: Any) -> _Moved | None:
    """What a node makes of a dequantized constant that it alone reads; None for any other node."""
    source: Any = node.inputs[0] if node.inputs and node.op_type in _MOVES else None
    widening: Any = None if source is None else source.producer()
    if widening is None or widening.op_type != "DequantizeLinear":
        return None
    if len(source.uses()) != 1 or source.is_graph_output():
        return None
    arrays: list[Any] = [_array(value) for value in widening.inputs]
    if arrays[0] is None or any(a is None and v is not None for a, v in zip(arrays, widening.inputs, strict=True)):
        return None
    has_axis = "axis" in widening.attributes and arrays[1].ndim > 0
    axis = widening.attributes["axis"].as_int() % arrays[0].ndim if has_axis else None
    return _MOVES[node.op_type](node, arrays, axis)


def _transposed(node: Any, arrays: list[Any], axis: int | None) -> _Moved | None:
    if "perm" not in node.attributes:
        return None
    perm = list(node.attributes["perm"].as_ints())
    moved = [one if one is None or one.ndim != len(perm) else one.transpose(perm) for one in arrays]
    return _Moved(moved, None if axis is None else perm.index(axis))


def _rows(node: Any, arrays: list[Any], axis: int | None) -> _Moved | None:
    """Gather of whole rows by a constant."""
    rows = _array(node.inputs[1])
    by = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if rows is None or rows.ndim != 1 or by != 0:
        return None
    codes, *qparams = arrays
    is_along = axis == 0 or (qparams[0].ndim == codes.ndim)  # else one scale for all, or one for each column
    return _Moved([codes[rows], *(one if one is None or not is_along else one[rows] for one in qparams)], axis)


def _unsqueezed(node: Any, arrays: list[Any], axis: int | None) -> _Moved | None:
    axes = _array(node.inputs[1])
    if axes is None or list(axes) != [0]:
        return None
    codes, *qparams = arrays
    moved = [one if one is None or one.ndim != codes.ndim else one[None] for one in qparams]
    return _Moved([codes[None], *moved], None if axis is None else axis + 1)


_MOVES = {"Transpose": _transposed, "Gather": _rows, "Unsqueeze": _unsqueezed}


def _array(value: Any) -> Any:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _drop_unused(graph: Any) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _name_sizes(model: Any) -> None:
    """Symbols of the tracer ('s77') ⇒ what they are the size of: 'batch', 'x_1'."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            symbol = size.value if isinstance(size, ir.SymbolicDim) else None
            if symbol is not None and symbol.isidentifier():
                is_batch = axis == 0 and "batch" not in names.values()
                names.setdefault(symbol, "batch" if is_batch else f"{value.name}_{axis}")
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, names) for size in value.shape])


def _renamed(size: Any, names: dict[str, str]) -> Any:
    if isinstance(size, int) or size.value is None:
        return size
    return ir.SymbolicDim(re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), size.value))
