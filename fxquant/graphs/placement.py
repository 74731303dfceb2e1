"""Which ops should compute on int8 codes, so that a graph takes the least time: an exact minimum cut.

Each op i has a time on codes and one in float (the better of float32 and bfloat16). Each value v, made by op p(v) and
read by the ops R(v), has the time of a quantize and of a dequantize. An assignment x (x_i = 1: on codes) costs

    E(x) = Σ_i  int8_i x_i + float_i (1 - x_i)
         + Σ_v  quantize_v (1 - x_p) [some r in R(v) has x_r = 1]  +  dequantize_v x_p [some r in R(v) has x_r = 0]

that is: a float value is quantized once, however many kernels read its codes, and codes are dequantized once.

The network. Source side S: float. Sink side T: on codes.

    source → i   int8_i             cut when i is on codes          i → sink   float_i          cut when i is in float
    p → a_v      quantize_v         a_v → r    infinite, r in R(v)
    b_v → p      dequantize_v       r → b_v    infinite, r in R(v)

The weight of the least cut with x on its sides is E(x). For the arcs at ops that is plain: one of the two is cut. Take
v's arcs at a_v. Where some reader is on codes, a_v must be in T, for a_v → r must not be cut; then p → a_v is cut just
when p is in S: quantize_v (1 - x_p). Where none is, a_v in S cuts neither arc. So the least that a_v can cost is the
third term. Likewise b_v: a reader in S draws b_v into S, and b_v → p is cut just when p is in T; with no reader in S it
stays in T and cuts nothing. No auxiliary node touches another, so each takes its least by itself, and the minimum cut
is the minimum of E. (E is submodular: with two ops alone its pair terms are of the form c x (1 - y), c ≥ 0; with more
readers it is the minimum over the auxiliary variables of such terms. See Kolmogorov and Zabih, "What energy functions
can be minimized via graph cuts?", 2004.)

Times are counted in whole picoseconds, so the flow is exact. Of assignments that take the same time the one with the
fewest boundaries is chosen, and of those the one with the fewest ops on codes, which is the more accurate; the three
are one number, time first. There is just one such assignment: the union of two minimum cuts is one, so two with equally
many ops on codes are the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx

PICO = 1e12
_SOURCE, _SINK = ("float",), ("codes",)


@dataclass(frozen=True, slots=True)
class Op:
    """Something that is computed: seconds on codes and in floating point. Infinity: it cannot be done that way."""

    name: str
    int8: float
    float32: float
    bfloat16: float = math.inf

    @property
    def floating(self) -> float:
        """Seconds in the better of the two floating-point formats."""
        return min(self.float32, self.bfloat16)

    @property
    def format(self) -> str:
        """Which of the two that is; float32 where they are alike."""
        return "bfloat16" if self.bfloat16 < self.float32 else "float32"


@dataclass(frozen=True, slots=True)
class Value:
    """What an op gives and others read on codes or in float: seconds to quantize it once and to dequantize it once.

    A quantize that the producer's float kernel ends in is free, and so is a dequantize that an int8 kernel ends in.
    """

    producer: str
    readers: tuple[str, ...]
    quantize: float
    dequantize: float


@dataclass(frozen=True)
class Problem:
    """Ops by unique names, and the values between them."""

    ops: tuple[Op, ...]
    values: tuple[Value, ...]

    def seconds(self, int8: Collection[str]) -> float:
        """What a call takes with just these ops on codes: E(x) of this file's algebra."""
        own = sum(op.int8 if op.name in int8 else op.floating for op in self.ops)
        return own + sum(paid for value in self.values for paid in _paid(value, int8))

    def crossings(self, int8: Collection[str]) -> int:
        """How many conversions these ops on codes need."""
        return sum(1 for value in self.values for _ in _paid(value, int8))


@dataclass(frozen=True, slots=True)
class Placement:
    """An assignment: the ops on codes, what a call is expected to take, and how many conversions it has."""

    int8: frozenset[str]
    seconds: float
    crossings: int


def place(problem: Problem) -> Placement:
    """The assignment that takes the least time. See this file's algebra.

    Raises ValueError for an op that can be done in no way, an unknown name, a time that is negative or no number, or
    where an infinite conversion leaves no assignment.
    """
    _check(problem)
    try:
        _, (_, coded) = nx.minimum_cut(_network(problem), _SOURCE, _SINK)
    except nx.NetworkXUnbounded as error:
        raise ValueError("no assignment: a conversion that cannot be done lies between ops that need it") from error
    int8 = frozenset(op.name for op in problem.ops if op.name in coded)
    return Placement(int8, problem.seconds(int8), problem.crossings(int8))


def _paid(value: Value, int8: Collection[str]) -> Iterator[float]:
    """The conversion that this value needs, if any."""
    if value.producer in int8:
        if any(reader not in int8 for reader in value.readers):
            yield value.dequantize
    elif any(reader in int8 for reader in value.readers):
        yield value.quantize


def _network(problem: Problem) -> nx.DiGraph[Any]:
    """Names are nodes; sides and auxiliary nodes are tuples, which no name is. No capacity: infinite."""
    graph: nx.DiGraph[Any] = nx.DiGraph()
    crossing = len(problem.ops) + 1  # one boundary weighs more than all ops on codes
    scale = crossing * (2 * len(problem.values) + 1)  # one picosecond weighs more than all of both
    graph.add_nodes_from((_SOURCE, _SINK))
    for op in problem.ops:
        _arc(graph, _SOURCE, op.name, op.int8, scale, 1)
        _arc(graph, op.name, _SINK, op.floating, scale, 0)
    for index, value in enumerate(problem.values):
        quantized, widened = ("quantized", index), ("widened", index)
        _arc(graph, value.producer, quantized, value.quantize, scale, crossing)
        _arc(graph, widened, value.producer, value.dequantize, scale, crossing)
        for reader in value.readers:
            graph.add_edge(quantized, reader)
            graph.add_edge(reader, widened)
    return graph


def _arc(graph: nx.DiGraph[Any], tail: Any, head: Any, seconds: float, scale: int, tie: int) -> None:
    if math.isinf(seconds):
        graph.add_edge(tail, head)
    else:
        graph.add_edge(tail, head, capacity=round(seconds * PICO) * scale + tie)


def _check(problem: Problem) -> None:
    names = {op.name for op in problem.ops}
    if len(names) < len(problem.ops):
        raise ValueError("two ops have the same name")
    for op in problem.ops:
        if min(op.int8, op.floating) == math.inf:
            raise ValueError(f"op '{op.name}' can be done neither on codes nor in float")
        _check_times(op.name, (op.int8, op.float32, op.bfloat16))
    for value in problem.values:
        unknown = [name for name in (value.producer, *value.readers) if name not in names]
        if unknown:
            raise ValueError(f"a value names '{unknown[0]}', which is no op")
        _check_times(value.producer, (value.quantize, value.dequantize))


def _check_times(name: str, times: tuple[float, ...]) -> None:
    for seconds in times:
        if math.isnan(seconds) or seconds < 0:
            raise ValueError(f"a time of '{name}' is {seconds}: expected seconds, 0 or more")
