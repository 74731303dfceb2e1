"""The values at each call site over all batches, streamed through the float graph: one accumulator a site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx

from fxquant.origin import site_of
from fxquant.profiling.accumulating import Accumulator
from fxquant.profiling.running import run_afresh

_CALLS = ("call_module", "call_function", "call_method")
_FRONT = frozenset({f"{kind}{dims}d" for dims in (1, 2, 3) for kind in ("Conv", "ConvTranspose", "BatchNorm", "conv")})
_BACK = frozenset({"Linear", "linear", "LayerNorm", "Embedding", "LSTM", "GRU", "TransformerEncoderLayer"})


class _Streamed(fx.Interpreter):
    """Adds the float value of each node to its site's accumulator."""

    def __init__(self, graph_module: fx.GraphModule, limits: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(graph_module)
        self.limits = limits
        self.found: dict[str, Accumulator] = {}
        self.axes: dict[fx.Node, tuple[int, int]] = {}  # node → (rank, channel axis)

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor):
            self.axes[node] = value.dim(), self._axis(node, value)
            if node.op in _CALLS and value.is_floating_point():
                self._accumulator(node, value).add(value)
        return value

    def _accumulator(self, node: fx.Node, value: Tensor) -> Accumulator:
        site = site_of(node)
        if site not in self.found:
            rank, axis = self.axes[node]
            made = self.found[site] = Accumulator(axis if rank >= 2 else None)
            made.limits = self.limits.get(site)
        return self.found[site]

    def _axis(self, node: fx.Node, value: Tensor) -> int:
        """Where the channels are: as the layer has them, else as the input of the same rank has them."""
        op = type(self.fetch_attr(str(node.target))).__name__ if node.op == "call_module" else _name(node)
        if op in _FRONT:
            return 1
        if op in _BACK:
            return -1
        known = (self.axes[source] for source in node.all_input_nodes if source in self.axes)
        like = next((axis for rank, axis in known if rank == value.dim()), None)
        if like is not None:
            return like
        return 1 if value.dim() >= 4 else -1


def stream(
    graph_module: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]], limits: Mapping[str, tuple[float, float]]
) -> dict[str, Accumulator]:
    """Site → what its value was over these batches of graph inputs. Each activation is let go when its batch is done.

    `limits`: site → the range that its codes hold; what lies outside is counted as clipped.
    """
    streamed = _Streamed(graph_module, limits)
    for leaves in batches:
        run_afresh(streamed, leaves)
    return streamed.found


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))
