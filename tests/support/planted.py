"""Lowered graphs built by hand, as snapshots: a letter an op, 'q' on codes and 'f' float, conversions between them."""

from __future__ import annotations

from collections.abc import Iterable

from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo

SHAPE = (2, 8)
FLOATS, CODES = TensorInfo("float32", SHAPE), TensorInfo("quint8", SHAPE)


class Planted:
    """Adds nodes one by one; each method gives the new node's name."""

    def __init__(self) -> None:
        self.nodes: list[NodeRecord] = []

    def input(self, value: TensorInfo = FLOATS) -> str:
        return self.add("placeholder", "x", (), value)

    def quantized(self, *inputs: str) -> str:
        return self.add("call_function", "torch._ops.quantized.add.default", inputs, CODES, f"q{len(self.nodes)}")

    def dynamic(self, *inputs: str) -> str:
        return self.add("call_function", "torch._ops.quantized.linear_dynamic.default", inputs, FLOATS)

    def float(self, *inputs: str) -> str:
        return self.add("call_function", "torch.erf", inputs, FLOATS, f"f{len(self.nodes)}")

    def quantize(self, source: str) -> str:
        return self.add("call_function", "torch.quantize_per_tensor", (source,), CODES)

    def dequantize(self, source: str) -> str:
        return self.add("call_method", "dequantize", (source,), FLOATS)

    def output(self, *inputs: str) -> GraphSnapshot:
        self.add("output", "output", inputs)
        return GraphSnapshot(tuple(self.nodes), "Planted")

    def add(
        self, op: str, target: str, inputs: Iterable[str], value: TensorInfo | None = None, origin: str = ""
    ) -> str:
        kind, inputs = target.rsplit(".", 1)[-1], tuple(inputs)
        name = origin or f"{kind}_{len(self.nodes)}"
        args = "(" + ", ".join(f"%{source}" for source in inputs) + ")"
        values, origins = () if value is None else (value,), (origin,) if origin else ()
        self.nodes.append(NodeRecord(name, op, target, kind, args, inputs, origins, values=values))
        return name


def chain(letters: str) -> GraphSnapshot:
    """x → one op a letter → output, with a quantize or a dequantize wherever the letters change."""
    graph = Planted()
    last, coded = graph.input(), False
    for letter in letters:
        if (letter == "q") is not coded:
            last = graph.dequantize(last) if coded else graph.quantize(last)
        coded = letter == "q"
        last = graph.quantized(last) if coded else graph.float(last)
    return graph.output(graph.dequantize(last) if coded else last)
