"""What precision placement can place: the kernels of a canonical graph, and the coded values between them.

    v → quantize → dequantize → readers

A unit is what one kernel computes: a layer with the relu that is fused into it, or one op. Where a unit that computes
in float gives v to one that does, the pair above is not needed for it; where either is on codes it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import fx

from fxquant.passes._canonical import is_activation_dequantize, is_activation_quantize, is_native
from fxquant.passes._native_ops import SHAPE_METHODS


@dataclass(frozen=True)
class Unit:
    """Nodes that one kernel computes, in graph order. `is_coded`: an engine has a kernel for them on codes."""

    nodes: tuple[fx.Node, ...]
    is_coded: bool
    has_layer: bool = False  # with a weight that is held in few bits

    @property
    def name(self) -> str:
        """Its last node's: the one whose value others read."""
        return self.nodes[-1].name

    @property
    def is_requantize(self) -> bool:
        """Only gives codes another scale: in float it is nothing."""
        return is_activation_quantize(self.nodes[-1])


@dataclass(frozen=True)
class CodedValue:
    """One quantize of one value, its dequantizes, and who reads those: (dequantize, reader, the reader's unit)."""

    quantize: fx.Node
    producer: str
    reads: tuple[tuple[fx.Node, fx.Node, str], ...]

    @property
    def readers(self) -> tuple[str, ...]:
        """Units that read it, each once."""
        return tuple(dict.fromkeys(unit for _, _, unit in self.reads))


@dataclass(frozen=True)
class Placeable:
    """All units of a graph by name, and all coded values, in graph order."""

    units: Mapping[str, Unit]
    values: tuple[CodedValue, ...]
    unit_of: Mapping[fx.Node, str] = field(repr=False)

    @property
    def coded(self) -> frozenset[str]:
        """Units that have kernels on codes."""
        return frozenset(name for name, unit in self.units.items() if unit.is_coded)


def placeable(
    graph_module: fx.GraphModule, kernels: Mapping[fx.Node, object], fused: Mapping[fx.Node, fx.Node]
) -> Placeable:
    """Units and values of a canonical graph.

    `kernels` are the nodes that the engine computes by kernels of its own (on codes or with narrow weights), `fused`
    tells of a node that is computed in the kernel of the one before it.
    """
    units, unit_of = {}, dict[fx.Node, str]()
    for nodes in _groups(graph_module, fused):
        unit = Unit(nodes, _is_coded(nodes, kernels))
        units[unit.name] = unit
        unit_of.update(dict.fromkeys(nodes, unit.name))
    quantizes = [node for node in graph_module.graph.nodes if _is_coding(node)]
    return Placeable(units, tuple(_value(node, unit_of) for node in quantizes), unit_of)


def _is_coding(node: fx.Node) -> bool:
    """A static quantize to codes that engines have."""
    return is_activation_quantize(node) and is_native(node)


def _decodes(node: object) -> bool:
    return is_activation_dequantize(node) and is_native(node.args[0])  # type: ignore[attr-defined]


def _groups(graph_module: fx.GraphModule, fused: Mapping[fx.Node, fx.Node]) -> list[tuple[fx.Node, ...]]:
    """Every node that computes or gives a value, in the groups that kernels compute."""
    into = dict(fused)
    for node in graph_module.graph.nodes:
        source = node.args[0] if node.args else None
        if (
            node.target is F.conv2d
            and isinstance(source, fx.Node)
            and source.target is F.pad
            and len(source.users) == 1
        ):
            into[node] = source  # a border that the kernel's call adds on codes
    found: dict[fx.Node, list[fx.Node]] = {}
    first: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        is_pair = (_is_coding(node) and not _decodes(node.args[0])) or _decodes(node)
        if is_pair:
            continue
        first[node] = first.get(into.get(node, node), node)
        found.setdefault(first[node], []).append(node)
    return [tuple(nodes) for nodes in found.values()]


def _is_coded(nodes: tuple[fx.Node, ...], kernels: Mapping[fx.Node, object]) -> bool:
    """On codes: a kernel computes it from activations in codes. Dynamic and weight-only kernels take floats."""
    if _is_coding(nodes[-1]):
        return True
    inputs = [source for node in nodes for source in node.all_input_nodes]
    return any(node in kernels for node in nodes) and any(map(_decodes, inputs))


def _value(quantize: fx.Node, unit_of: Mapping[fx.Node, str]) -> CodedValue:
    source = quantize.all_input_nodes[0]
    producer = quantize.name if _decodes(source) else unit_of[source]
    found = [
        (dequantize, reader, unit_of.get(reader, ""))
        for dequantize in quantize.users
        if _decodes(dequantize)
        for reader in dequantize.users
    ]
    reads = [(dequantize, reader, producer if reads_shape(reader) else unit) for dequantize, reader, unit in found]
    return CodedValue(quantize, producer, tuple(read for read in reads if read[2]))


def reads_shape(node: fx.Node) -> bool:
    """Does it ask for the sizes alone? It takes what the producer gives, in either form."""
    is_method = node.op == "call_method" and node.target in SHAPE_METHODS
    return is_method or (node.op == "call_function" and node.target is getattr)
