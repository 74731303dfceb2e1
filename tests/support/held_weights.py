"""The weights that a canonical graph computes with, whatever holds them: codes dequantized, halves widened, floats."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

Held = dict[str, list[torch.Tensor]]  # name of the module that holds them → every float tensor made of them


def held_weights(graph_module: fx.GraphModule) -> Held:
    """Fold all that depends on constants alone, and read the parameters of modules that are still called."""
    values: dict[fx.Node, Any] = {}
    owners: dict[fx.Node, frozenset[str]] = {}
    found: Held = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            owner, _, last = str(node.target).rpartition(".")
            values[node], owners[node] = getattr(graph_module.get_submodule(owner), last), frozenset({owner})
        elif node.op in ("call_function", "call_method") and node.all_input_nodes:
            if all(source in values for source in node.all_input_nodes):
                values[node] = _run(node, values)
                owners[node] = frozenset().union(*(owners[source] for source in node.all_input_nodes))
        elif node.op == "call_module":
            for name, parameter in graph_module.get_submodule(str(node.target)).named_parameters():
                found.setdefault(f"{node.target}.{name}".rpartition(".")[0], []).append(parameter.detach())
    for node, value in values.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            for owner in owners[node]:
                found.setdefault(owner, []).append(value)
    return found


def _run(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    return (
        getattr(args[0], node.target)(*args[1:], **kwargs) if node.op == "call_method" else node.target(*args, **kwargs)
    )


def weights_like(held: Held, name: str, shape: torch.Size) -> list[torch.Tensor]:
    """What became of the float parameter called `name`: every tensor of its shape that the graph makes of it."""
    owner, _, last = name.rpartition(".")
    if last == "in_proj_weight" and f"{owner}.q_proj" in held:
        parts = [[t for t in held[f"{owner}.{part}_proj"] if t.shape[1:] == shape[1:]] for part in ("q", "k", "v")]
        return [torch.cat(each) for each in zip(*parts, strict=True)]
    places = [owner, f"{owner}.{last.removeprefix('weight_')}", f"{owner}.{last.removeprefix('weight_').split('_')[0]}"]
    if last == "in_proj_weight":
        places.append(f"{owner}.q_proj_k_proj_v_proj")  # written out, and stacked again by fuse-projections
    return [tensor for place in dict.fromkeys(places) for tensor in held.get(place, []) if tensor.shape == shape]
