"""Dtypes of values, found by running the graph on fake tensors of the example's shapes. No kernel runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import fx

from fxquant.program import Program


def changed_dtypes(program: Program, pairs: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
    """The pairs whose two nodes have different dtypes. Without an example, or where it cannot be run, none is known."""
    if not pairs or program.example_leaves is None or _is_one_precision(program):
        return {}
    wanted = {*pairs, *pairs.values()}
    found = _Dtypes(program.graph_module, wanted).of(program.example_leaves)
    return {new: old for new, old in pairs.items() if new in found and old in found and found[new] != found[old]}


def _is_one_precision(program: Program) -> bool:
    """Is all of it float32 (besides integers), with nothing that casts? Then no addition can promote."""
    module = program.graph_module
    tensors = (*(program.example_leaves or ()), *module.parameters(), *module.buffers())
    has_other = any(tensor.dtype.is_floating_point and tensor.dtype != torch.float32 for tensor in tensors)
    return not has_other and not any(_casts(node) for node in program.graph.nodes)


def _casts(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target in ("to", "type", "type_as", "double", "half", "bfloat16"):
        return True
    return any(isinstance(argument, torch.dtype) for argument in (*node.args, *node.kwargs.values()))


class _Dtypes(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(graph_module)
        self._wanted = wanted
        self._found: dict[fx.Node, torch.dtype] = {}

    def of(self, leaves: tuple[torch.Tensor, ...]) -> dict[fx.Node, torch.dtype]:
        from torch._subclasses.fake_tensor import FakeTensorMode  # late: it is slow to import

        needs_values = suppress(RuntimeError, TypeError, ValueError)  # an op stops the run: what came before it holds
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad(), needs_values:
            self.run(*(mode.from_tensor(leaf) for leaf in leaves))
        return self._found

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, torch.Tensor):
            self._found[n] = value.dtype
        return value
