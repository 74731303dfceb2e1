"""Times of an engine's nodes as a placement problem. What it fused into another kernel takes nothing by itself.

Engines differ in what a layer on codes gives:

1. Codes (ONNX Runtime). What reads them in float pays for a dequantize, what makes codes of a float for a quantize: the
   conversions of `fxquant.graphs.placement`. Those that the engine did not run are estimated from those that it did.
2. Floats or codes at no cost (OpenVINO), as the quantize is part of any kernel. What a reader on codes pays is the
   quantize before it, once for all readers, where the engine runs it by itself. So each value's pair is a producer of
   its own: always in float, and free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant.engines.crossing_costs import Line, fitted, native_crossing
from fxquant.graphs.placement import Op, Problem, Value
from fxquant.passes._placeable import Placeable, Unit, placeable, reads_shape
from fxquant.passes._weights import held_as

Times = Mapping[str, float]  # canonical node → seconds

_COMPUTES = ("call_function", "call_method", "call_module")
_CLAMPS = (F.relu, F.relu6, F.hardtanh, torch.relu, torch.clamp)
_CLAMPING_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)


def units(canonical: fx.GraphModule) -> Placeable:
    """Every op on codes is a unit of its own, with the clamp that alone reads it."""
    computing = {node: "" for node in canonical.graph.nodes if node.op in _COMPUTES}
    clamps = {node: node.all_input_nodes[0] for node in computing if _is_clamp(node, canonical)}
    clamps = {node: layer for node, layer in clamps.items() if layer in computing and len(layer.users) == 1}
    found = placeable(canonical, computing, clamps)
    layers = {name: _with_layer(unit, canonical) for name, unit in found.units.items()}
    return replace(found, units=layers)


def _is_clamp(node: fx.Node, canonical: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return isinstance(canonical.get_submodule(str(node.target)), _CLAMPING_MODULES)
    return node.op == "call_function" and node.target in _CLAMPS


def _with_layer(unit: Unit, canonical: fx.GraphModule) -> Unit:
    return replace(unit, has_layer=any(held_as(node, canonical) for node in unit.nodes))


def ran_on_codes(found: Placeable, coded: Times) -> Placeable:
    """Only units whose inputs the engine did not dequantize are on codes; a layer is, where its weight is."""
    widened: dict[str, bool] = {}
    for value in found.values:
        for read, _, unit in value.reads if value.has_pair else ():
            widened[unit] = widened.get(unit, False) or read.name in coded
    return replace(
        found,
        units={
            name: replace(unit, is_coded=unit.is_coded and (unit.has_layer or not widened.get(name, False)))
            for name, unit in found.units.items()
        },
    )


def problem_with_conversions(found: Placeable, coded: Times, floating: Times, sizes: Mapping[fx.Node, int]) -> Problem:
    """Of an engine whose layers end in codes. `sizes`: how many numbers each canonical node gives."""
    quantizes = {value.source for value in found.values if value.has_pair}
    dequantizes = {read for value in found.values if value.has_pair for read, _, _ in value.reads}
    quantize = _line(quantizes, coded, sizes) or native_crossing("").quantize
    dequantize = _line(dequantizes, coded, sizes) or native_crossing("").dequantize
    values = [
        Value(
            value.producer,
            value.readers,
            quantize.seconds(sizes.get(value.source, 0)),
            dequantize.seconds(sizes.get(value.source, 0)),
        )
        for value in found.values
    ]
    return Problem(_ops(found, coded, floating), tuple(values))


def _line(nodes: set[fx.Node], coded: Times, sizes: Mapping[fx.Node, int]) -> Line | None:
    """Through those that ran by themselves; None where there are none."""
    points = [(sizes.get(node, 0), coded[node.name]) for node in nodes if coded.get(node.name, 0.0) > 0]
    return fitted(points) if points else None


def own_pairs(found: Placeable) -> Placeable:
    """Each value is given by its pair: the engine quantizes what a reader on codes needs, whoever computed it."""
    values = tuple(replace(value, producer=f"{value.source.name} pair") for value in found.values)
    return replace(found, values=values)


def problem_with_own_pairs(found: Placeable, coded: Times, floating: Times) -> Problem:
    """Of an engine whose layers give floats or codes alike; `found` is of `own_pairs`."""
    pairs = tuple(Op(value.producer, math.inf, 0.0) for value in found.values)
    values = []
    for value in found.values:
        nodes = (value.source, *(read for read, _, _ in value.reads)) if value.has_pair else ()
        seconds = sum(coded.get(node.name, 0.0) for node in dict.fromkeys(nodes))
        readers = dict.fromkeys(name for _, reader, name in value.reads if not reads_shape(reader))
        values.append(Value(value.producer, tuple(readers), seconds, 0.0))
    return Problem((*_ops(found, coded, floating), *pairs), tuple(values))


def _ops(found: Placeable, coded: Times, floating: Times) -> tuple[Op, ...]:
    return tuple(
        Op(
            name,
            sum(coded.get(node.name, 0.0) for node in unit.nodes) if unit.is_coded else math.inf,
            sum(floating.get(node.name, 0.0) for node in unit.nodes),
        )
        for name, unit in found.units.items()
    )
