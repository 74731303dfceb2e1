"""What precision placement can place: the kernels of a canonical graph, and the coded values between them.

    v → quantize → dequantize → readers            a pair: v's codes
    v → quantize → dequantize → maxpool → readers  what an op has moved is on codes too, without a pair of its own

A unit is what one kernel computes: a layer with the relu that is fused into it, or one op. Where a unit that computes
in float gives v to one that does, the pair is not needed for it; where either is on codes it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import fx

from fxquant import qdq
from fxquant.passes._canonical import grid_of, is_activation_dequantize, is_activation_quantize, is_native
from fxquant.passes._native_ops import SHAPE_METHODS

Grid = tuple[Any, ...]  # scale, zero_point, quant_min, quant_max, dtype


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
    """A value on a grid of codes, and who reads it: (the node that is read, the reader, the reader's unit)."""

    source: fx.Node  # the quantize that gives the codes, or the op that has moved them
    grid: Grid
    producer: str
    reads: tuple[tuple[fx.Node, fx.Node, str], ...]

    @property
    def has_pair(self) -> bool:
        """Is there a quantize and a dequantize for it? Else an op has moved codes."""
        return is_activation_quantize(self.source)

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
    values = tuple(
        _value(node, unit_of) for node in graph_module.graph.nodes if is_coding(node) or _is_moved(node, units, unit_of)
    )
    return Placeable(units, values, unit_of)


def is_coding(node: fx.Node) -> bool:
    """A static quantize to codes that engines have."""
    return is_activation_quantize(node) and is_native(node)


def _decodes(node: object) -> bool:
    return is_activation_dequantize(node) and is_native(node.args[0])  # type: ignore[attr-defined]


def _is_on_grid(node: fx.Node) -> bool:
    """Is the value one of codes that engines have: dequantized, or moved since?"""
    grid = grid_of(node)
    return grid is not None and qdq.FULL.get(grid[4]) == grid[2:4] and not isinstance(grid[0], fx.Node)


def _is_moved(node: fx.Node, units: Mapping[str, Unit], unit_of: Mapping[fx.Node, str]) -> bool:
    return node in unit_of and units[unit_of[node]].is_coded and _is_on_grid(node)


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
        if _decodes(node) or (is_coding(node) and not _is_on_grid(node.all_input_nodes[0])):
            continue
        first[node] = first.get(into.get(node, node), node)
        found.setdefault(first[node], []).append(node)
    return [tuple(nodes) for nodes in found.values()]


def _is_coded(nodes: tuple[fx.Node, ...], kernels: Mapping[fx.Node, object]) -> bool:
    """On codes: a kernel computes it from activations in codes. Dynamic and weight-only kernels take floats."""
    if is_coding(nodes[-1]):
        return True
    inputs = [source for node in nodes for source in node.all_input_nodes if source not in nodes]
    return any(node in kernels for node in nodes) and any(map(_is_on_grid, inputs))


def _value(source: fx.Node, unit_of: Mapping[fx.Node, str]) -> CodedValue:
    """Of a quantize, or of an op that has moved codes."""
    if not is_activation_quantize(source):
        reads = [(source, reader, unit_of[reader]) for reader in source.users if reader in unit_of]
        grid = grid_of(source)
        assert grid is not None
        return CodedValue(source, grid, unit_of[source], _neutral(reads, unit_of[source]))
    given = source.all_input_nodes[0]
    producer = source.name if source in unit_of else unit_of[given]
    found = [
        (dequantize, reader, unit_of[reader])
        for dequantize in source.users
        if _decodes(dequantize)
        for reader in dequantize.users
    ]
    return CodedValue(source, tuple(source.args[1:]), producer, _neutral(found, producer))


def _neutral(reads: list[tuple[fx.Node, fx.Node, str]], producer: str) -> tuple[tuple[fx.Node, fx.Node, str], ...]:
    """What reads sizes alone takes what the producer gives, in either form."""
    return tuple((read, reader, producer if reads_shape(reader) else unit) for read, reader, unit in reads)


def reads_shape(node: fx.Node) -> bool:
    """Does it ask for the sizes alone?"""
    is_method = node.op == "call_method" and node.target in SHAPE_METHODS
    return is_method or (node.op == "call_function" and node.target is getattr)
