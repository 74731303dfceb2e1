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
        sizes = list(group.made.values())  # output channels a unit, layer by layer
        step = lcm(*(self.round_to // gcd(self.round_to, size) for size in sizes))
        least = max(1, *(ceil(self.min_channels / size) for size in sizes))
        return min(len(group), ceil(max(wanted, least) / step) * step)


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


def by_ratio(
    channels: Channels, groups: Sequence[Group], scores: Sequence[Scores], share: float, limits: Limits
) -> Alive:
    """Each group loses `share` of its channels, rounded down, the least important first."""
    alive = channels.all_alive()
    for group, found in zip(groups, scores, strict=True):
        if not group.frozen:
            _drop(alive, group, found, limits.units(group, len(group) - floor(share * len(group) + 1e-9)))
    return alive


def below(channels: Channels, groups: Sequence[Group], scores: Sequence[Scores], least: float, limits: Limits) -> Alive:
    """Each group loses the units whose importance is below `least`."""
    alive = channels.all_alive()
    for group, found in zip(groups, scores, strict=True):
        if not group.frozen:
            _drop(alive, group, found, limits.units(group, int((found >= least).sum())))
    return alive


def by_macs(
    channels: Channels, groups: Sequence[Group], scores: Sequence[Scores], target: float, work: Work, limits: Limits
) -> Alive:
    """The lowest threshold of importance at which at most `target` MACs remain, or as few as there can be."""
    free = [found for group, found in zip(groups, scores, strict=True) if not group.frozen]
    steps = np.unique(np.concatenate([*free, [0.0]]))
    steps = np.append(steps, np.inf)
    low, high = 0, len(steps) - 1  # fewer channels stay the higher the threshold: a binary search
    while low < high:
        middle = (low + high) // 2
        if work.left(below(channels, groups, scores, float(steps[middle]), limits)) <= target:
            high = middle
        else:
            low = middle + 1
    return below(channels, groups, scores, float(steps[low]), limits)


def _drop(alive: Alive, group: Group, scores: Scores, staying: int) -> None:
    """The most important units stay; of equals the first."""
    order = np.lexsort((np.arange(len(scores)), -scores))
    for unit in order[staying:].tolist():
        alive[list(group.units[unit])] = False
