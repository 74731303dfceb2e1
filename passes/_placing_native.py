"""What each kernel of a canonical graph takes on codes and in float on torch's own engines, as a placement problem.

Both graphs are lowered and run node by node, in turns: the quantized one, and one without any rounding of activations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from fxquant.engines.crossing_costs import native_crossing
from fxquant.graphs.placement import Op, Problem, Value
from fxquant.passes._native_graph import Lowered, NativeGraph
from fxquant.passes._placeable import Placeable, Unit, placeable
from fxquant.passes._placing_clock import Clock, clocked
from fxquant.passes._replaced import replaced


@dataclass(frozen=True)
class Measured:
    """The units of a graph, what they cost, and the quantized graph as it was lowered to find out."""

    found: Placeable
    problem: Problem
    quantized: fx.GraphModule  # lowered


def measured(
    canonical: fx.GraphModule, target: str, leaves: tuple[Tensor, ...], avoid: Mapping[fx.Node, str], *, seconds: float
) -> Measured | None:
    """Times on the example, for about so many seconds. None where nothing is on codes. The engine is the caller's."""
    native, lowered = _lowered(canonical, target, avoid)
    found = placeable(canonical, lowered.native, lowered.fused)
    if not any(unit.is_coded and not unit.is_requantize for unit in found.units.values()):
        return None
    plain = without_codes(canonical, found)
    plain_native, plain_lowered = _lowered(plain, target, {node: "measured in float" for node in plain.graph.nodes})
    coded, floating = clocked((lowered.graph_module, plain_lowered.graph_module), leaves, seconds=seconds)
    twins = {node.name: node for node in plain.graph.nodes}
    ops = tuple(
        Op(
            name,
            _seconds(coded, _kernels(unit, native)) if unit.is_coded else math.inf,
            _seconds(
                floating, (plain_native.values.get(twins[node.name]) for node in unit.nodes if node.name in twins)
            ),
        )
        for name, unit in found.units.items()
    )
    crossing = native_crossing(target)
    values = []
    for value in found.values:
        elements = _size(coded, native.codes.get(value.quantize))
        costs = crossing.quantize.seconds(elements), crossing.dequantize.seconds(elements)
        values.append(Value(value.producer, value.readers, *costs))
    return Measured(found, Problem(ops, tuple(values)), lowered.graph_module)


def without_codes(canonical: fx.GraphModule, found: Placeable) -> fx.GraphModule:
    """A copy in which every unit computes in float32."""
    return replaced(canonical, found, (), {name: ("float32", "to measure it") for name in found.coded})


def _lowered(canonical: fx.GraphModule, target: str, avoid: Mapping[fx.Node, str]) -> tuple[NativeGraph, Lowered]:
    native = NativeGraph(canonical, target, dict(avoid))
    return native, native.build()


def _kernels(unit: Unit, native: NativeGraph) -> Iterable[fx.Node | None]:
    """The lowered nodes that compute a unit on codes: what gives its codes, and what gives a float value of it."""
    last = unit.nodes[-1]
    if unit.is_requantize:
        return [native.codes.get(last)]
    return [*(native.codes.get(user) for user in last.users), *(native.values.get(node) for node in unit.nodes)]


def _seconds(clock: Clock, nodes: Iterable[fx.Node | None]) -> float:
    return sum(clock.seconds.get(node, 0.0) for node in dict.fromkeys(nodes) if node is not None)


def _size(clock: Clock, node: fx.Node | None) -> int:
    return 0 if node is None else clock.sizes.get(node, 0)
