"""Where an error enters: the call site whose value is the first to be wrong, found on the graph that runs.

Two ways. Against derived bounds each site is compared with its own. Against any other judgement of the output the graph
is bisected: the first k sites are given the float model's values, and the smallest k that mends the output names the
site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from fxquant.bounds.result import ErrorBound, difference
from fxquant.origin import origins
from fxquant.program import Program
from fxquant.row import Row
from fxquant.sites import Reference, as_codes, computed_sites, replaceable, run_once

if TYPE_CHECKING:
    from fxquant.model import CompiledModel


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
        seen, expected = _Seeing(self.compiled.graph_module, self._sites(), {}, frozenset()), self._expected()
        run_once(seen, self.leaves)
        for site, value in seen.values.items():
            if site not in bound.sites or site not in expected or value.shape != expected[site].shape:
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
        return is_good(self.compiled.program.signature.rebuild(run_once(interpreter, self.leaves)))

    def _sites(self) -> dict[fx.Node, str]:
        return computed_sites(self.compiled.graph_module)

    def _expected(self) -> dict[str, Tensor]:
        """The float model's value at each site that gives floats."""
        reference = Reference(self.floating.graph_module, self._sites().values())
        run_once(reference, self.leaves)
        return reference.floats

    def _culprit(self, site: str, evidence: str) -> Culprit:
        """Of a kernel that computes several sites the first has the weight, and is what a policy can name."""
        first = next(origins(node)[0] for node, known in self._sites().items() if known == site)
        return Culprit(self.compiled.ledger[first], evidence)


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
        self.values, self.free = dict[str, Tensor](), replaceable(graph_module)

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        site = self.sites.get(node, "")
        if not isinstance(value, Tensor) or not (value.is_quantized or value.is_floating_point()):
            return value
        if site:
            self.values[site] = value.dequantize() if value.is_quantized else value.clone()
        wanted = self.expected.get(site)
        is_forced = site in self.forced and wanted is not None and wanted.shape == value.shape
        return as_codes(wanted, value) if is_forced and node in self.free else value  # type: ignore[arg-type]
