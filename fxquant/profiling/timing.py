"""Seconds of each node of two graphs that take turns, and whose work it is: sites of one kernel share one time.

Medians over rounds. A node's time includes some microseconds of the interpreter that runs it, in both graphs alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor, fx

from fxquant.origin import origins
from fxquant.profiling.running import run_afresh

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 31
_HOLDS = ("placeholder", "get_attr", "output")


class _Timed(fx.Interpreter):
    """Appends the seconds of each node to its list."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seconds: dict[fx.Node, list[float]] = {}

    def run_node(self, node: fx.Node) -> Any:
        started = time.perf_counter()
        value = super().run_node(node)
        self.seconds.setdefault(node, []).append(time.perf_counter() - started)
        return value

    def medians(self) -> dict[str, float]:
        """Node's name → seconds, the first run left out: it allocates and warms up."""
        return {node.name: median(taken[1:]) for node, taken in self.seconds.items() if node.op not in _HOLDS}


def node_seconds(
    graphs: Sequence[fx.GraphModule], leaves: tuple[Tensor, ...], *, seconds: float
) -> tuple[dict[str, float], ...]:
    """For each graph: node's name → median seconds. The graphs take turns, for about `seconds` in all."""
    timed = [_Timed(graph) for graph in graphs]
    until, rounds = time.perf_counter() + seconds, 0
    while rounds <= _LEAST_ROUNDS or (rounds <= _MOST_ROUNDS and time.perf_counter() < until):
        for one in timed if rounds % 2 == 0 else reversed(timed):
            run_afresh(one, leaves)
        rounds += 1
    return tuple(one.medians() for one in timed)


def call_seconds(calls: Sequence[Callable[[], object]], *, seconds: float) -> tuple[tuple[float, ...], ...]:
    """For each call: its seconds, round by round. They take turns, for about `seconds` in all; at least 5 rounds."""
    found: list[list[float]] = [[] for _ in calls]
    until, rounds = time.perf_counter() + seconds, 0
    while rounds <= _LEAST_ROUNDS or (rounds <= 10 * _MOST_ROUNDS and time.perf_counter() < until):
        order = range(len(calls)) if rounds % 2 == 0 else range(len(calls) - 1, -1, -1)
        for index in order:
            started = time.perf_counter()
            calls[index]()
            found[index].append(time.perf_counter() - started)
        rounds += 1
    return tuple(tuple(taken[1:]) for taken in found)


@dataclass(frozen=True, slots=True)
class Group:
    """Sites that the lowered graph computes together, in graph order, and what they cost."""

    sites: tuple[str, ...]
    nodes: tuple[str, ...]  # of the lowered graph
    float_seconds: float | None  # of the same sites in the float graph; None where nothing was timed
    seconds: float | None


def groups_of(
    lowered: fx.GraphModule,
    sites: Sequence[str],
    float_seconds: Mapping[str, float] | None,
    seconds: Mapping[str, float] | None,
) -> dict[str, Group]:
    """Site → its group. Folded and fused sites share one kernel; what was removed costs nothing any more."""
    leader = {site: site for site in sites}

    def first(site: str) -> str:
        while leader[site] != site:
            site = leader[site]
        return site

    computed: list[tuple[str, str]] = []
    for node in lowered.graph.nodes:
        own = [site for site in origins(node) if site in leader] if node.op not in _HOLDS else []
        for site in own[1:]:
            leader[first(site)] = first(own[0])
        computed += [(node.name, site) for site in own[:1]]
    members: dict[str, list[str]] = {}
    nodes: dict[str, list[str]] = {}
    for site in sites:
        members.setdefault(first(site), []).append(site)
    for name, site in computed:
        nodes.setdefault(first(site), []).append(name)
    made = {
        head: Group(
            tuple(found),
            tuple(nodes.get(head, ())),
            None if float_seconds is None else sum(float_seconds.get(site, 0.0) for site in found),
            None if seconds is None else sum(seconds.get(name, 0.0) for name in nodes.get(head, ())),
        )
        for head, found in members.items()
    }
    return {site: made[first(site)] for site in sites}
