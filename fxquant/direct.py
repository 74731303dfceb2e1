"""The short way from a call to an engine: arguments that are the graph's inputs, and a graph that is one engine.

What is left out is what such a call cannot need: no node runs in torch, so that there are no gradients to switch off
and no autocast to fear; nothing is bound by name; nothing is packed anew. A call that torch records goes the long way.
"""

from __future__ import annotations

import operator

from torch import fx, nn
from torch.nn.modules.module import _global_forward_hooks as _hooks_of_all
from torch.nn.modules.module import _global_forward_pre_hooks as _pre_hooks_of_all

from fxquant.engines.engine import AtOnce, EngineModule
from fxquant.program import Program, Stage
from fxquant.recorded import recorder


def direct_call(program: Program) -> AtOnce | None:
    """A lowered program's short way from arguments to the graph's outputs; None: it has none."""
    engine = _whole(program.graph_module) if program.stage is Stage.LOWERED else None
    signature = program.signature
    return engine.at_once if engine is not None and signature.takes_plain_tensors and not signature.cast else None


def is_watched(module: nn.Module) -> bool:
    """Does somebody ask to see the module's calls, or record them?"""
    hooks = module._forward_hooks or module._forward_pre_hooks or _hooks_of_all or _pre_hooks_of_all
    return bool(hooks or recorder())


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
