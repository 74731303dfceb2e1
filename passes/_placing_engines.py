"""Placement for engines outside torch: which graphs to try, since they fuse as they like.

everything int8     the canonical graph as it is
placed              the cut of that graph, where the engine tells times of nodes (`engines/<name>_costs.py`)
everything float    no activation is rounded
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.engines.engine import EngineRefusal
from fxquant.engines.importing import builder, imported
from fxquant.graphs.placement import Problem, place
from fxquant.ledger import FLOAT
from fxquant.passes._engine_graph import engine_graph
from fxquant.passes._placeable import Placeable
from fxquant.passes._placing_clock import TooSlow, sizes_of
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED, WHOLE, Contest, in_words
from fxquant.passes._placing_costs import (
    Times,
    own_pairs,
    problem_with_conversions,
    problem_with_own_pairs,
    ran_on_codes,
    units,
)
from fxquant.passes._placing_race import NEAR, is_gain
from fxquant.passes._replaced import replaced
from fxquant.placed import FORMATS
from fxquant.program import Program

_END_IN_CODES = frozenset({"onnxruntime"})  # engines whose layers on codes give codes; others give what is wanted
_REPEATS = 5
_MOST_CALLS = 40  # of all graphs together, that measuring needs at the least


def contest(program: Program, leaves: tuple[Tensor, ...], *, seconds: float) -> Contest | None:
    """The graphs that this engine can run. None where it refuses the canonical one, or its times promise no gain.

    Raises TooSlow where the engine takes so long that they cannot be told apart in the time.
    """
    target, canonical = program.target, program.graph_module
    found = units(canonical)
    if not found.coded:
        return None
    run = _runner(target, leaves, may_run=not program.is_foreign)
    node_times = _own(target, "costs", "node_times")
    try:
        costs = None if node_times is None else _measured(target, canonical, found, leaves, node_times, seconds)
        if costs is not None and not costs.is_promising:
            return None
        made = run(canonical)
    except EngineRefusal:
        return None
    graphs, calls = {QUANTIZED: canonical}, {QUANTIZED: made.call}
    _check_speed(_taken(made.call), seconds)
    for name, graph in _candidates(canonical, found, costs, made.float_type):
        try:
            calls[name] = run(graph).call
        except EngineRefusal:  # it runs the graph with everything in int8, so that one of these may be left out
            continue
        graphs[name] = graph
    return Contest(graphs, calls)


@dataclass(frozen=True)
class _Costs:
    """What an engine said of its nodes, and the set of units that is cheapest on codes by that."""

    found: Placeable
    problem: Problem
    chosen: frozenset[str]

    @property
    def is_promising(self) -> bool:
        """Does the cut gain more than timing can tell?"""
        return is_gain(self.problem.seconds(self.found.coded), self.problem.seconds(self.chosen))

    @property
    def may_be_float(self) -> bool:
        """Is everything in float about as fast as the cut?"""
        return self.problem.seconds(()) <= NEAR * self.problem.seconds(self.chosen)


def _measured(
    target: str,
    canonical: fx.GraphModule,
    found: Placeable,
    leaves: tuple[Tensor, ...],
    node_times: Callable[..., Times],
    seconds: float,
) -> _Costs:
    options: dict[str, Any] = {"threads": torch.get_num_threads(), "repeats": _REPEATS}
    coded = node_times(canonical, leaves, **options)
    _check_speed(sum(coded.values()), seconds)
    floating = node_times(in_float(canonical, found, FLOAT, "to measure it"), leaves, **options)
    if target in _END_IN_CODES:
        found = ran_on_codes(found, coded)
        problem = problem_with_conversions(found, coded, floating, sizes_of(canonical, leaves))
    else:
        found = own_pairs(found)
        problem = problem_with_own_pairs(found, coded, floating)
    return _Costs(found, problem, place(problem).int8 & found.coded)


def _candidates(
    canonical: fx.GraphModule, found: Placeable, costs: _Costs | None, float_type: str
) -> Iterator[tuple[str, fx.GraphModule]]:
    """The cut, and the whole in float where that may be as good."""
    if costs is not None:
        yield PLACED, _with(canonical, costs, float_type)
    if costs is None or costs.may_be_float:
        yield PLAIN, in_float(canonical, found, float_type, WHOLE)


def in_float(canonical: fx.GraphModule, found: Placeable, float_type: str, why: str) -> fx.GraphModule:
    """A copy with nothing on codes."""
    marks = {name: (float_type, why) for name in found.coded if not found.units[name].is_requantize}
    return replaced(canonical, found, (), marks)


def _with(canonical: fx.GraphModule, costs: _Costs, float_type: str) -> fx.GraphModule:
    ops = {op.name: op for op in costs.problem.ops}
    why = {
        name: (float_type, f"{in_words(ops[name].float32)}; on codes {in_words(ops[name].int8)}")
        for name in costs.found.coded - costs.chosen
        if not costs.found.units[name].is_requantize
    }
    return replaced(canonical, costs.found, costs.chosen, why)


@dataclass(frozen=True)
class _Running:
    """A graph on its engine: a call of it, and what its float parts compute in."""

    call: Callable[[], object]
    float_type: str


def _runner(target: str, leaves: tuple[Tensor, ...], *, may_run: bool) -> Callable[[fx.GraphModule], _Running]:
    build = builder(target)

    def run(graph: fx.GraphModule) -> _Running:
        made = engine_graph(graph, leaves, build, target, may_run=may_run)
        forward = made.graph_module.forward
        return _Running(lambda: forward(*leaves), made.float_type if made.float_type in FORMATS else FLOAT)

    return run


def _taken(call: Callable[[], object]) -> float:
    call()
    started = perf_counter()
    call()
    return perf_counter() - started


def _check_speed(call_seconds: float, seconds: float) -> None:
    if call_seconds * _MOST_CALLS > 4 * seconds:
        raise TooSlow(call_seconds)


def _own(target: str, what: str, name: str) -> Any:
    """What an engine's own file says of this, where there is one."""
    module = f"fxquant.engines.{target}_{what}"
    return getattr(imported(module), name, None) if find_spec(module) is not None else None
