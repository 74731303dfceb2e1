"""Does the canonical graph compute what the float model does? Each site by itself, fed the float model's own values.

    |ĝ(f_in) - f_out| <= what half a step on each weight can do (and float32 arithmetic)

A bound that is computed from the quantized graph holds for a wrong graph too. This does not: a swapped axis, a lost
edge or a write that went missing shows as a difference that no rounding of weights explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import aliasing, qdq
from fxquant.bounds import formats
from fxquant.bounds.bounded import Bounded, exact, lifted
from fxquant.bounds.result import difference
from fxquant.bounds.rounding import HALF
from fxquant.bounds.walk import Walk

# Beyond the sums' own slack: norms folded into weights, and the float model's kernels.
_ARITHMETIC = 2.0**-16
_PLACES = {torch.float16: (2.0**-11, 2.0**-25), torch.bfloat16: (formats.BFLOAT16, 2.0**-134)}


class Explain(Walk):
    """Runs the canonical graph with nothing rounded; each site goes on with the float model's value.

    `shift` has the largest difference of each site, `allowed` the most that any element may have, `excess` by how much
    one exceeds what it may have.
    """

    def __init__(
        self, graph_module: fx.GraphModule, sites: Mapping[fx.Node, str], reference: Mapping[str, Tensor]
    ) -> None:
        super().__init__(graph_module)
        self.sites, self.reference = sites, reference
        writes = [node for node in graph_module.graph.nodes if node.target is aliasing.rewritten]
        self.kept = {source for node in writes for source in node.all_input_nodes}  # whose memory counts
        self.shift: dict[str, float] = {}
        self.allowed: dict[str, float] = {}
        self.excess: dict[str, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node.op == "call_function" and node.target in qdq.DEQUANTIZE and isinstance(value, Tensor):
            return self._weight(node, value)
        if node.target in formats.WIDENS and isinstance(value, Tensor):
            weight = exact(value)
            return replace(weight, error=formats.weight_error(node, value, self._get))
        if node.op == "call_method" and node.target == "to" and isinstance(value, Tensor):
            return _half(value, self._get(node.args[0]))
        folded = node.all_input_nodes[0].meta.get(qdq.FOLDED) if node.target is qdq.dequantize_per_tensor else None
        if folded is not None and node not in self.sites and isinstance(value, (Tensor, Bounded)):
            found = lifted(value)  # a write follows, which has the site: here is the clamp that the range stands for
            return replace(found, value=found.value.clamp(*folded))
        expected = self.reference.get(self.sites.get(node, ""))
        if not isinstance(value, (Tensor, Bounded)) or expected is None or value.shape != expected.shape:
            return value
        if not expected.is_floating_point() or (isinstance(value, Tensor) and not value.is_floating_point()):
            return value
        clamped = _within_codes(node, lifted(value), expected)
        self._compare(self.sites[node], *clamped)
        if node.target is qdq.dequantize_per_tensor:  # memory of its own, whatever it is made from here
            return clamped[0] if node in self.kept else exact(expected)
        is_kept = node in self.kept or (bool(self.kept) and self._is_view(node, value))
        return value if is_kept else exact(expected)

    def _is_view(self, node: fx.Node, value: Tensor | Bounded) -> bool:
        """Does the result lie in the memory of what it was made from? A write to the one is read in the other."""
        sources = [self.env[source] for source in node.all_input_nodes if source in self.env]
        return any(_memory(source) == _memory(value) for source in sources if isinstance(source, (Tensor, Bounded)))

    def _weight(self, node: fx.Node, value: Tensor) -> Bounded:
        scale = torch.as_tensor(self._get(node.args[1]), dtype=torch.float64)
        if scale.dim():
            axis = self._get(node.args[3]) if node.target is qdq.dequantize_per_channel else 0
            scale = scale.view([-1 if dim == axis else 1 for dim in range(value.dim())])
        weight = exact(value)
        return replace(weight, error=HALF * scale.expand(value.shape) + 2.0**-20 * weight.value.abs())

    def _compare(self, site: str, found: Bounded, expected: Tensor) -> None:
        if not found.numel():
            return
        shift = difference(found.value, expected)
        size = torch.where(expected.isfinite(), expected.abs(), 0.0).max().double()
        allowed = found.error + _ARITHMETIC * (size + found.error)
        self.shift[site] = float(torch.nan_to_num(shift, nan=torch.inf).max())
        self.allowed[site] = float(allowed.max())
        over = torch.where(shift <= allowed, 0.0, shift - allowed)
        if bool((over != 0).any()):
            self.excess[site] = float(torch.nan_to_num(over, nan=torch.inf).max())


def _within_codes(node: fx.Node, value: Bounded, expected: Tensor) -> tuple[Bounded, Tensor]:
    """Both within the range of its codes, for a dequantize that has a site: it stands for the clamp that this range is.

    Zero is on the grid; another end of the clamp is up to half a step off.
    """
    codes: Any = node.args[0]
    if node.target is not qdq.dequantize_per_tensor or not isinstance(codes.args[1], float):
        return value, expected
    _, scale, zero_point, quant_min, quant_max, _ = codes.args
    low, high, half = (quant_min - zero_point) * scale, (quant_max - zero_point) * scale, HALF * scale
    is_at_end = (value.value >= high - half) | ((value.value <= low + half) & (low < 0.0))
    error = value.error + torch.where(is_at_end, half, 0.0)
    return replace(value, value=value.value.clamp(low, high), error=error), expected.clamp(low, high)


def _half(value: Tensor, before: Any) -> Any:
    """A 16-bit weight that is widened was half a place off."""
    if not isinstance(before, Tensor) or before.dtype not in _PLACES:
        return value
    weight, (relative, least) = exact(value), _PLACES[before.dtype]
    return replace(weight, error=relative * weight.value.abs() + least)


def _memory(value: Tensor | Bounded) -> int:
    tensor = value if isinstance(value, Tensor) else value.value
    return int(tensor.untyped_storage()._cdata)
