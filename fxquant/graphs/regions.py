"""Which arithmetic each node stands in, told from the structure alone: at every stage, and in torch.ao's own graphs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord


class Region(StrEnum):
    """How a node computes."""

    QUANTIZED = "quantized"  # on codes; in a canonical graph: between dequantizes and a quantize
    WEIGHTS = "int8 weights"  # weights are held in int8 or float16, activations are float
    FLOAT = "float"
    BOUNDARY = "boundary"  # quantize, dequantize, choose_qparams
    OBSERVER = "observer"
    CONSTANT = "constant"  # get_attr, and what is computed from constants only
    NEUTRAL = "neutral"  # inputs, outputs, sizes, indices


QUANTIZES = frozenset({"quantize_per_tensor", "quantize_per_channel", "quantize_per_tensor_dynamic", "choose_qparams"})
DEQUANTIZES = frozenset({"dequantize", "dequantize_per_tensor", "dequantize_per_channel", "dequantize_rows"})
CODES = frozenset({"quint8", "qint8", "qint32", "quint4x2"})  # dtypes of quantized tensors
NARROW = frozenset({"uint8", "int8", "float16"})  # dtypes in which weights are held
SIZES = frozenset({"size", "dim", "numel", "shape", "getattr"})
RECURRENT = frozenset({"lstm", "gru"})
RELUS = frozenset({"relu", "ReLU", "relu_"})


def regions(snapshot: GraphSnapshot) -> dict[str, Region]:
    """The region of each node, by name, in graph order."""
    found: dict[str, Region] = {}
    reading = _Reading(snapshot, found)
    for node in snapshot:
        found[node.name] = reading.region(node)
    return found


class _Reading:
    """One walk in graph order; `found` holds the regions of all earlier nodes."""

    def __init__(self, snapshot: GraphSnapshot, found: Mapping[str, Region]) -> None:
        self.snapshot = snapshot
        self.found = found
        self.numbers: set[str] = set()  # nodes that give no tensor
        self.coded: set[str] = set()  # nodes that give quantized tensors
        self.held: set[str] = set()  # constants held in codes or halves, and what widens them

    def region(self, node: NodeRecord) -> Region:
        if node.op in ("placeholder", "output"):
            return Region.NEUTRAL
        if node.op == "get_attr" or self._is_constant(node):
            self._note_constant(node)
            return Region.CONSTANT
        if is_observer(node):
            return Region.OBSERVER
        if operation(node) in QUANTIZES | DEQUANTIZES:
            self._note_boundary(node)
            return Region.BOUNDARY
        if self._is_neutral(node):
            self.numbers.add(node.name)
            return Region.NEUTRAL
        return self._computing(node)

    def _computing(self, node: NodeRecord) -> Region:
        picked = self._picked(node)
        if picked is not None:
            return picked
        if gives_codes(node) or any(source in self.coded for source in node.inputs):
            self.coded.add(node.name)
            return Region.QUANTIZED
        if self._is_kernel(node) or self._is_canonical_kernel(node):
            return Region.QUANTIZED
        return Region.WEIGHTS if self._has_held_weights(node) else Region.FLOAT

    def _is_constant(self, node: NodeRecord) -> bool:
        return bool(node.inputs) and all(self.found[source] is Region.CONSTANT for source in node.inputs)

    def _note_constant(self, node: NodeRecord) -> None:
        is_narrow = any(value.dtype in NARROW for value in node.values)
        if is_narrow or any(source in self.held for source in node.inputs):
            self.held.add(node.name)

    def _note_boundary(self, node: NodeRecord) -> None:
        if operation(node) == "choose_qparams":
            self.numbers.add(node.name)
        elif operation(node) in QUANTIZES and _is_torchs(node):
            self.coded.add(node.name)

    def _is_neutral(self, node: NodeRecord) -> bool:
        if node.kind in SIZES:
            return True
        if node.inputs and all(source in self.numbers for source in node.inputs):
            return not _gives_floats(node)
        return bool(node.values) and not _gives_floats(node) and not self._reads_floats(node)

    def _reads_floats(self, node: NodeRecord) -> bool:
        return any(_gives_floats(self.snapshot[source]) or not self.snapshot[source].values for source in node.inputs)

    def _picked(self, node: NodeRecord) -> Region | None:
        """An element of a tuple stands where the tuple does."""
        source = self.snapshot[node.inputs[0]] if node.inputs else None
        if source is None or node.kind != "getitem" or len(source.values) < 2:
            return None
        if source.name in self.coded:
            self.coded.add(node.name)
        return self.found[source.name]

    def _is_kernel(self, node: NodeRecord) -> bool:
        """A call of an engine's kernel: on packed weights, or one of torch.ops.quantized."""
        if node.target.startswith("torch._ops.quantized."):
            return not node.target.split(".")[3].endswith("fp16")
        packed = (self.snapshot[source] for source in node.inputs)
        return any(source.op == "get_attr" and not source.values and "packed" in source.name for source in packed) or (
            node.kind.startswith("quantized_")
        )

    def _is_canonical_kernel(self, node: NodeRecord) -> bool:
        if self._has_held_weights(node) and (node.kind in RECURRENT or self._is_dynamic(node)):
            return True
        if node.kind in RELUS and self._follows_kernel(node):
            return self._ends_in_quantize(node)
        floats = [source for source in node.inputs if source not in self.numbers]
        fed = [source for source in floats if self.found[source] is not Region.CONSTANT]
        if not fed:
            return False
        if all(self.found[source] is Region.NEUTRAL for source in fed):  # an embedding
            return self._has_held_weights(node)
        if not all(self._is_dequantize(source) for source in fed):
            return False
        return self._ends_in_quantize(node) or self._ends_in_relu(node)

    def _is_dynamic(self, node: NodeRecord) -> bool:
        """Its input was quantized with a scale chosen on the spot."""
        source = self.snapshot[node.inputs[0]]
        return self._is_dequantize(source.name) and any(name in self.numbers for name in source.inputs)

    def _is_dequantize(self, name: str) -> bool:
        return self.found[name] is Region.BOUNDARY and self.snapshot[name].target.startswith(
            ("fxquant.qdq.dequantize", "torch._ops.quantized_decomposed.dequantize")
        )

    def _follows_kernel(self, node: NodeRecord) -> bool:
        return bool(node.inputs) and self.found[node.inputs[0]] is Region.QUANTIZED

    def _readers(self, node: NodeRecord) -> list[NodeRecord]:
        """Those that read its values, not only its size; of a tuple, those of its elements."""
        readers = [self.snapshot[name] for name in self.snapshot.readers[node.name]]
        if len(node.values) > 1:
            readers = [other for reader in readers for other in self._readers(reader)]
        return [reader for reader in readers if reader.kind not in SIZES]

    def _ends_in_quantize(self, node: NodeRecord) -> bool:
        readers = self._readers(node)
        return bool(readers) and all(operation(reader) in QUANTIZES for reader in readers)

    def _ends_in_relu(self, node: NodeRecord) -> bool:
        readers = self._readers(node)
        return len(readers) == 1 and readers[0].kind in RELUS and self._ends_in_quantize(readers[0])

    def _has_held_weights(self, node: NodeRecord) -> bool:
        return any(source in self.held for source in node.inputs) or "_fp16" in node.target


def operation(node: NodeRecord) -> str:
    """What a node calls, without an overload's name: 'quantize_per_tensor', 'conv2d', 'relu'."""
    if node.op == "call_function" and node.target.startswith("torch._ops."):
        return node.target.split(".")[3]
    return node.kind


def is_observer(node: NodeRecord) -> bool:
    """A module that watches or mimics values: an observer or a fake quantize."""
    return node.op == "call_module" and (
        node.kind.endswith(("Observer", "FakeQuantize")) or "FakeQuantize" in node.kind
    )


def gives_codes(node: NodeRecord) -> bool:
    """Does it give a quantized tensor?"""
    return any(value.dtype in CODES for value in node.values)


def _is_torchs(node: NodeRecord) -> bool:
    return node.target.startswith("torch.")


def _gives_floats(node: NodeRecord) -> bool:
    return any("float" in value.dtype or value.dtype in CODES for value in node.values)
