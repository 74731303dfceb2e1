"""Which channels go: a share of each group, or those below one threshold of importance that meets a budget of MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, gcd, lcm, prod

import numpy as np
from numpy.typing import NDArray

from fxquant.graphs.channels import Alive, Channels, Group, Labels, kept

Scores = NDArray[np.float64]  # the importance of each unit of a group


@dataclass(frozen=True, slots=True)
class Limits:
    """What each layer keeps at least: a multiple of `round_to` channels, and `min_channels`."""

    round_to: int
    min_channels: int

    def units(self, group: Group, wanted: int) -> int:
        """How many units stay where `wanted` would do."""
        least = max(1, *(ceil(self.min_channels / size) for size in group.made.values()))
        step = self.step(group)
        return min(len(group), ceil(max(wanted, least) / step) * step)

    def step(self, group: Group) -> int:
        """How many units go or stay together, so that each layer has a multiple of `round_to`."""
        return lcm(*(self.round_to // gcd(self.round_to, size) for size in group.made.values()))


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-accumulates of the graph, and the axes that each node's scale with."""

    macs: Mapping[str, int]
    axes: Mapping[str, tuple[Labels, ...]]

    def left(self, alive: Alive) -> float:
        """MACs that remain."""
        return fsum(amount * _share(self.axes.get(name, ()), alive) for name, amount in self.macs.items())


def _share(axes: Sequence[Labels], alive: Alive) -> float:
    shares: list[float] = [kept(labels, alive) / labels.size for labels in axes]
    return prod(shares)


@dataclass(frozen=True, slots=True)
class Choice:
    """The groups of a graph and the importance of their units. A choice is how many units of each group stay."""

    channels: Channels
    groups: Sequence[Group]
    scores: Sequence[Scores]
    limits: Limits

    def alive(self, staying: Sequence[int]) -> Alive:
        """The most important units of each group stay; of equals the first."""
        alive = self.channels.all_alive()
        for group, scores, count in zip(self.groups, self.scores, staying, strict=True):
            for unit in _ranked(scores)[count:] if not group.frozen else ():
                alive[list(group.units[unit])] = False
        return alive

    def by_ratio(self, share: float) -> Alive:
        """Each group loses `share` of its channels, rounded down."""
        wanted = [len(group) - floor(share * len(group) + 1e-9) for group in self.groups]  # 0.29 · 100 is 28.999...
        return self.alive([self.limits.units(*pair) for pair in zip(self.groups, wanted, strict=True)])

    def by_macs(self, target: float, work: Work) -> Alive:
        """At most `target` MACs remain, or as few as there can be: units go that are less important than a threshold.

        The lowest threshold that does is found by bisection. It takes a whole step of a group at a time, so what is
        left of the budget goes to the steps that are the most important of those that fit.
        """
        free = [scores for group, scores in zip(self.groups, self.scores, strict=True) if not group.frozen]
        thresholds = np.append(np.unique(np.concatenate([*free, [0.0]])), np.inf).tolist()
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high) // 2
            fits = work.left(self.alive(self._from(thresholds[middle]))) <= target
            low, high = (low, middle) if fits else (middle + 1, high)
        return self.alive(self._regrown(self._from(thresholds[low]), target, work))

    def _from(self, threshold: float) -> list[int]:
        counts = (int((scores >= threshold).sum()) for scores in self.scores)
        return [self.limits.units(*pair) for pair in zip(self.groups, counts, strict=True)]

    def _regrown(self, staying: list[int], target: float, work: Work) -> list[int]:
        """With a step more in every group where that fits, the most important first."""
        while True:
            for index in sorted(self._growing(staying), key=lambda index: -self._next(index, staying[index])):
                more = list(staying)
                more[index] = min(len(self.groups[index]), staying[index] + self.limits.step(self.groups[index]))
                if work.left(self.alive(more)) <= target:
                    staying = more
                    break
            else:
                return staying

    def _growing(self, staying: Sequence[int]) -> list[int]:
        counted = enumerate(zip(self.groups, staying, strict=True))
        return [index for index, (group, count) in counted if count < len(group) and not group.frozen]

    def _next(self, index: int, count: int) -> float:
        """The importance of the units that a step more would keep."""
        scores, step = self.scores[index], self.limits.step(self.groups[index])
        return float(scores[_ranked(scores)[count : count + step]].mean())


def _ranked(scores: Scores) -> list[int]:
    """Units by importance, the most important first; of equals the first."""
    ranked: list[int] = np.lexsort((np.arange(len(scores)), -scores)).tolist()
    return ranked
