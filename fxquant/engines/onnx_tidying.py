"""Last touches to an exported ONNX model: constants as initializers, weights stored as they are read, sizes by name."""

from __future__ import annotations

import re
from typing import Any

import onnx_ir as ir


def tidy(model: Any) -> None:
    """Each rewrite below, in place."""
    _constants_to_initializers(model.graph)
    _store_transposed(model.graph)
    _drop_unused(model.graph)
    _name_sizes(model)


def _constants_to_initializers(graph: Any) -> None:
    """Constant nodes ⇒ initializers: engines look for scales, zero points and weights there."""
    for node in list(graph):
        if node.op_type != "Constant" or "value" not in node.attributes:
            continue
        value, tensor = node.outputs[0], node.attributes["value"].as_tensor()
        held = ir.Value(
            name=value.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        if value.is_graph_output():
            continue
        value.replace_all_uses_with(held)
        graph.remove(node, safe=True)
        graph.register_initializer(held)


def _store_transposed(graph: Any) -> None:
    """Transpose(DequantizeLinear(w, axis=0)) ⇒ DequantizeLinear(wᵀ, axis=1): what kernels of MatMul read."""
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        widening = None if source is None else source.producer()
        if widening is None or widening.op_type != "DequantizeLinear" or len(source.uses()) != 1:
            continue
        codes = widening.inputs[0]
        perm = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None
        if codes is None or codes.const_value is None or len(codes.uses()) != 1 or perm is None:
            continue
        stored = ir.tensor(codes.const_value.numpy().transpose(perm).copy(), name=codes.name)
        codes.const_value, codes.shape = stored, ir.Shape(stored.shape)
        if "axis" in widening.attributes:
            axis = widening.attributes["axis"].as_int()
            widening.attributes["axis"] = ir.AttrInt64("axis", perm.index(axis % len(perm)))
        source.shape = ir.Shape(stored.shape)
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


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
                names.setdefault(
                    symbol, "batch" if axis == 0 and "batch" not in names.values() else f"{value.name}_{axis}"
                )
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, names) for size in value.shape])


def _renamed(size: Any, names: dict[str, str]) -> Any:
    if isinstance(size, int) or size.value is None:
        return size
    return ir.SymbolicDim(re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), size.value))
