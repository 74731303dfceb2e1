"""Casts and devices that forward() writes out, in a model whose parameters were cast to float32 or copied to the CPU.

`x.half()`, `.to(torch.bfloat16)`, `torch.zeros(n, dtype=torch.float16, device="cuda")` mean "as my weights are": the
graph's calls mean the same of the weights that it has now. Other casts stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.arrival import Arrival
from fxquant.ledger import Ledger
from fxquant.values import known_value

_METHODS = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}
_CASTS = frozenset({"to", "float", "type", "type_as"})
_FLOAT_FACTORIES = (torch.zeros, torch.ones, torch.empty, torch.eye, torch.linspace, torch.rand, torch.randn)
_WAS_CAST = "fxq_was_cast"


def settle_casts(graph_module: fx.GraphModule, arrival: Arrival, ledger: Ledger) -> None:
    """Let every call name the dtypes and devices that the copy has, and say so in its row."""
    if arrival.is_plain:
        return
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            _settle_constant(graph_module, str(node.target), arrival)
        elif node.op in ("call_function", "call_method"):
            told = _settle_call(node, arrival)
            if told or (arrival.cast and node.op == "call_method" and node.target in _CASTS):
                node.meta[_WAS_CAST] = True
            if told:
                ledger.remark(
                    node, f"forward() says {told}, as the model was when it came: now it is float32 on the CPU"
                )
    graph_module.recompile()


def _settle_constant(graph_module: fx.GraphModule, target: str, arrival: Arrival) -> None:
    """A tensor that forward() made while it was traced."""
    owner, _, name = target.rpartition(".")
    holder = graph_module.get_submodule(owner)
    value = getattr(holder, name)
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter) and arrival.changes(value):
        setattr(holder, name, arrival.tensor(value))


def _settle_call(node: fx.Node, arrival: Arrival) -> str:
    """What it said that is so no more; '' where it goes on as it is."""
    told: list[str] = []

    def settled(value: Any) -> Any:
        if isinstance(value, torch.dtype) and arrival.dtype(value) != value:
            told.append(str(value).removeprefix("torch."))
            return arrival.dtype(value)
        if isinstance(value, torch.device) and value.type in arrival.moved:
            told.append(str(value))
            return torch.device("cpu")
        if isinstance(value, str) and value.partition(":")[0] in arrival.moved:
            told.append(value)
            return "cpu"
        return value

    if node.target in _FLOAT_FACTORIES and "dtype" not in node.kwargs and torch.get_default_dtype() in arrival.cast:
        node.kwargs = {**node.kwargs, "dtype": torch.get_default_dtype()}  # what it gave in the model as it came
    node.args = fx.node.map_aggregate(node.args, settled)
    node.kwargs = fx.node.map_aggregate(node.kwargs, settled)
    method = str(node.target) if node.op == "call_method" else ""
    if _METHODS.get(method) in arrival.cast:
        told.append(f"{method}()")
        node.target = "float"
    if method in arrival.moved:  # x.cuda()
        told.append(f"{method}()")
        node.target, node.args, node.kwargs = "cpu", node.args[:1], {}
    return " and ".join(dict.fromkeys(told))


def was_copy(node: fx.Node) -> bool:
    """May this call have made a new tensor in the model as it came, where it now gives back what it is given?"""
    return bool(node.meta.get(_WAS_CAST))


def why_needless(node: fx.Node) -> str:
    """Why a cast of a model that was cast changes nothing now; '' where it does, or no example tells."""
    if not was_copy(node) or not node.args or not isinstance(node.args[0], fx.Node):
        return ""
    before, after = known_value(node.args[0]), known_value(node)
    is_same = getattr(before, "dtype", None) == getattr(after, "dtype", "") == "float32"
    return "what it casts or moves is float32 on the CPU already, as the whole model is now" if is_same else ""
