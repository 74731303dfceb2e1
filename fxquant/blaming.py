"""Where an error enters: the call site whose value is the first to be wrong, found on the graph that runs.

Two ways. Against derived bounds each site is compared with its own. Against any other judgement of the output the graph
is bisected: the first k sites are given the float model's values, and the smallest k that mends the output names the
site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxquant import qdq
from fxquant.aliasing import restore_buffers, rewritten, saved_buffers
from fxquant.bounds.result import ErrorBound, difference
from fxquant.origin import origins
from fxquant.program import Program
from fxquant.row import Row
from fxquant.targets import has_saturation_risk, isa
from fxquant.torch_ao import quiet

if TYPE_CHECKING:
    from fxquant.model import CompiledModel

_COMPUTES = ("call_module", "call_function", "call_method")


@dataclass(frozen=True, slots=True)
class Culprit:
    """The site at which an error enters, its row of the ledger, and what was seen there."""

    row: Row
    evidence: str

    @property
    def name(self) -> str:
        """'fc2' (Linear)."""
        return f"'{self.row.module or self.row.site}' ({self.row.op})"

    @property
    def remedy(self) -> str:
        """The line that keeps this layer float."""
        if self.row.op[:1].isupper() and self.row.module:
            name = self.row.module
            return f'mapping.set_module_name("{name}", None)   or, in a recipe:   ignore = ["{name}"]'
        return f'in a recipe:   ignore = ["{self.row.op}"]'

    def __str__(self) -> str:
        row = self.row
        code = f"{row.code} " if row.code else ""
        return (
            f"the error enters at {self.name}: {self.evidence}\n"
            f"    asked: {row.requested or '-'} · got: {row.effective or '-'} · why: {code}{row.reason or '-'}\n"
            f"  to keep it float: {self.remedy}"
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One call of a compiled model beside the float graph that it came from."""

    compiled: CompiledModel
    floating: Program
    leaves: tuple[Tensor, ...]

    def beyond(self, bound: ErrorBound) -> Culprit | None:
        """The first site, in the order of the graph that runs, whose value is further off than its own bound."""
        seen = self._run(_Seeing(self.compiled.graph_module, self._sites(), {}, frozenset()))
        expected = self._expected()
        for site, value in seen.items():
            if site not in bound.sites or value.shape != expected[site].shape:
                continue
            error, allowed = difference(value, expected[site]), bound.bound_at(site)
            if not bool((error <= allowed).all()):
                worst = int((error - allowed).argmax())
                told = f"{float(error.flatten()[worst]):.4g} off the float model there, its bound is "
                return self._culprit(site, f"{told}{float(allowed.flatten()[worst]):.4g}")
        return None

    def bisected(self, is_good: Callable[[Any], bool]) -> Culprit | None:
        """The site that mends the output when it and all before it get the float model's values; None: no site does."""
        expected = self._expected()
        sites = self._sites()
        order = [site for site in dict.fromkeys(sites.values()) if site in expected]
        if not order or not self._mends(order, len(order), sites, expected, is_good):
            return None
        low, high = 0, len(order)  # forcing `low` sites does not mend, forcing `high` does
        while high - low > 1:
            middle = (low + high) // 2
            if self._mends(order, middle, sites, expected, is_good):
                high = middle
            else:
                low = middle
        told = "with the float model's values up to here the output is in tolerance, without this one's it is not"
        return self._culprit(order[high - 1], told)

    def _mends(
        self,
        order: list[str],
        count: int,
        sites: Mapping[fx.Node, str],
        expected: Mapping[str, Tensor],
        is_good: Callable[[Any], bool],
    ) -> bool:
        interpreter = _Seeing(self.compiled.graph_module, sites, expected, frozenset(order[:count]))
        self._run(interpreter)
        return is_good(self.compiled.program.signature.rebuild(interpreter.result))

    def _sites(self) -> dict[fx.Node, str]:
        """Node → the site whose value it gives: the last of its origins, where no later node has that one too."""
        nodes = [node for node in self.compiled.graph_module.graph.nodes if origins(node) and node.op in _COMPUTES]
        last = {origins(node)[-1]: node for node in nodes}
        return {node: origins(node)[-1] for node in nodes if last[origins(node)[-1]] is node}

    def _expected(self) -> dict[str, Tensor]:
        wanted = set(self._sites().values())
        return self._run(_Floating(self.floating.graph_module, wanted))

    def _run(self, interpreter: _Seeing | _Floating) -> dict[str, Tensor]:
        """The values at sites, of one run that leaves the buffers of the model as they were."""
        buffers = saved_buffers(interpreter.module)  # type: ignore[arg-type]
        with quiet(), torch.no_grad():
            try:
                interpreter.result = interpreter.run(*(leaf.clone() for leaf in self.leaves))
            finally:
                restore_buffers(interpreter.module, buffers)  # type: ignore[arg-type]
        return interpreter.values

    def _culprit(self, site: str, evidence: str) -> Culprit:
        """Of a kernel that computes several sites the first has the weight, and is what a policy can name."""
        first = next(origins(node)[0] for node, known in self._sites().items() if known == site)
        return Culprit(self.compiled.ledger[first], evidence)


class _Floating(fx.Interpreter):
    """Keeps the float model's value at each wanted site."""

    def __init__(self, graph_module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(graph_module)
        self.wanted, self.values, self.result = wanted, dict[str, Tensor](), ()

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        for site in origins(node):
            if site in self.wanted and isinstance(value, Tensor) and value.is_floating_point():
                self.values[site] = value.clone()  # the graph may write into it later
        return value


class _Seeing(fx.Interpreter):
    """Keeps each site's value as floats; hands on the float model's value at the sites that are forced."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        sites: Mapping[fx.Node, str],
        expected: Mapping[str, Tensor],
        forced: frozenset[str],
    ) -> None:
        super().__init__(graph_module)
        self.sites, self.expected, self.forced = sites, expected, forced
        self.values, self.result = dict[str, Tensor](), ()
        self.shared = {source for node in graph_module.graph.nodes if node.target is rewritten for source in node.args}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        site = self.sites.get(node, "")
        if not isinstance(value, Tensor) or not (value.is_quantized or value.is_floating_point()):
            return value
        if site:
            self.values[site] = value.dequantize() if value.is_quantized else value.clone()
        wanted = self.expected.get(site)
        is_forced = site in self.forced and wanted is not None and wanted.shape == value.shape
        return _coded(wanted, value) if is_forced and node not in self.shared else value  # type: ignore[arg-type]


def _coded(expected: Tensor, like: Tensor) -> Tensor:
    """The float value as codes with a range of its own, where the graph goes on with codes."""
    if not like.is_quantized:
        return expected.clone()
    if like.dtype is not torch.quint8:
        return torch.quantize_per_tensor(expected, like.q_scale(), like.q_zero_point(), like.dtype)
    scale, zero_point = qdq.choose_qparams(expected, has_saturation_risk("x86", isa()))
    return torch.quantize_per_tensor(expected, scale, zero_point, like.dtype)
