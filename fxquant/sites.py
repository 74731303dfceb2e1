"""Values at call sites: which node gives a site's value, what the float model gives there, and that value as codes.

Measuring, error bounds and blaming all compare a compiled graph with its float one, site by site, by these.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import qdq
from fxquant.aliasing import restore_buffers, rewritten, saved_buffers
from fxquant.origin import origins
from fxquant.targets import has_saturation_risk, isa
from fxquant.torch_ao import quiet

_COMPUTES = ("call_module", "call_function", "call_method")


def computed_sites(graph_module: fx.GraphModule) -> dict[fx.Node, str]:
    """Node → the site whose value it gives: the last of its origins, where no later node has that one too."""
    last = {origins(node)[-1]: node for node in graph_module.graph.nodes if origins(node) and node.op in _COMPUTES}
    return {node: site for site, node in last.items()}


class Reference(fx.Interpreter):
    """Runs the float graph and keeps its value at each wanted site."""

    def __init__(self, graph_module: fx.GraphModule, wanted: Collection[str]) -> None:
        super().__init__(graph_module)
        self.wanted, self.values = frozenset(wanted), dict[str, Tensor]()

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        for site in origins(node):
            if site in self.wanted and isinstance(value, Tensor):
                self.values[site] = value.clone()  # the graph may write into it later
        return value

    @property
    def floats(self) -> dict[str, Tensor]:
        """Those that are floats: what quantization is about."""
        return {site: value for site, value in self.values.items() if value.is_floating_point()}


def run_once(interpreter: fx.Interpreter, leaves: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """One run that leaves the inputs and the buffers of the model (a cache, a counter) as they were."""
    buffers = saved_buffers(interpreter.module)  # type: ignore[arg-type]
    with quiet(), torch.no_grad():
        try:
            result: tuple[Any, ...] = interpreter.run(*(leaf.clone() for leaf in leaves))
        finally:
            restore_buffers(interpreter.module, buffers)  # type: ignore[arg-type]
    return result


def replaceable(graph_module: fx.GraphModule) -> frozenset[fx.Node]:
    """All nodes but those whose storage counts: a write to one is found in the others by the memory that they share."""
    written = {
        source for node in graph_module.graph.nodes if node.target is rewritten for source in node.all_input_nodes
    }
    return frozenset(graph_module.graph.nodes) - written


def as_codes(expected: Tensor, like: Tensor) -> Tensor:
    """The float value as the graph holds it: as codes with a range of its own, so that nothing of it is clipped."""
    if not like.is_quantized:
        return expected.clone()
    if like.dtype is not torch.quint8:
        return torch.quantize_per_tensor(expected, like.q_scale(), like.q_zero_point(), like.dtype)
    scale, zero_point = qdq.choose_qparams(expected, has_saturation_risk("x86", isa()))
    return torch.quantize_per_tensor(expected, scale, zero_point, like.dtype)
