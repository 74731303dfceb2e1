"""Placement for engines outside torch: which graphs to try, since they fuse as they like.

    everything int8     the canonical graph as it is
    placed by rule      where the engine has rules of its own on where pairs belong (`engines/<name>_placement.py`)
    placed              the cut of the ruled graph, where the engine tells times of nodes (`engines/<name>_costs.py`)
    everything float    no activation is rounded

An engine's layer gives floats or codes at no cost, as its quantize is part of its kernel; what a reader on codes pays
is the quantize before it, once for all readers, where the engine runs it by itself. So each value's pair is a producer
of its own in the cut: always in float, and free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.engines.engine import EngineRefusal
from fxquant.graphs.placement import Op, Problem, Value, place
from fxquant.passes._engine_graph import engine_graph
from fxquant.passes._placeable import Placeable, placeable, reads_shape
from fxquant.passes._placing_clock import TooSlow
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED, RULED, Contest, in_words
from fxquant.passes._placing_race import is_gain
from fxquant.passes._replaced import replaced
from fxquant.program import Program

_REPEATS = 10
_MOST_CALLS = 40  # of all graphs together, that measuring needs at the least
_COMPUTES = ("call_function", "call_method", "call_module")
Times = Mapping[str, float]
TimeNodes = Callable[..., Times]  # (canonical, leaves, *, threads, repeats) → seconds by canonical node


def contest(program: Program, leaves: tuple[Tensor, ...], *, seconds: float) -> Contest | None:
    """The graphs that this engine can run. None where it refuses the canonical one, which its lowering will say.

    Raises TooSlow where the engine takes so long that they cannot be told apart in the time.
    """
    target, canonical = program.target, program.graph_module
    run = _runner(target, leaves, may_run=not program.is_foreign)
    try:
        calls = {QUANTIZED: run(canonical)}
    except EngineRefusal:
        return None
    _check_speed(calls[QUANTIZED], seconds)
    found = units(canonical)
    graphs = {QUANTIZED: canonical}
    ruled = _own(target, "placement", "placed")
    if ruled is not None:
        graphs[RULED] = ruled(canonical)
    graphs[PLAIN] = in_float(canonical, found, found.coded, "the whole model is faster in float")
    times = _own(target, "costs", "node_times")
    if times is not None:
        cut = _cut(graphs.get(RULED, canonical), leaves, times)
        graphs |= {} if cut is None else {PLACED: cut}
    for name, graph in graphs.items():
        if name not in calls:
            try:
                calls[name] = run(graph)
            except EngineRefusal:  # it runs the graph with everything in int8, so that one of these may be left out
                continue
    graphs = {name: graph for name, graph in graphs.items() if name in calls}
    return Contest(graphs, calls, len(found.coded))


def units(canonical: fx.GraphModule) -> Placeable:
    """Every op on codes is a unit of its own: which of them share a kernel is the engine's affair."""
    computing = {node: "" for node in canonical.graph.nodes if node.op in _COMPUTES}
    return placeable(canonical, computing, {})


def in_float(canonical: fx.GraphModule, found: Placeable, names: frozenset[str], why: str) -> fx.GraphModule:
    """A copy with these units in float, and no other."""
    marks = {name: ("float32", why) for name in names if not found.units[name].is_requantize}
    return replaced(canonical, found, found.coded - names, marks)


def _cut(graph: fx.GraphModule, leaves: tuple[Tensor, ...], node_times: TimeNodes) -> fx.GraphModule | None:
    """The graph with its cheapest set of units on codes; None where that is all, or the engine does not tell."""
    found = own_pairs(units(graph))
    plain = in_float(graph, found, found.coded, "to measure it")
    options: dict[str, Any] = {"threads": torch.get_num_threads(), "repeats": _REPEATS}
    try:
        coded, floating = node_times(graph, leaves, **options), node_times(plain, leaves, **options)
    except EngineRefusal:
        return None
    problem = problem_of(found, coded, floating)
    chosen = place(problem).int8
    if not is_gain(problem.seconds(found.coded), problem.seconds(chosen)):
        return None
    ops = {op.name: op for op in problem.ops}
    why = {
        name: ("float32", f"{in_words(ops[name].float32)}; on codes {in_words(ops[name].int8)}")
        for name in found.coded - chosen
    }
    return replaced(graph, found, chosen, why)


def own_pairs(found: Placeable) -> Placeable:
    """Each value is given by its pair: the engine quantizes what a reader on codes needs, whoever computed it."""
    values = tuple(replace(value, producer=f"{value.quantize.name} pair") for value in found.values)
    return replace(found, values=values)


def problem_of(found: Placeable, coded: Times, floating: Times) -> Problem:
    """Times of nodes as a placement problem. What the engine fused into another kernel takes nothing by itself."""
    ops = [
        Op(
            name,
            sum(coded.get(node.name, 0.0) for node in unit.nodes) if unit.is_coded else math.inf,
            sum(floating.get(node.name, 0.0) for node in unit.nodes),
        )
        for name, unit in found.units.items()
    ]
    ops += [Op(value.producer, math.inf, 0.0) for value in found.values]
    values = []
    for value in found.values:
        pair = (value.quantize, *(dequantize for dequantize, _, _ in value.reads))
        seconds = sum(coded.get(node.name, 0.0) for node in dict.fromkeys(pair))
        readers = dict.fromkeys(name for _, reader, name in value.reads if not reads_shape(reader))
        values.append(Value(value.producer, tuple(readers), seconds, 0.0))
    return Problem(tuple(ops), tuple(values))


def _runner(
    target: str, leaves: tuple[Tensor, ...], *, may_run: bool
) -> Callable[[fx.GraphModule], Callable[[], object]]:
    build = import_module(f"fxquant.engines.{target}").build

    def run(graph: fx.GraphModule) -> Callable[[], object]:
        forward = engine_graph(graph, leaves, build, target, may_run=may_run).graph_module.forward
        return lambda: forward(*leaves)

    return run


def _check_speed(call: Callable[[], object], seconds: float) -> None:
    call()
    started = perf_counter()
    call()
    taken = perf_counter() - started
    if taken * _MOST_CALLS > 4 * seconds:
        raise TooSlow(taken)


def _own(target: str, what: str, name: str) -> Callable[..., Any] | None:
    """A function of an engine's own file, where it has one."""
    module = f"fxquant.engines.{target}_{what}"
    return getattr(import_module(module), name) if find_spec(module) is not None else None
