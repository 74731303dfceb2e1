"""All that was measured of one compiled model beside its float one, before anybody concludes from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from statistics import median
from typing import TYPE_CHECKING

from torch import Tensor, fx

from fxquant import torch_ao
from fxquant.graphs.costs import costs
from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.snapping import snapshot
from fxquant.measuring import LayerMeasure
from fxquant.origin import site_of, where
from fxquant.plan import QuantPlan
from fxquant.profiling.accumulating import Accumulator
from fxquant.profiling.noise import range_sqnr_db
from fxquant.profiling.timing import Group, groups_of, node_seconds
from fxquant.profiling.weights import WeightProfile, profile_weight, weights_of
from fxquant.program import Program, Stage
from fxquant.qconfigs import Ask

if TYPE_CHECKING:
    from fxquant.model import CompiledModel

_HOLDS = ("placeholder", "get_attr", "output")


@dataclass(frozen=True)
class Evidence:
    """`layers`, `values` and `seconds` are empty where there was no data."""

    compiled: CompiledModel
    floating: Program
    measures: Mapping[str, LayerMeasure] = field(default_factory=dict)  # site → what `measure` found
    values: Mapping[str, Accumulator] = field(default_factory=dict)  # site → what it gave over all batches
    float_seconds: Mapping[str, float] = field(default_factory=dict)  # site → seconds in the float graph
    node_seconds: Mapping[str, float] = field(default_factory=dict)  # lowered node → seconds
    output_sqnr_db: float = math.nan

    @property
    def plan(self) -> QuantPlan:
        """The decision for each site."""
        return self.compiled.plan

    @property
    def is_lowered(self) -> bool:
        """Is there a graph on an engine to look at?"""
        return self.compiled.stage is Stage.LOWERED

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Site → its node in the float graph."""
        return {site_of(node): node for node in self.floating.graph.nodes if node.op not in _HOLDS}

    @cached_property
    def asks(self) -> dict[str, Ask]:
        """Site → what the plan asks for it; none for sites that it leaves float."""
        read = {decision.site: decision for decision in self.plan if decision.qconfig is not None}
        return {site: torch_ao.read_qconfig(decision.qconfig, "the plan") for site, decision in read.items()}

    @cached_property
    def weights(self) -> dict[str, tuple[WeightProfile, ...]]:
        """Site → its weights."""
        return {site: tuple(self._weights(site, node)) for site, node in self.nodes.items()}

    def _weights(self, site: str, node: fx.Node) -> Sequence[WeightProfile]:
        decision = self.plan.get(site)
        op, ask = ("", None) if decision is None else (decision.op, self.asks.get(site))
        asked = None if ask is None else ask.weight
        return [
            profile_weight(name, weight, op, asked) for name, weight in weights_of(node, self.floating.graph_module)
        ]

    @cached_property
    def groups(self) -> dict[str, Group]:
        """Site → the sites that one kernel computes."""
        sites = [decision.site for decision in self.plan]
        if not self.is_lowered:
            return {site: Group((site,), (), None, None) for site in sites}
        timed = (self.float_seconds, self.node_seconds) if self.node_seconds else (None, None)
        return groups_of(self.compiled.graph_module, sites, *timed)

    @cached_property
    def distinct_groups(self) -> tuple[Group, ...]:
        """Each group once, in graph order."""
        return tuple(dict.fromkeys(self.groups.values()))

    @cached_property
    def conversions(self) -> dict[str, float]:
        """Quantize and dequantize nodes of the lowered graph → seconds."""
        if not self.is_lowered:
            return {}
        found = [node.name for node in self.compiled.snapshot() if is_quantize(node) or is_dequantize(node)]
        return {name: self.node_seconds[name] for name in found if name in self.node_seconds}

    @cached_property
    def macs(self) -> dict[str, int]:
        """Site → multiplications in the float graph.

        Of a module that multiplies in ways that its shapes do not tell: each of its weights once for each row that it
        gives.
        """
        graph, found = snapshot(self.floating), dict[str, int]()
        for name, cost in costs(graph).items():
            node = graph[name]
            rows = prod(node.values[0].shape[:-1]) if node.values else 1
            found[node.site] = (cost.parameters or 0) * rows if cost.macs is None else cost.macs
        return found

    def float_share(self, sites: Sequence[str]) -> float:
        """Share of all multiplications that these sites do, 0 to 1."""
        whole = sum(self.macs.values())
        return sum(self.macs.get(site, 0) for site in dict.fromkeys(sites)) / whole if whole else 0.0

    def where(self, site: str) -> str:
        """The user's line of a site; '' where nobody knows."""
        node = self.nodes.get(site)
        found = None if node is None else where(node)
        return "" if found is None else str(found)

    def bits(self, site: str) -> int:
        """Of the activation codes that the plan asks for at a site; 0 where it asks for none."""
        ask = self.asks.get(site)
        if ask is None or ask.activation.is_float or ask.activation.dtype not in ("quint8", "qint8"):
            return 0
        low, high = ask.activation.quant_min, ask.activation.quant_max
        return 8 if low is None or high is None else math.ceil(math.log2(high - low + 1))

    def range_sqnr_db(self, site: str, limits: tuple[float, float], *, of_bulk: bool = False) -> float | None:
        """Expected SQNR of a site's values in a range of 8-bit codes; None where nothing was seen."""
        seen = self.values.get(site)
        if seen is None or not seen.moments.count:
            return None
        return range_sqnr_db(seen.sketch, *limits, of_bulk=of_bulk)

    @cached_property
    def noises(self) -> dict[Group, float]:
        """Group → its own noise over its own signal (a ratio of powers), for those that were measured.

        The larger of what was measured, and of what the range does to the values between the 0.1th and the 99.9th
        percentile: a few huge values hide the loss of all others.
        """
        found: dict[Group, float] = {}
        for group in self.distinct_groups:
            site = next((site for site in reversed(group.sites) if site in self.measures), None)
            if site is None:
                continue
            measure = self.measures[site]
            noise = ratio(measure.own_sqnr_db)
            if measure.quant_low is not None and measure.quant_high is not None:
                bulk = self.range_sqnr_db(site, (measure.quant_low, measure.quant_high), of_bulk=True)
                noise = max(noise, 0.0 if bulk is None else ratio(bulk))
            found[group] = noise
        return found

    def limits(self, site: str) -> tuple[float, float] | None:
        """The range that a site's codes hold; None where its result is float, or was not measured."""
        found = self.measures.get(site)
        if found is None or found.quant_low is None or found.quant_high is None:
            return None
        return found.quant_low, found.quant_high

    def has_own_range(self, group: Group) -> bool:
        """Is its result quantized by a range of its own, and not by that of its input (reshape, pooling, mean)?"""
        limits = next((found for site in reversed(group.sites) if (found := self.limits(site)) is not None), None)
        sources = [source for site in group.sites for source in self.nodes[site].all_input_nodes]
        return limits is not None and all(
            self.limits(site_of(source)) != limits for source in sources if site_of(source) not in group.sites
        )

    @cached_property
    def usual_own_db(self) -> float:
        """The median own SQNR of the groups that lose something of their own; NaN where there is none."""
        own = [
            -10 * math.log10(noise)
            for group, noise in self.noises.items()
            if noise > 0 and (self.has_own_range(group) or any(self.weights.get(site) for site in group.sites))
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
    return 0.0 if sqnr_db == math.inf else min(1.0, 10 ** (-sqnr_db / 10)) if sqnr_db > -math.inf else 1.0


def timed(
    compiled: CompiledModel, floating: Program, leaves: tuple[Tensor, ...], seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """(site → seconds in the float graph, lowered node → seconds), medians of runs that take turns."""
    float_nodes, lowered = node_seconds((floating.graph_module, compiled.graph_module), leaves, seconds=seconds)
    by_name = {node.name: site_of(node) for node in floating.graph.nodes}
    by_site: dict[str, float] = {}
    for name, taken in float_nodes.items():
        by_site[by_name[name]] = by_site.get(by_name[name], 0.0) + taken
    return by_site, lowered
