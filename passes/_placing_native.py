"""What each kernel of a canonical graph takes on codes and in float on torch's own engines, as a placement problem.

Three graphs are lowered and run node by node, in turns: the quantized one, one without any rounding of activations,
and, where the CPU has it, that one with its layers in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, fx

from fxquant.engines.crossing_costs import native_crossing
from fxquant.graphs.placement import Op, Problem, Value, place
from fxquant.keep_float import BY_DECISION, is_kept_float
from fxquant.passes._native_formats import PLACED_LAYERS
from fxquant.passes._native_graph import Lowered, NativeGraph
from fxquant.passes._placeable import Placeable, Unit, placeable
from fxquant.passes._placing_clock import Clock, clocked
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED, Contest, in_words
from fxquant.passes._placing_race import NEAR, is_gain
from fxquant.passes._replaced import replaced
from fxquant.program import Program
from fxquant.targets import isa


@dataclass(frozen=True)
class Measured:
    """The units of a graph, what they cost, and the quantized graph as it was lowered to find out."""

    found: Placeable
    problem: Problem
    quantized: fx.GraphModule  # lowered


def measured(
    canonical: fx.GraphModule, target: str, leaves: tuple[Tensor, ...], avoid: Mapping[fx.Node, str], *, seconds: float
) -> Measured | None:
    """Times on the example, for about so many seconds. None where nothing is on codes. The engine is the caller's.

    Raises TooSlow where it would take much longer.
    """
    native = NativeGraph(canonical, target, dict(avoid))
    lowered = native.build()
    found = placeable(canonical, lowered.native, lowered.fused)
    if not any(unit.is_coded and not unit.is_requantize for unit in found.units.values()):
        return None
    plain = _Plain.of(canonical, target, avoid, found, "float32")
    narrow = _Plain.of(canonical, target, avoid, found, "bfloat16") if isa().bf16 else None
    graphs = [lowered.graph_module, *(one.lowered.graph_module for one in (plain, narrow) if one is not None)]
    coded, *floating = clocked(tuple(graphs), leaves, seconds=seconds)
    ops = tuple(
        Op(
            unit.name,
            _seconds(coded, _kernels(unit, native)) if unit.is_coded else math.inf,
            plain.seconds(floating[0], unit),
            narrow.seconds(floating[1], unit) if narrow is not None and _has_layer(unit) else math.inf,
        )
        for unit in found.units.values()
    )
    return Measured(found, Problem(ops, _values(found, native, coded, target)), lowered.graph_module)


def _values(found: Placeable, native: NativeGraph, coded: Clock, target: str) -> tuple[Value, ...]:
    """What the units hand on, with the cost of its conversions by its size."""
    crossing, values = native_crossing(target), []
    for value in found.values:
        elements = _size(coded, native.codes.get(value.source, native.moved.get(value.source)))
        costs = crossing.quantize.seconds(elements), crossing.dequantize.seconds(elements)
        values.append(Value(value.producer, value.readers, *costs))
    return tuple(values)


@dataclass(frozen=True)
class _Plain:
    """The graph with every unit in floating point, lowered."""

    native: NativeGraph
    lowered: Lowered
    twins: Mapping[str, fx.Node]

    @classmethod
    def of(
        cls, canonical: fx.GraphModule, target: str, avoid: Mapping[fx.Node, str], found: Placeable, floating: str
    ) -> _Plain:
        made = replaced(canonical, found, (), dict.fromkeys(found.coded, (floating, "to measure it")))
        names = {node.name: why for node, why in avoid.items()}
        kept = {node: names.get(node.name, BY_DECISION) for node in made.graph.nodes}
        kept = {node: why for node, why in kept.items() if is_kept_float(node) or node.name in names}
        native = NativeGraph(made, target, kept)
        return cls(native, native.build(), {node.name: node for node in made.graph.nodes})

    def seconds(self, clock: Clock, unit: Unit) -> float:
        """What a unit takes here; a quantize that is gone takes nothing."""
        twins = (self.twins.get(node.name) for node in unit.nodes)
        return _seconds(clock, (self.native.values.get(twin) for twin in twins if twin is not None))


def _has_layer(unit: Unit) -> bool:
    return any(node.op == "call_function" and node.target in PLACED_LAYERS for node in unit.nodes)


def _kernels(unit: Unit, native: NativeGraph) -> Iterable[fx.Node | None]:
    """The lowered nodes that compute a unit on codes: what gives its codes, and what gives a float value of it."""
    last = unit.nodes[-1]
    if unit.is_requantize:
        return [native.codes.get(last)]
    values = (native.moved.get(node, native.values.get(node)) for node in unit.nodes)
    return [*(native.codes.get(user) for user in last.users), *values]


def _seconds(clock: Clock, nodes: Iterable[fx.Node | None]) -> float:
    return sum(clock.seconds.get(node, 0.0) for node in dict.fromkeys(nodes) if node is not None)


def _size(clock: Clock, node: fx.Node | None) -> int:
    return 0 if node is None else clock.sizes.get(node, 0)


# The graphs to choose among -------------------------------------------------------------------------------------------

Avoided = Callable[[Program], dict[fx.Node, str]]


def contest(program: Program, leaves: tuple[Tensor, ...], avoided: Avoided, *, seconds: float) -> Contest | None:
    """All in int8, the cut, and all in float. None where nothing is on codes, or the cut promises no gain.

    `avoided` tells of a program which of its nodes stay float. Raises TooSlow. The engine is the caller's.
    """
    canonical, target = program.graph_module, program.engine
    costs = measured(canonical, target, leaves, avoided(program), seconds=seconds)
    graphs = {} if costs is None else candidates(canonical, costs)
    if costs is None or not graphs:
        return None
    lowered = {QUANTIZED: costs.quantized}
    for name, made in graphs.items():
        kept = avoided(replace(program, graph_module=made))
        lowered[name] = NativeGraph(made, target, kept).build().graph_module
    calls = {name: _call(made, leaves) for name, made in lowered.items()}
    return Contest({QUANTIZED: canonical, **graphs}, calls)


def candidates(canonical: fx.GraphModule, costs: Measured) -> dict[str, fx.GraphModule]:
    """The cut, and the whole in float where that is another graph. Nothing where the cut promises no gain."""
    problem, coded = costs.problem, costs.found.coded
    chosen = place(problem).int8
    if not is_gain(problem.seconds(coded), problem.seconds(chosen)):
        return {}
    made = {PLACED: _with(canonical, costs, chosen)}
    is_other = any(not costs.found.units[name].is_requantize for name in chosen)
    if is_other and problem.seconds(()) <= NEAR * problem.seconds(chosen):
        made[PLAIN] = _with(canonical, costs, frozenset())
    return made


def _with(canonical: fx.GraphModule, costs: Measured, int8: frozenset[str]) -> fx.GraphModule:
    ops = {op.name: op for op in costs.problem.ops}
    floating = {
        name: (ops[name].format, _why(costs.problem, int8, ops[name]))
        for name in costs.found.coded - int8
        if not costs.found.units[name].is_requantize
    }
    return replaced(canonical, costs.found, int8, floating)


def _why(problem: Problem, int8: frozenset[str], op: Op) -> str:
    """The op's own times, and what its conversions would take more if it alone were on codes."""
    more = problem.seconds(int8 | {op.name}) - problem.seconds(int8) - op.int8 + op.floating
    own = f"{in_words(op.floating)}; on codes {in_words(op.int8)}"
    return f"{own} and {in_words(more)} for conversions" if more > 0 else own


def _call(lowered: fx.GraphModule, leaves: tuple[Tensor, ...]) -> Callable[[], object]:
    return lambda: lowered(*leaves)
