"""What each node gives: dtypes and shapes, seen in one run of a few rows when the model is captured.

Passes keep what the model computes, so a node that stands for traced nodes gives what the last of them gave. What a
pass adds beside those is a quantize, a dequantize, an observer, or a small op that is run on zeros.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxquant import float_formats, groups, qdq
from fxquant.aliasing import rewritten, store
from fxquant.calibration import run_on_few
from fxquant.graphs.snapshot import TensorInfo
from fxquant.origin import origins
from fxquant.torch_ao import is_observer

_VALUE = "fxq_value"
Values = Mapping[str, Any]  # origin → what the traced node gave: a TensorInfo, a number, or a tuple of those


def known_value(node: fx.Node) -> Any:
    """What a node gives: a TensorInfo, a number, or a tuple of those; None where it is not known.

    What others noted in `node.meta` serves too: 'val' (torch.export) and 'tensor_meta' (torch.fx ShapeProp).
    """
    return next((node.meta[key] for key in (_VALUE, "val", "tensor_meta") if node.meta.get(key) is not None), None)


def note_value(node: fx.Node, value: Any) -> None:
    """Say what a node gives, where a pass knows (a kernel on quantized tensors)."""
    node.meta[_VALUE] = value


def record_values(graph_module: fx.GraphModule, example: tuple[torch.Tensor, ...] | None) -> Values:
    """Run a graph on a few rows of an example, note what each node gives, and return that by origin.

    Nothing that the graph or a module writes reaches the model. Without an example, or where the graph fails on it,
    nothing is known.
    """
    if example is None:
        return {}
    recorder = _Recorder(graph_module)
    try:
        with torch.no_grad():
            run_on_few(recorder, tuple(tensor.clone() for tensor in example))
    except Exception:  # the user's own code runs here; calibration will name the layer that fails
        return {}
    for node, value in recorder.values.items():
        node.meta[_VALUE] = value
    return {site: value for node, value in recorder.values.items() for site in origins(node)[-1:]}


class _Recorder(fx.Interpreter):
    """Keeps what each node gives; hands out copies of the model's tensors."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        self.values[node] = None if node.op == "output" else _told(value)
        return value

    def fetch_attr(self, target: str) -> Any:
        value = super().fetch_attr(target)
        return value.clone() if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter) else value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        is_ours = type(module).__module__.startswith("torch.nn.")
        return (module if is_ours else copy.deepcopy(module))(*args, **kwargs)


def complete_values(graph_module: fx.GraphModule, traced: Values, *, may_run: bool = True) -> None:
    """Note what each node gives that has no note yet, `traced` telling it by origin.

    With `may_run` False (a graph that came in a file) no op is run to find out: what no rule tells stays unknown.
    """
    if not traced:
        return
    last = {origins(node)[-1]: node for node in graph_module.graph.nodes if origins(node)}
    whole = {node: site for site, node in last.items() if node.target is not store and not _is_of_tuple(node)}
    with torch.no_grad():
        for node in graph_module.graph.nodes:
            if _VALUE not in node.meta:
                known = traced.get(whole.get(node, ""))
                node.meta[_VALUE] = known if isinstance(known, TensorInfo) else _value(node, graph_module, may_run)


def _is_of_tuple(node: fx.Node) -> bool:
    """May it give a tuple, or an element of one? Then it and its elements share origins. x[:, 0] is of a tensor."""
    return any(one.target is operator.getitem and type(one.args[1]) is not tuple for one in (node, *node.users))


def _value(node: fx.Node, graph_module: fx.GraphModule, may_run: bool) -> Any:
    if node.op == "get_attr":
        return _told(fetched(graph_module, str(node.target)))
    if node.op in ("placeholder", "output"):
        return None
    sources = [source.meta.get(_VALUE) for source in node.all_input_nodes]
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if sources and (node.target == "dequantize" or is_observer(module) or node.target in _QUANTIZES):
        return _requantized(node, sources[0])
    if any(source is None for source in sources):
        return None
    if not may_run:
        return _by_rule(node, sources)
    try:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: _zeros(source.meta[_VALUE]))
        return _told(_run(node, module, args, kwargs))
    except Exception:  # zeros do not suit every op, and engines' kernels want their own tensors: then it is not known
        return None


def _by_rule(node: fx.Node, sources: list[Any]) -> Any:
    """What the ops that conversion puts in give, by their inputs alone; None for all others."""
    if node.target is rewritten:  # its members, as they are after the write
        members: Any = node.args[2]
        return tuple(member.meta.get(_VALUE) if isinstance(member, fx.Node) else None for member in members)
    match sources:
        case [TensorInfo(), *_] if node.target is groups.dequantize_groups:
            return TensorInfo("float32", node.args[4])  # type: ignore[arg-type]
        case [TensorInfo() as info, *_] if node.target in (*qdq.DEQUANTIZE, *float_formats.SAME_SHAPE):
            return TensorInfo("float32", info.shape)
        case [TensorInfo() as info] if node.op == "call_method" and node.target == "to" and len(node.args) == 2:
            dtype = node.args[1]
            return TensorInfo(str(dtype).removeprefix("torch."), info.shape) if isinstance(dtype, torch.dtype) else None
        case [TensorInfo()] if node.target is qdq.choose_qparams:
            return tuple(qdq.choose_qparams(torch.zeros(1), reduce_range=node.args[1] is True))
        case [TensorInfo() as info] if node.op == "call_method" and node.target == "size" and len(node.args) == 1:
            return info.shape
        case [TensorInfo() as info] if node.op == "call_method" and node.target == "size":
            return _item(info.shape, node.args[1])
        case [tuple() as items] if node.target is operator.getitem:
            return _item(items, node.args[1])
    return None


def _item(items: tuple[Any, ...], index: Any) -> Any:
    return items[index] if type(index) is int and -len(items) <= index < len(items) else None


_QUANTIZES = {qdq.quantize_per_tensor: 5, torch.quantize_per_tensor: 3}  # the place of their dtype


def _requantized(node: fx.Node, source: Any) -> Any:
    """The shape of the input; the dtype that a quantize names, float32 after a dequantize."""
    if not isinstance(source, TensorInfo):
        return None
    if node.op == "call_module":
        return source
    dtype = torch.float32 if node.target == "dequantize" else node.args[_QUANTIZES[node.target]]  # type: ignore[index]
    return TensorInfo(str(dtype).removeprefix("torch."), source.shape)


def _run(node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any) -> Any:
    if module is not None:
        return copy.deepcopy(module)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _told(value: Any) -> Any:
    match value:
        case torch.Tensor():
            return TensorInfo(str(value.dtype).removeprefix("torch."), tuple(value.shape))
        case tuple() | list():
            return tuple(_told(item) for item in value)
        case int() | float():
            return value
    return None


def _zeros(value: Any) -> Any:
    match value:
        case TensorInfo():
            return torch.zeros(value.shape, dtype=getattr(torch, value.dtype))
        case tuple():
            return tuple(_zeros(item) for item in value)
    return value


def fetched(graph_module: fx.GraphModule, target: str) -> Any:
    """The attribute at a dotted path; None where there is none."""
    value: Any = graph_module
    for part in target.split("."):
        value = getattr(value, part, None)
    return value
