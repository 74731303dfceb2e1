"""The canonical graph as OpenVINO's PyTorch front end reads it, each of its nodes tied to the canonical node behind it.

    canonical  →  torch.export, run node by node  →  decompositions that the front end wants  →  GraphModule

A node of the result is tied by the provenance that torch.fx keeps while an Interpreter runs ('from_node').
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.decomp_utils import CustomDecompTable
from torch.fx import traceback

from fxquant.engines._openvino_forms import write_forms
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.exportable import exportable

KEPT = (  # whole, though the front end's own table takes them apart
    torch.ops.aten.matmul.default,
)


class _ByNode(fx.Interpreter):
    """Runs the graph so that what torch.export records carries the node's name. `at` is where it has come to."""

    at = ""

    def run_node(self, n: fx.Node) -> Any:
        """As fx has it."""
        self.at = n.name
        return super().run_node(n)


_PASS = f"Interpreter_{_ByNode.__name__}"


class _Tracked(nn.Module):
    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module, self.run = graph_module, _ByNode(graph_module)

    def forward(self, *leaves: Tensor) -> Any:
        return self.run.run(*leaves)


def decomposed(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, is_dynamic: bool) -> fx.GraphModule:
    """The graph in the ops of the front end. EngineRefusal where torch.export does not take it."""
    shapes = tuple(dict.fromkeys(range(leaf.dim()), torch.export.Dim.AUTO) for leaf in leaves)
    prepared = exportable(canonical)
    write_forms(prepared)
    tracked = _Tracked(prepared).eval()
    try:
        with _quiet(), traceback.preserve_node_meta(), torch.no_grad():
            program = torch.export.export(tracked, leaves, dynamic_shapes=(shapes,) if is_dynamic else None)
            return _module(program.run_decompositions(_table()))
    except Exception as error:  # of any kind: torch.export raises what its tracers and the model's leaves raise
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EngineRefusal(f"torch.export does not take it: {told}", tracked.run.at) from error


def canonical_name(node: fx.Node) -> str:
    """The canonical node that a node of `decomposed` came from; '' for inputs and constants."""
    sources = list(node.meta.get("from_node", ()))
    while sources:
        source = sources.pop()
        if source.pass_name == _PASS:
            return str(source.name)
        sources += source.from_node
    return ""


def _module(program: ExportedProgram) -> fx.GraphModule:
    made = program.module(check_guards=False)
    assert isinstance(made, fx.GraphModule)
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def _table() -> CustomDecompTable:
    """The front end's table of decompositions: built here, since its own way of building it logs to the root logger."""
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    table = CustomDecompTable()  # type: ignore[no-untyped-call]
    for op in (*ops_to_not_decompose(), *KEPT):
        if op in table.decomp_table:
            table.pop(op)  # type: ignore[no-untyped-call]
    return table
