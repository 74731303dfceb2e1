"""Placement for engines outside torch: which graphs to try, since they fuse as they like.

everything int8     the canonical graph as it is
placed              the cut of that graph, where the engine tells times of nodes (`engines/<name>_costs.py`)
everything float    no activation is rounded
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.engines.engine import EngineRefusal
from fxquant.graphs.placement import place
from fxquant.passes._engine_graph import engine_graph
from fxquant.passes._placeable import Placeable
from fxquant.passes._placing_clock import TooSlow, sizes_of
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED, Contest, in_words
from fxquant.passes._placing_costs import (
    own_pairs,
    problem_with_conversions,
    problem_with_own_pairs,
    ran_on_codes,
    units,
)
from fxquant.passes._placing_race import is_gain
from fxquant.passes._replaced import replaced
from fxquant.program import Program

_REPEATS = 10
_MOST_CALLS = 40  # of all graphs together, that measuring needs at the least


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
    graphs[PLAIN] = in_float(canonical, found, found.coded, "the whole model is faster in float")
    cut = _cut(target, canonical, leaves)
    graphs |= {} if cut is None else {PLACED: cut}
    for name, graph in graphs.items():
        if name not in calls:
            try:
                calls[name] = run(graph)
            except EngineRefusal:  # it runs the graph with everything in int8, so that one of these may be left out
                continue
    graphs = {name: graph for name, graph in graphs.items() if name in calls}
    return Contest(graphs, calls, len(found.coded))


def in_float(canonical: fx.GraphModule, found: Placeable, names: frozenset[str], why: str) -> fx.GraphModule:
    """A copy with these units in float, and no other."""
    marks = {name: ("float32", why) for name in names if not found.units[name].is_requantize}
    return replaced(canonical, found, found.coded - names, marks)


def _cut(target: str, graph: fx.GraphModule, leaves: tuple[Tensor, ...]) -> fx.GraphModule | None:
    """The graph with its cheapest set of units on codes; None where that is all, or the engine does not tell."""
    node_times = _own(target, "costs", "node_times")
    if node_times is None:
        return None
    found = units(graph)
    plain = in_float(graph, found, found.coded, "to measure it")
    options: dict[str, Any] = {"threads": torch.get_num_threads(), "repeats": _REPEATS}
    try:
        coded, floating = node_times(graph, leaves, **options), node_times(plain, leaves, **options)
    except EngineRefusal:
        return None
    if _own(target, "costs", "GIVES_FLOATS"):
        found = own_pairs(found)
        problem = problem_with_own_pairs(found, coded, floating)
    else:
        found = ran_on_codes(found, coded)
        problem = problem_with_conversions(found, coded, floating, sizes_of(graph, leaves))
    chosen = place(problem).int8 & found.coded
    if not is_gain(problem.seconds(found.coded), problem.seconds(chosen)):
        return None
    ops = {op.name: op for op in problem.ops}
    why = {
        name: ("float32", f"{in_words(ops[name].float32)}; on codes {in_words(ops[name].int8)}")
        for name in found.coded - chosen
        if not found.units[name].is_requantize
    }
    return replaced(graph, found, chosen, why)


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


def _own(target: str, what: str, name: str) -> Any:
    """What an engine's own file says of this, where there is one."""
    module = f"fxquant.engines.{target}_{what}"
    return getattr(import_module(module), name, None) if find_spec(module) is not None else None
