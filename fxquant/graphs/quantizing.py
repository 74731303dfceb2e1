"""Quantize and dequantize, constants held in codes, and the kernels that a reference graph's patterns stand for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from fxquant.graphs.kernels import (
    BINARY_WITH_RELU,
    FIXED_MODULES,
    LAYERS,
    LOOK_UPS,
    RECURRENT,
    RELUS,
    is_moving,
    is_of_two,
    is_own,
    is_shared,
    operation,
)
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

QUANTIZES = frozenset({"quantize_per_tensor", "quantize_per_channel", "quantize_per_tensor_dynamic"})
DEQUANTIZES = frozenset({"dequantize", "dequantize_per_tensor", "dequantize_per_channel", "dequantize_rows"})
OWN_DEQUANTIZES = frozenset({"dequantize_groups", "dequantize_floats"})  # of weights, in formats that no engine has
CHOOSES = frozenset({"choose_qparams"})
WIDENS = DEQUANTIZES | OWN_DEQUANTIZES | {"to", "float", "_to_copy"}
CODED_CONSTANTS, HALVES = frozenset({"int8", "uint8", "int16", "qint8", "quint8"}), frozenset({"float16", "bfloat16"})
_REFERENCE = ("fxquant.qdq.", "torch._ops.quantized_decomposed.")


def is_quantize(node: NodeRecord) -> bool:
    """Does it turn floats into codes?"""
    return node.op == "call_function" and operation(node) in QUANTIZES


def is_dequantize(node: NodeRecord) -> bool:
    """Does it turn codes into floats?"""
    return node.op in ("call_function", "call_method") and operation(node) in DEQUANTIZES | OWN_DEQUANTIZES


class ReferenceGraph:
    """A graph in which dequantize → op → quantize stands for an op on codes: the canonical one, or a foreign one.

    In a lowered graph the same three nodes mean that the op is float.
    """

    def __init__(self, snapshot: GraphSnapshot) -> None:
        self.snapshot = snapshot

    @cached_property
    def kernels(self) -> frozenset[str]:
        """Names of the nodes that are computed on codes, as far as the structure tells; no engine has been asked."""
        if not self._is_reference:
            return frozenset()
        static = (name for node in self.snapshot if is_quantize(node) for name in self._static(node))
        found = frozenset(static) | {
            node.name for node in self.snapshot if self._is_whole(node) or self._is_moved(node)
        }
        return frozenset(name for name in found if not self.snapshot[name].attribute("placed"))

    @cached_property
    def widened(self) -> dict[str, str]:
        """Constants held in a narrow dtype as floats again: name of the node that widens → dtype of what is held."""
        found = {}
        for node in self.snapshot:
            held = self._inputs(node)
            narrow = next((value.dtype for source in held for value in source.values), "")
            if held and operation(node) in WIDENS and all(source.op == "get_attr" for source in held):
                found[node.name] = narrow
        return {name: dtype for name, dtype in found.items() if dtype in CODED_CONSTANTS | HALVES}

    def holds(self, node: NodeRecord, dtypes: frozenset[str]) -> bool:
        """Does a call read a constant that is held in one of these dtypes?"""
        return any(self.widened.get(source) in dtypes for source in node.inputs)

    def _runs_on_codes(self, node: NodeRecord) -> bool:
        """Does a call read a constant in codes that engines have?"""
        codes = (source for source in node.inputs if self.widened.get(source) in CODED_CONSTANTS)
        return any(operation(self.snapshot[source]) not in OWN_DEQUANTIZES for source in codes)

    @cached_property
    def _is_reference(self) -> bool:
        return any(node.target.startswith(_REFERENCE) or node.attribute("weight_scale") for node in self.snapshot)

    def _inputs(self, node: NodeRecord) -> tuple[NodeRecord, ...]:
        return tuple(self.snapshot[name] for name in node.inputs)

    def _is_dynamic(self, dequantize: NodeRecord) -> bool:
        """Are scale and zero point chosen on the spot?"""
        return is_dequantize(dequantize) and any(
            operation(source) == "getitem" and any(operation(other) in CHOOSES for other in self._inputs(source))
            for source in self._inputs(dequantize)
        )

    def _is_coded(self, node: NodeRecord) -> bool:
        """Is this value the dequantize of a static activation, or what an op has moved of one?"""
        return self._is_decoded(node) or self._is_moved(node)

    def _is_decoded(self, node: NodeRecord) -> bool:
        return is_dequantize(node) and node.name not in self.widened and not self._is_dynamic(node)

    def _is_moved(self, node: NodeRecord) -> bool:
        """Does it move values that are on one grid of codes? Then it moves the codes."""
        return not self._is_decoded(node) and self._grid(node) is not None

    def _grid(self, node: NodeRecord) -> tuple[str, ...] | None:
        """Scale and zero point of the codes that this value stands for; None where it stands for none."""
        if self._is_decoded(node):
            return _qparams(node)
        inputs = self._inputs(node)
        if node.attribute("placed") or not inputs:
            return None
        if is_moving(node) and len(inputs) == 1:
            return self._grid(inputs[0])
        grids = {self._grid(source) for source in inputs} if operation(node) == "cat" else set()
        return grids.pop() if len(grids) == 1 else None

    def _is_whole(self, node: NodeRecord) -> bool:
        """Ops whose kernel takes floats and gives floats: dynamic layers, look-ups in coded tables."""
        if not self._runs_on_codes(node):
            return False
        if operation(node) in RECURRENT | LOOK_UPS:
            return True
        return operation(node) == "linear" and self._is_dynamic(self.snapshot[node.inputs[0]])

    def _static(self, quantize: NodeRecord) -> Iterator[str]:
        """The op before a quantize, and the op before that where a relu is fused into it."""
        source = self.snapshot[quantize.inputs[0]]
        layer = self._before_relu(source)
        if layer is not None and (self._is_layer(layer) or self._is_sum(layer)):
            yield from (layer.name, source.name)
        elif self._is_layer(source) or self._is_binary(source) or self._is_other(source, quantize):
            yield source.name

    def _before_relu(self, node: NodeRecord) -> NodeRecord | None:
        if node.kind not in RELUS and operation(node) not in RELUS:
            return None
        source = self.snapshot[node.inputs[0]]
        return source if len(self.snapshot.readers[source.name]) == 1 else None

    def _is_layer(self, node: NodeRecord) -> bool:
        if operation(node) not in LAYERS or not self._is_fed(node):
            return False
        return node.op == "call_module" or self._runs_on_codes(node)

    def _is_fed(self, node: NodeRecord) -> bool:
        source = self.snapshot[node.inputs[0]]
        is_reflected = operation(source) == "pad" and "'reflect'" in source.args
        return self._is_coded(self.snapshot[source.inputs[0]] if is_reflected else source)

    def _is_sum(self, node: NodeRecord) -> bool:
        return operation(node) in BINARY_WITH_RELU and self._is_binary(node)

    def _is_binary(self, node: NodeRecord) -> bool:
        return is_of_two(node) and all(map(self._is_coded, self._inputs(node)))

    def _is_other(self, node: NodeRecord, quantize: NodeRecord) -> bool:
        inputs = self._inputs(node)
        if operation(node) == "cat":
            return all(map(self._is_coded, inputs))
        if not inputs or not self._is_coded(inputs[0]) or any(map(self._is_coded, inputs[1:])):
            return False
        if node.op == "call_module" and node.kind in FIXED_MODULES:
            return _is_close(quantize, *FIXED_MODULES[node.kind])
        return is_own(node) or (is_shared(node) and _qparams(quantize) == self._grid(inputs[0]))


def _qparams(node: NodeRecord) -> tuple[str, ...]:
    """Scale and zero point of a quantize or a dequantize; of foreign ones, whose attributes nobody noted, none."""
    return node.attribute("scale"), node.attribute("zero_point")


def _is_close(quantize: NodeRecord, scale: float, zero_point: int) -> bool:
    given, zero = _qparams(quantize)
    return bool(given) and abs(float(given) - scale) < 1e-9 and int(zero) == zero_point
