"""The canonical graph in a form that torch.export takes: its quantize and dequantize as ops of the dispatcher.

quantize_per_tensor(x, s, z, 0, 255, uint8)   ⇒   fxquant::quantize(x, s, z, 0, 255, uint8)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from fxquant import qdq
from fxquant.engines import ops
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.silence import silence
from fxquant.graphmodule import copied
from fxquant.values import fetched

_NODE = "fxq_canonical"  # within meta['custom'], which torch's tracers carry along


def exported(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, is_dynamic: bool = False) -> ExportedProgram:
    """The graph through torch.export, on inputs like `leaves`. EngineRefusal where it does not go through.

    With `is_dynamic`, every size that the graph does not fix is open. `canonical_name` tells where a node came from.
    """
    prepared = exportable(canonical)
    walked = _Walked(prepared)
    shapes = tuple(dict.fromkeys(range(leaf.dim()), torch.export.Dim.AUTO) for leaf in leaves)
    try:
        with silence(), torch.no_grad():
            return torch.export.export(
                walked.as_module(),
                _several(leaves) if is_dynamic else leaves,
                dynamic_shapes=(shapes,) if is_dynamic else None,
            )
    except Exception as error:  # of any kind: torch.export raises what its tracers and the user's leaves raise
        told = f"torch.export does not take it: {type(error).__name__}: {error}".splitlines()[0]
        raise EngineRefusal(told, walked.at) from error


def _several(leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Two rows where one is given: torch.export takes a size of one for a constant."""
    if any(leaf.dim() == 0 for leaf in leaves) or {leaf.shape[0] for leaf in leaves} != {1}:
        return leaves
    return tuple(torch.cat((leaf, leaf)) for leaf in leaves)


class _Walked(fx.Interpreter):
    """Runs the graph node by node, so that torch.export notes each node's name; remembers where it stopped."""

    at = ""

    def run_node(self, n: fx.Node) -> Any:
        """As fx has it."""
        self.at = n.meta["custom"][_NODE]
        return super().run_node(n)

    def as_module(self) -> fx.GraphModule:
        """The graph module, its forward being this walk."""
        made, walk = self.module, self.run
        assert isinstance(made, fx.GraphModule)
        type(made).forward = lambda _, *leaves: walk(*leaves)  # type: ignore[method-assign]  # its class is its own
        return made


def canonical_name(node: fx.Node) -> str:
    """The canonical node that an exported one came from; '' where it is not known."""
    found: str = node.meta.get("custom", {}).get(_NODE, "")
    return found


def exportable(canonical: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph on ops of the dispatcher; the given one stays as it is."""
    made = copied(canonical)
    for node in made.graph.nodes:
        node.meta["custom"] = {_NODE: node.name}
    for node in made.graph.nodes:
        if node.op == "call_function" and node.target in _WRITTEN:
            _WRITTEN[node.target](made, node)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


def _quantize(graph_module: fx.GraphModule, node: fx.Node) -> None:
    if not any(isinstance(argument, fx.Node) for argument in node.args[1:]):
        node.target = ops.QUANTIZE


def _dequantize(graph_module: fx.GraphModule, node: fx.Node) -> None:
    codes, *qparams = node.args
    known = [_literal(graph_module, argument) for argument in qparams]
    if all(value is not None for value in known):
        node.target, node.args = ops.DEQUANTIZE, (codes, float(known[0]), int(known[1]))


def _dequantize_channels(graph_module: fx.GraphModule, node: fx.Node) -> None:
    node.target = ops.DEQUANTIZE_CHANNELS


def _literal(graph_module: fx.GraphModule, argument: object) -> object:
    """The number behind an argument: itself, or of a constant with one element; None where it is computed."""
    if not isinstance(argument, fx.Node):
        return argument
    value = fetched(graph_module, str(argument.target)) if argument.op == "get_attr" else None
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else None


_WRITTEN = {
    qdq.quantize_per_tensor: _quantize,
    qdq.dequantize_per_tensor: _dequantize,
    qdq.dequantize_per_channel: _dequantize_channels,
}
