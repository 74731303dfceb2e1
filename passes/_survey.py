"""What a graph says about its modules and tensors: how often each is called, which are read directly, and ranks."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from fxquant.passes._placing import attribute_of
from fxquant.program import Program

_BY_TYPE: dict[type[object], int] = {
    nn.Conv1d: 3, nn.ConvTranspose1d: 3, nn.Conv2d: 4, nn.ConvTranspose2d: 4, nn.Conv3d: 5, nn.ConvTranspose3d: 5,
    nn.BatchNorm2d: 4, nn.BatchNorm3d: 5,
}  # fmt: skip

_KEEP_RANK = (
    nn.Linear, nn.BatchNorm1d, nn.LayerNorm, nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softmax,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
_KEEP_RANK_CALLS = {
    F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.gelu, F.silu, F.elu, F.leaky_relu, F.softmax, F.dropout,
    F.linear, F.layer_norm, F.batch_norm, torch.relu, torch.sigmoid, torch.tanh, torch.softmax,
    "relu", "sigmoid", "tanh", "softmax", "contiguous", "clone", "detach", "float", "clamp",
}  # fmt: skip
_BROADCAST = {
    operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul, torch.div,
    "add", "sub", "mul", "div",
}  # fmt: skip


class Survey:
    """One reading of a program's graph. Folding and fusing do not make it false."""

    def __init__(self, program: Program) -> None:
        self._program = program

    @cached_property
    def calls(self) -> Counter[str]:
        """Module name → number of call sites."""
        return Counter(str(node.target) for node in self._program.graph.nodes if node.op == "call_module")

    @cached_property
    def _read(self) -> frozenset[str]:
        targets = (str(node.target) for node in self._program.graph.nodes if node.op == "get_attr")
        return frozenset(target.rpartition(".")[0] for target in targets)

    def is_read_directly(self, module_name: str) -> bool:
        """Whether a node fetches one of the module's own tensors without calling it."""
        return module_name in self._read

    @cached_property
    def _ranks(self) -> dict[fx.Node, int | None]:
        leaves = iter(self._program.example_leaves or ())
        ranks: dict[fx.Node, int | None] = {}
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                leaf = next(leaves, None)
                ranks[node] = None if leaf is None else leaf.ndim
            else:
                ranks[node] = self._rank(node, ranks)
        return ranks

    def rank(self, node: fx.Node) -> int | None:
        """Number of dimensions of a node's tensor; None where neither the graph nor the example inputs tell.

        A convolution's output counts as batched unless its input is known not to be.
        """
        read = self._ranks.get(node)
        return self._tried.get(node) if read is None else read

    @cached_property
    def _tried(self) -> dict[fx.Node, int]:
        """Ranks by running the example inputs through the graph, up to the first op that fails on them.

        On meta tensors this would cost no arithmetic, but seconds of imports (sympy).
        """
        reader = _RankReader(self._program.graph_module)
        leaves = self._program.example_leaves
        if leaves is not None:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), suppress(RuntimeError, TypeError, ValueError):
                reader.run(*(leaf.clone() for leaf in leaves))
        return reader.ranks

    def _rank(self, node: fx.Node, ranks: dict[fx.Node, int | None]) -> int | None:
        before = [ranks[source] for source in node.all_input_nodes if source in ranks]
        first = before[0] if before else None
        match node.op:
            case "get_attr":
                found = attribute_of(self._program.graph_module, str(node.target))
                return found.ndim if isinstance(found, torch.Tensor) else None
            case "call_module":
                return _of_module(self._program.module_of(node), first)
            case "call_function" | "call_method":
                return _of_call(node, before)
            case _:
                return None


class _RankReader(fx.Interpreter):
    """Runs a graph and writes down the ranks of its tensors. What the graph writes to is a copy."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.ranks: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.ranks[n] = result.ndim
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return copy.deepcopy(self.fetch_attr(target))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        is_pure = type(module).__module__.startswith("torch.nn.")  # in eval; a user's leaf may count its calls
        return (module if is_pure else copy.deepcopy(module))(*args, **kwargs)


def _of_module(module: nn.Module | None, before: int | None) -> int | None:
    kind: type[object] = type(module)
    match module:
        case nn.Flatten(start_dim=start, end_dim=-1):
            return _flattened(before, start)
        case nn.Embedding():
            return None if before is None else before + 1
        case _ if kind in _BY_TYPE:
            return before if before is not None else _BY_TYPE[kind]
        case _:
            return before if kind in _KEEP_RANK else None


def _of_call(node: fx.Node, before: list[int | None]) -> int | None:
    first = before[0] if before else None
    if node.target in _KEEP_RANK_CALLS:
        return first
    if node.target in _BROADCAST:
        known = [rank for rank in before if rank is not None]
        return max(known) if known and len(known) == len(before) else None
    if node.target in (torch.flatten, "flatten"):
        arguments = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
        return _flattened(first, arguments.get("start_dim", 0)) if arguments.get("end_dim", -1) == -1 else None
    if node.target in ("view", "reshape", torch.reshape) and not node.kwargs:
        return _reshaped(node.args[1:])
    return None


def _reshaped(sizes: Any) -> int | None:
    match sizes:
        case ([*inner],):
            sizes = inner
        case (fx.Node(),):  # one size, or a whole shape
            return None
    return len(sizes) if all(isinstance(size, (int, fx.Node)) for size in sizes) else None  # x.view(dtype) has none


def _flattened(before: int | None, start: object) -> int | None:
    if not isinstance(start, int) or start < 0:
        return None
    return start + 1 if before is None else min(before, start + 1)
