"""What each group of layers loses by itself, in one number that adds up: noise over signal, as powers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from fxquant.graphs.kernels import is_shared
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.noise import range_sqnr_db
from fxquant.profiling.timing import Group
from fxquant.profiling.weights import WeightProfile

LONG_TAIL = 4.0  # range over what 99.8 % of the values take: two bits
WIDE_SPREAD = 8.0  # largest over median channel peak: three bits


@dataclass(frozen=True)
class Losses:
    """Of one profile."""

    evidence: Evidence

    @cached_property
    def noises(self) -> dict[Group, float]:
        """Group → its own noise over its own signal, for those that were measured.

        The largest of what was measured, of what a few huge values hide (see `hidden_db`), and of what the median
        channel of its weight loses, which a huge channel hides as well.
        """
        found: dict[Group, float] = {}
        for group in self.evidence.distinct_groups:
            site = self.valued(group)
            if site in self.evidence.measures:
                limits = self.evidence.limits(site) if self.has_own_range(group) else None
                hidden = None if limits is None else self.hidden_db(site, limits)
                own = self.evidence.measures[site].own_sqnr_db
                told = (own, hidden, *(weight.median_sqnr_db for weight in self._weights(group)))
                found[group] = max(ratio(one) for one in told if one is not None)
        return found

    def _weights(self, group: Group) -> list[WeightProfile]:
        return [weight for site in group.sites for weight in self.evidence.weights.get(site, ())]

    def valued(self, group: Group) -> str:
        """The site whose value the group gives."""
        return next((site for site in reversed(group.sites) if site in self.evidence.measures), group.sites[-1])

    def hidden_db(self, site: str, limits: tuple[float, float], bits: int = 8) -> float | None:
        """Expected SQNR, in this range, of what a few huge values or channels hide; None where there are none of these.

        They are most of a tensor's power, so that the SQNR of the whole looks fine while all else is lost. What is left
        is told by the values between the 0.1th and the 99.9th percentile, and by the median channel.
        """
        seen, values = self.evidence.seen.get(site), self.evidence.values.get(site)
        if seen is None or values is None:
            return None
        found: list[float] = []
        if seen.tail >= LONG_TAIL:
            found.append(range_sqnr_db(values.sketch, *limits, bits, of_bulk=True))
        if (seen.channel_spread or 1.0) >= WIDE_SPREAD and values.median_power:
            step = (limits[1] - limits[0]) / (2**bits - 1)
            found.append(max(0.0, 10 * math.log10(12 * values.median_power / step**2)))
        return min(found, default=None)

    def range_db(self, site: str, limits: tuple[float, float], bits: int = 8) -> float | None:
        """Expected SQNR of a site's values with `2^bits` codes for this range; of what huge ones hide, where they do.

        The range that codes hold has 8 bits: with fewer asked for, the scale alone is larger.
        """
        values = self.evidence.values.get(site)
        if values is None or not values.moments.count:
            return None
        hidden = self.hidden_db(site, limits, bits)
        return range_sqnr_db(values.sketch, *limits, bits) if hidden is None else hidden

    def has_own_range(self, group: Group) -> bool:
        """Is its result quantized by a range of its own, and not by that of its input (reshape, pooling, mean)?"""
        graph = self.evidence.graph
        has_limits = any(self.evidence.limits(site) is not None for site in group.sites)
        return has_limits and any(not is_shared(graph[self.evidence.nodes[site].name]) for site in group.sites)

    @cached_property
    def usual_db(self) -> float:
        """The median own SQNR of the groups that lose something of their own; NaN where there is none."""
        own = [
            decibels(noise)
            for group, noise in self.noises.items()
            if noise > 0 and (self.has_own_range(group) or self._weights(group))
        ]
        return median(own) if own else math.nan

    def gain_db(self, changes: Mapping[Group, float]) -> float:
        """Expected gain of output SQNR in dB where these groups' noise ratios become those.

            gain = 10 log10(Σ r / Σ r')

        as though each layer passed on relative noise as it is, and the noises of layers were independent.
        """
        before = sum(self.noises.values())
        after = sum(min(changes.get(group, noise), noise) for group, noise in self.noises.items())
        if before <= 0:
            return 0.0
        return 10 * math.log10(before / max(after, before * 1e-6))


def ratio(sqnr_db: float) -> float:
    """Noise over signal, as powers; at most 1: that much is lost with all of the signal."""
    return 1.0 if sqnr_db <= 0 else 10 ** (-sqnr_db / 10)


def decibels(noise: float) -> float:
    """The SQNR of a noise ratio above zero."""
    return -10 * math.log10(noise)
