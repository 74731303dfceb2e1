"""Seconds of each node of a graph: the least of several runs, of the op alone, without the interpreter around it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from torch import Tensor, fx

from fxquant.sites import run_once

_MOST_ROUNDS = 30
CALLS = 4  # of each graph that a measurement needs at the least, this file's and the race's


class TooSlow(Exception):
    """One call takes so long that measuring would take more than its time."""

    def __init__(self, call_seconds: float) -> None:
        super().__init__(call_seconds)
        self.call_seconds = call_seconds


class Clock(fx.Interpreter):
    """Keeps the least time of each node, and how many numbers it gives."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seconds: dict[fx.Node, float] = {}
        self.sizes: dict[fx.Node, int] = {}
        self._taken = 0.0

    def run_node(self, node: fx.Node) -> Any:
        self._taken = 0.0
        value = super().run_node(node)
        self.seconds[node] = min(self._taken, self.seconds.get(node, self._taken))
        self.sizes[node] = value.numel() if isinstance(value, Tensor) else 0
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._clocked(super().call_function, target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._clocked(super().call_method, target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._clocked(super().call_module, target, args, kwargs)

    def _clocked(self, call: Callable[..., Any], target: Any, args: Any, kwargs: Any) -> Any:
        started = perf_counter()
        value = call(target, args, kwargs)
        self._taken = perf_counter() - started
        return value


def clocked(graphs: tuple[fx.GraphModule, ...], leaves: tuple[Tensor, ...], *, seconds: float) -> tuple[Clock, ...]:
    """Each graph's clock. They take turns for about `seconds`, and run twice at least: the first run warms up.

    Raises TooSlow where the runs that are needed at the least, these and the race's, would take twice as long; after
    one run of one graph where that alone takes so long.
    """
    clocks = tuple(Clock(graph) for graph in graphs)
    started = perf_counter()
    for clock in clocks:
        run_once(clock, leaves)
        _check_speed(clock, 1, seconds)
        clock.seconds.clear()
    rounds = 0
    while not rounds or (rounds < _MOST_ROUNDS and perf_counter() - started < seconds):
        for clock in clocks:
            run_once(clock, leaves)
            if not rounds:
                _check_speed(clock, CALLS * len(graphs), 2 * seconds)
        rounds += 1
    return clocks


def _check_speed(clock: Clock, calls: int, seconds: float) -> None:
    taken = sum(clock.seconds.values())
    if taken * calls > seconds:
        raise TooSlow(taken)


def sizes_of(graph: fx.GraphModule, leaves: tuple[Tensor, ...]) -> dict[fx.Node, int]:
    """How many numbers each node gives, by one run."""
    clock = Clock(graph)
    run_once(clock, leaves)
    return clock.sizes
