"""Taking a GraphSnapshot of a torch.fx GraphModule."""

from __future__ import annotations

import torch
from torch import fx

from fxquant.origin import origins, scope, where
from fxquant.snapshot import GraphSnapshot, NodeRecord


def snapshot_of(graph_module: fx.GraphModule) -> GraphSnapshot:
    """The graph as plain data. Reads no tensor contents."""
    return GraphSnapshot(tuple(_record(node, graph_module) for node in graph_module.graph.nodes))


def _record(node: fx.Node, graph_module: fx.GraphModule) -> NodeRecord:
    target, kind = str(node.target), str(node.target).rsplit(".", 1)[-1]
    attributes: tuple[tuple[str, str], ...] = ()
    if node.op == "call_module":
        module = graph_module.get_submodule(target)
        kind, attributes = type(module).__name__, _attributes(module)
    elif node.op == "call_function":
        target = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"
        kind = target.rsplit(".", 1)[-1]
    location = where(node)
    return NodeRecord(
        name=node.name,
        op=node.op,
        target=target,
        kind=kind,
        args=_text(node.args) + (_text(dict(node.kwargs)) if node.kwargs else ""),
        inputs=tuple(source.name for source in node.all_input_nodes),
        origins=origins(node),
        scope=scope(node),
        where="" if location is None else f"{location.file}:{location.line}",
        attributes=attributes,
    )


def _attributes(module: torch.nn.Module) -> tuple[tuple[str, str], ...]:
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    shapes = tuple((name, f"{tensor.dtype}{list(tensor.shape)}") for name, tensor in tensors)
    told = module.extra_repr()
    return (("", told), *shapes) if told else shapes


def _text(value: object) -> str:
    match value:
        case fx.Node():
            return f"%{value.name}"
        case tuple() | list():
            return "(" + ", ".join(_text(item) for item in value) + ")"
        case dict():
            return "{" + ", ".join(f"{key}={_text(item)}" for key, item in value.items()) + "}"
        case slice():
            return f"[{_text(value.start)}:{_text(value.stop)}:{_text(value.step)}]"
        case torch.Tensor():
            return f"tensor{list(value.shape)}"
        case _:
            return repr(value)
