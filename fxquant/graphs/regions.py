"""In which arithmetic each node computes, told from the structure alone, in torch.ao's own graphs too."""

from __future__ import annotations

from enum import StrEnum

from fxquant.graphs.kernels import FLOAT_RESULTS, LAYERS, LOOK_UPS, RECURRENT, operation
from fxquant.graphs.quantizing import (
    CHOOSES,
    CODED_CONSTANTS,
    HALVES,
    ReferenceGraph,
    is_dequantize,
    is_quantize,
)
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord


class Region(StrEnum):
    """How a node computes."""

    QUANTIZED = "quantized"  # on codes; in a reference graph: what stands between dequantize and quantize for that
    WEIGHTS = "int8 weights"  # weights are held in few bits or as 16-bit floats, activations are float
    FLOAT = "float"
    BOUNDARY = "boundary"  # quantize, dequantize, choose_qparams
    OBSERVER = "observer"  # fake quantizes too
    CONSTANT = "constant"  # get_attr, and what only widens constants
    NEUTRAL = "neutral"  # inputs, outputs, sizes, indices


COMPUTING = frozenset({Region.QUANTIZED, Region.WEIGHTS, Region.FLOAT})
CODES = frozenset({"quint8", "qint8", "qint32", "quint4x2"})  # dtypes of quantized tensors
SIZES = frozenset({"size", "dim", "numel", "shape", "getattr"})


def regions(snapshot: GraphSnapshot) -> dict[str, Region]:
    """The region of each node by its name, in graph order.

    A layer whose weights are widened ahead of time (a lowered graph on an engine without a kernel for them) is float:
    that is how it computes. Integers (indices, sizes) are neutral.
    """
    walk = _Walk(snapshot)
    for node in snapshot:
        walk.found[node.name] = walk.region(node)
    return walk.found


def is_observer(node: NodeRecord) -> bool:
    """A module that watches or mimics values: an observer or a fake quantize."""
    return node.op == "call_module" and ("Observer" in node.kind or "FakeQuantize" in node.kind)


def gives_codes(node: NodeRecord) -> bool:
    """Does it give a quantized tensor?"""
    return any(value.dtype in CODES for value in node.values)


def gives_floats(node: NodeRecord) -> bool:
    """Does it give a tensor of floats or codes?"""
    return any("float" in value.dtype or value.dtype in CODES for value in node.values)


class _Walk:
    """One walk in graph order; `found` holds the regions of all earlier nodes."""

    def __init__(self, snapshot: GraphSnapshot) -> None:
        self.snapshot = snapshot
        self.reference = ReferenceGraph(snapshot)
        self.found: dict[str, Region] = {}
        self.numbers: set[str] = set()  # nodes that give no tensor of floats
        self.coded: set[str] = set()  # nodes that give quantized tensors

    def region(self, node: NodeRecord) -> Region:
        if node.op in ("placeholder", "output"):
            return Region.NEUTRAL
        if node.op == "get_attr" or node.name in self.reference.widened:
            return Region.CONSTANT
        if is_observer(node):
            return Region.OBSERVER
        if is_quantize(node) or is_dequantize(node) or operation(node) in CHOOSES:
            return self._boundary(node)
        if self._is_neutral(node):
            self.numbers.add(node.name)
            return Region.NEUTRAL
        return self._computing(node)

    def _boundary(self, node: NodeRecord) -> Region:
        if operation(node) in CHOOSES:
            self.numbers.add(node.name)
        elif is_quantize(node) and node.target.startswith("torch.quantize"):
            self.coded.add(node.name)
        return Region.BOUNDARY

    def _computing(self, node: NodeRecord) -> Region:
        source = self._tuple_of(node)
        if source is not None:
            self.coded.update({node.name} if source in self.coded else ())
            return self.found[source]
        if operation(node) in FLOAT_RESULTS:
            return Region.QUANTIZED
        if gives_codes(node) or any(name in self.coded for name in node.inputs):
            self.coded.add(node.name)
            return Region.QUANTIZED
        if _is_half(node) or self.reference.holds(node, HALVES):
            return Region.WEIGHTS
        if _is_packed(node) or node.name in self.reference.kernels:
            return Region.QUANTIZED
        return Region.WEIGHTS if self.reference.holds(node, CODED_CONSTANTS) else Region.FLOAT

    def _is_neutral(self, node: NodeRecord) -> bool:
        if gives_floats(node):
            return False
        if node.kind in SIZES or (node.inputs and all(name in self.numbers for name in node.inputs)):
            return True
        return bool(node.values) and not any(map(self._may_be_float, node.inputs))

    def _may_be_float(self, name: str) -> bool:
        node = self.snapshot[name]
        return gives_floats(node) or (not node.values and name not in self.numbers)

    def _tuple_of(self, node: NodeRecord) -> str | None:
        """The tuple that it takes an element of: an element stands where its tuple does."""
        source = self.snapshot[node.inputs[0]] if node.inputs and node.kind == "getitem" else None
        if source is None or (len(source.values) < 2 and operation(source) not in RECURRENT):
            return None
        return source.name


def _is_half(node: NodeRecord) -> bool:
    """A kernel on narrow weights and float activations, or torch.ao's dynamic module on float16 weights."""
    is_kernel = operation(node).endswith(("_fp16", "_bf16", "_int4", "_on_widened_weights"))
    return is_kernel or (_is_packed_module(node) and "float16" in node.attribute("options"))


def _is_packed(node: NodeRecord) -> bool:
    """An engine's kernel: one of torch.ops.quantized, ours around them, or a torch.ao module with packed weights."""
    if node.op == "call_function":
        return node.target.startswith(("torch._ops.quantized.", "fxquant.passes._native_"))
    return _is_packed_module(node)


def _is_packed_module(node: NodeRecord) -> bool:
    """torch.ao's modules have the names of float ones, and their options, but no weights that can be seen."""
    if node.op != "call_module" or node.kind not in LAYERS | RECURRENT | LOOK_UPS or not node.attribute("options"):
        return False
    return not any(name.startswith("weight") for name, _ in node.attributes)
