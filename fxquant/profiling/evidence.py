"""All that was measured of one compiled model beside its float one, before anybody concludes from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from fxquant import torch_ao
from fxquant.graphs.costs import costs
from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.snapping import snapshot
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.measuring import LayerMeasure
from fxquant.origin import site_of, where
from fxquant.plan import QuantPlan
from fxquant.profiling.accumulating import Accumulator
from fxquant.profiling.distribution import Distribution
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
    def graph(self) -> GraphSnapshot:
        """The float graph as plain data."""
        return snapshot(self.floating)

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
        factor = None if decision is None else self._folded(decision.module_name)
        found = weights_of(node, self.floating.graph_module)
        return [profile_weight(name, weight, op, asked, factor) for name, weight in found]

    def _folded(self, module_name: str) -> Tensor | None:
        """What a batch norm that was folded into this layer multiplies its output channels with."""
        told = f"folded into {module_name}"
        for row in self.compiled.ledger.layers:
            norm = self.floating.module_of(self.nodes[row.site]) if row.effective == told else None
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None:
                scale = torch.rsqrt(norm.running_var + norm.eps)
                return scale if norm.weight is None else scale * norm.weight.detach()
        return None

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
        found: dict[str, int] = {}
        for name, cost in costs(self.graph).items():
            node = self.graph[name]
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

    @cached_property
    def seen(self) -> dict[str, Distribution | None]:
        """Site → the distribution of its values."""
        return {site: values.result() for site, values in self.values.items()}

    def limits(self, site: str) -> tuple[float, float] | None:
        """The range that a site's codes hold; None where its result is float, or was not measured."""
        found = self.measures.get(site)
        if found is None or found.quant_low is None or found.quant_high is None:
            return None
        return found.quant_low, found.quant_high


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
