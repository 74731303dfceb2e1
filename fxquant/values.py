"""What each node gives (dtype and shape), inferred on meta tensors: no memory, no numbers, each node once.

A pass leaves the values of the nodes that it keeps; only those that it made are inferred after it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from fxquant import qdq
from fxquant.graphs.snapshot import TensorInfo
from fxquant.torch_ao import is_observer

_VALUE = "fxq_value"


def known_value(node: fx.Node) -> Any:
    """Meta tensors (or a tuple of them, or a number) that a node gives; None where nothing is known.

    What others noted in `node.meta` serves too: 'val' (torch.export) and 'tensor_meta' (torch.fx ShapeProp).
    """
    return next((node.meta[key] for key in (_VALUE, "val", "tensor_meta") if node.meta.get(key) is not None), None)


def note_value(node: fx.Node, value: Any) -> None:
    """Say what a node gives, where a pass knows better than inference could (a kernel on quantized tensors)."""
    node.meta[_VALUE] = value


def annotate(graph_module: fx.GraphModule, example: tuple[torch.Tensor, ...] | None) -> None:
    """Infer the value of every node that has none yet. Without an example nothing is known."""
    if example is None:
        return
    inputs = iter(example)
    with torch.no_grad():
        for node in graph_module.graph.nodes:
            given = next(inputs, None) if node.op == "placeholder" else None
            if _VALUE not in node.meta:
                node.meta[_VALUE] = _value(node, graph_module, given)


def _value(node: fx.Node, graph_module: fx.GraphModule, given: torch.Tensor | None) -> Any:
    match node.op:
        case "placeholder":
            return None if given is None else _as_meta(given)
        case "get_attr":
            return _as_meta(fetched(graph_module, str(node.target)))
        case "output":
            return None
    sources = [source.meta.get(_VALUE) for source in node.all_input_nodes]
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if sources and (node.target == "dequantize" or is_observer(module) or node.target in _QUANTIZES):
        return _requantized(node, sources[0])
    if any(source is None or isinstance(source, TensorInfo) for source in sources):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: copy.copy(source.meta[_VALUE]))
    try:
        return _run(node, module, args, kwargs)
    except Exception:  # meta tensors cannot run everything (other people's kernels, branches on numbers): not known
        return None


_QUANTIZES = {qdq.quantize_per_tensor: 5, torch.quantize_per_tensor: 3}  # the place of their dtype


def _requantized(node: fx.Node, source: Any) -> Any:
    """The shape of the input; the dtype that a quantize names, float32 after a dequantize."""
    if not isinstance(source, torch.Tensor | TensorInfo):
        return None
    if node.op == "call_module":
        return source
    if node.target == "dequantize":
        return torch.empty(source.shape, device="meta")
    dtype = node.args[_QUANTIZES[node.target]]  # type: ignore[index]
    if dtype in (torch.quint8, torch.qint8, torch.qint32):
        return TensorInfo(str(dtype).removeprefix("torch."), tuple(source.shape))
    return torch.empty(source.shape, dtype=dtype, device="meta")  # type: ignore[arg-type]


def _run(node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any) -> Any:
    if module is not None:
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        faked = {name: _as_meta(tensor) for name, tensor in state.items()}
        return torch.func.functional_call(copy.copy(module), faked, args, kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _as_meta(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return None
    if value.is_quantized:
        return TensorInfo(str(value.dtype).removeprefix("torch."), tuple(value.shape))
    return torch.empty_like(value, device="meta", requires_grad=False)


def fetched(graph_module: fx.GraphModule, target: str) -> Any:
    """The attribute at a dotted path; None where there is none."""
    value: Any = graph_module
    for part in target.split("."):
        value = getattr(value, part, None)
    return value
