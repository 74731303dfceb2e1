"""Which rank each layer gets: by number, by the energy to keep, or by a budget that all layers share.

The energy of a matrix is Σσ_j², what a rank r keeps of it is Σ_{j≤r}σ_j². With a budget B, ranks are chosen that lose

    min Σ_i lost_i(r_i)    with    Σ_i cost_i(r_i) ≤ B        lost_i: share of layer i's own energy

Greedy: of all layers the one goes down that loses least energy for each unit of cost that it saves. A step leads to
the next point of the lower convex hull of (cost, lost): a whole layer must first fall below the rank at which a pair
costs less than it does, and is weighed by that step as a whole. After each step no other choice of that cost loses less
(Everett 1963, generalized Lagrange multipliers). The last step goes only as far down as the budget asks.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Choices:
    """What one layer can cost: `whole` as it is, `per_rank` for each rank of a pair."""

    energies: tuple[float, ...]  # shares σ_j² / Σσ², largest first; they sum to 1
    per_rank: float
    whole: float
    most: int  # the highest rank at which the pair takes fewer MACs than the layer; 0: there is none

    @property
    def maximum(self) -> int:
        """The rank of the whole matrix, as its shape has it."""
        return len(self.energies)

    def kept(self, rank: int) -> float:
        """Share of the energy that a rank keeps."""
        return min(1.0, math.fsum(self.energies[:rank]))

    def cost(self, rank: int | None) -> float:
        """Of a pair of this rank; None is the layer as it is."""
        return self.whole if rank is None else self.per_rank * rank


def shares(values: Tensor) -> tuple[float, ...]:
    """Singular values → the share of the energy that each has."""
    squares = values.double().square()
    return tuple((squares / squares.sum()).tolist())


def rank_for_energy(choices: Choices, energy: float) -> int:
    """The lowest rank that keeps this share. Sums of shares are trusted to a part in 10¹²."""
    kept = 0.0
    for rank, share in enumerate(choices.energies, start=1):
        kept += share
        if kept >= energy * (1 - 1e-12):
            return rank
    return choices.maximum


def ranks_for_budget(layers: Sequence[Choices], budget: float) -> list[int | None] | None:
    """A rank for each layer (None: as it is), their costs at most `budget` in sum. None: rank 1 everywhere is above."""
    chosen: list[int | None] = [None] * len(layers)
    spent = math.fsum(layer.whole for layer in layers)
    waiting: list[tuple[float, int, int]] = []
    for index, layer in enumerate(layers):
        _offer(waiting, index, layer, None)
    while spent > budget * (1 + 1e-12):
        if not waiting:
            return None
        _, index, rank = heapq.heappop(waiting)
        if chosen[index] is None:
            rank = _highest(layers[index], rank, budget - spent + layers[index].whole)
        spent += layers[index].cost(rank) - layers[index].cost(chosen[index])
        chosen[index] = rank
        _offer(waiting, index, layers[index], rank)
    return chosen


def _highest(layer: Choices, rank: int, left: float) -> int:
    """The highest rank from `rank` on that costs no more than what is left; `rank` where even that costs more."""
    return next((higher for higher in range(layer.most, rank, -1) if layer.cost(higher) <= left), rank)


def _offer(waiting: list[tuple[float, int, int]], index: int, layer: Choices, rank: int | None) -> None:
    """Put the layer's next step into the heap: (energy lost per cost saved, layer, rank after it)."""
    step = _next_on_hull(layer, rank)
    if step is not None:
        heapq.heappush(waiting, (step[0], index, step[1]))


def _next_on_hull(layer: Choices, rank: int | None) -> tuple[float, int] | None:
    """(slope, rank) of the next point down; None below rank 1, or where no pair saves anything."""
    if rank is not None:  # among pairs the curve is convex, since the shares fall with the rank
        return None if rank == 1 else (layer.energies[rank - 1] / layer.per_rank, rank - 1)
    best: tuple[float, int] | None = None
    lost = math.fsum(layer.energies[layer.most :])
    for lower in range(layer.most, 0, -1):
        saved = layer.whole - layer.cost(lower)
        if saved > 0 and (best is None or lost / saved <= best[0]):
            best = (lost / saved, lower)
        lost += layer.energies[lower - 1]
    return best
