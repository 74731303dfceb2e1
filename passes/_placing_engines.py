"""Placement for engines outside torch: which graphs to try, since they fuse as they like.

everything int8     the canonical graph as it is
placed              the cut of that graph, where the engine tells times of nodes (`engines/<name>_costs.py`)
everything float    no activation is rounded
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.engines.engine import EngineRefusal
from fxquant.graphs.placement import place
from fxquant.ledger import FLOAT
from fxquant.passes._engine_graph import engine_graph
from fxquant.passes._placeable import Placeable
from fxquant.passes._placing_clock import TooSlow, sizes_of
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED, WHOLE, Contest, in_words
from fxquant.passes._placing_costs import (
    own_pairs,
    problem_with_conversions,
    problem_with_own_pairs,
    ran_on_codes,
    units,
)
from fxquant.passes._placing_race import is_gain
from fxquant.passes._replaced import replaced
from fxquant.placed import FORMATS
from fxquant.program import Program

_END_IN_CODES = frozenset({"onnxruntime"})  # engines whose layers on codes give codes; others give what is wanted
_REPEATS = 10
_MOST_CALLS = 40  # of all graphs together, that measuring needs at the least


def contest(program: Program, leaves: tuple[Tensor, ...], *, seconds: float) -> Contest | None:
    """The graphs that this engine can run. None where it refuses the canonical one, which its lowering will say.

    Raises TooSlow where the engine takes so long that they cannot be told apart in the time.
    """
    target, canonical = program.target, program.graph_module
    run = _runner(target, leaves, may_run=not program.is_foreign)
    try:
        made = run(canonical)
    except EngineRefusal:
        return None
    calls = {QUANTIZED: made.call}
    _check_speed(made.call, seconds)
    found = units(canonical)
    if not found.coded:
        return None
    graphs = {PLAIN: in_float(canonical, found, made.float_type, WHOLE)}
    cut = _cut(target, canonical, leaves, made.float_type)
    if cut is not None:
        graphs[PLACED] = cut
    for name, graph in list(graphs.items()):
        try:
            calls[name] = run(graph).call
        except EngineRefusal:  # it runs the graph with everything in int8, so that one of these may be left out
            del graphs[name]
    return Contest({QUANTIZED: canonical, **graphs}, calls, len(found.coded))


def in_float(canonical: fx.GraphModule, found: Placeable, float_type: str, why: str) -> fx.GraphModule:
    """A copy with nothing on codes."""
    marks = {name: (float_type, why) for name in found.coded if not found.units[name].is_requantize}
    return replaced(canonical, found, (), marks)


def _cut(target: str, graph: fx.GraphModule, leaves: tuple[Tensor, ...], float_type: str) -> fx.GraphModule | None:
    """The graph with its cheapest set of units on codes; None where that is all, or the engine does not tell."""
    node_times = _own(target, "costs", "node_times")
    if node_times is None:
        return None
    found = units(graph)
    plain = in_float(graph, found, float_type, "to measure it")
    options: dict[str, Any] = {"threads": torch.get_num_threads(), "repeats": _REPEATS}
    try:
        coded, floating = node_times(graph, leaves, **options), node_times(plain, leaves, **options)
    except EngineRefusal:
        return None
    if target in _END_IN_CODES:
        found = ran_on_codes(found, coded)
        problem = problem_with_conversions(found, coded, floating, sizes_of(graph, leaves))
    else:
        found = own_pairs(found)
        problem = problem_with_own_pairs(found, coded, floating)
    chosen = place(problem).int8 & found.coded
    if not is_gain(problem.seconds(found.coded), problem.seconds(chosen)):
        return None
    ops = {op.name: op for op in problem.ops}
    why = {
        name: (float_type, f"{in_words(ops[name].float32)}; on codes {in_words(ops[name].int8)}")
        for name in found.coded - chosen
        if not found.units[name].is_requantize
    }
    return replaced(graph, found, chosen, why)


@dataclass(frozen=True)
class _Running:
    """A graph on its engine: a call of it, and what its float parts compute in."""

    call: Callable[[], object]
    float_type: str


def _runner(target: str, leaves: tuple[Tensor, ...], *, may_run: bool) -> Callable[[fx.GraphModule], _Running]:
    build = import_module(f"fxquant.engines.{target}").build

    def run(graph: fx.GraphModule) -> _Running:
        made = engine_graph(graph, leaves, build, target, may_run=may_run)
        forward = made.graph_module.forward
        types = [getattr(engine, "float_type", "") for engine in made.engines]
        float_type = next((kind for kind in types if kind in FORMATS), FLOAT)
        return _Running(lambda: forward(*leaves), float_type)

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
