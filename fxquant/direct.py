"""The short way from a call to an engine: arguments that are the graph's inputs, and a graph that is one engine.

What is left out is what such a call cannot need: no node runs in torch, so that there are no gradients to switch off
and no autocast to fear; nothing is bound by name; nothing is packed anew. A call that torch records goes the long way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from fxquant.engines.engine import EngineModule
from fxquant.program import Program, Stage
from fxquant.recorded import recorder

DirectCall = Callable[[tuple[Any, ...]], Any]  # a call's positional arguments → its result, or None: take the long way


def direct_call(program: Program) -> DirectCall | None:
    """The short way of a lowered program; None where it has none."""
    engine = _whole(program.graph_module) if program.stage is Stage.LOWERED else None
    signature = program.signature
    if engine is None or not signature.takes_plain_tensors or signature.cast:
        return None
    at_once, rebuild, count = engine.at_once, signature.rebuild, len(signature.tensor_leaves)

    def call(args: tuple[Any, ...]) -> Any:
        if len(args) != count:
            return None
        for value in args:
            if type(value) is not Tensor:
                return None
        if recorder():
            return None
        results = at_once(args)
        return None if results is None else rebuild(results)

    return call


def _whole(graph_module: fx.GraphModule) -> EngineModule | None:
    """The engine that this graph calls with its inputs, and whose results are its outputs, in order."""
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    calls = [node for node in graph_module.graph.nodes if node.op == "call_module"]
    if len(calls) != 1 or list(calls[0].args) != inputs or calls[0].kwargs:
        return None
    results = next(node for node in graph_module.graph.nodes if node.op == "output").args[0]
    picked = [(node.target, *node.args) if isinstance(node, fx.Node) else None for node in results]
    if picked != [(operator.getitem, calls[0], index) for index in range(len(picked))]:
        return None
    engine = graph_module.get_submodule(str(calls[0].target))
    return engine if isinstance(engine, EngineModule) else None
