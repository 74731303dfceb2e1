"""A convolution that cuts a picture into patches and makes a token of each, as the linear layer that it is.

    conv(x, W, stride = kernel = k) → flatten(2) → transpose(1, 2)      ⇒      patches(x) @ W'.T + b

patches(x) has a row for each patch, with its C·k·k values in W's order. Both sum the same products of codes. With three
input channels a convolution fills a small part of its kernel's rows: 3 × 224 × 224 to 196 tokens of 384 takes 155 µs as
one, and 112 µs so; 49 tokens of 768 take 556 and 161.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant import qdq
from fxquant.origin import adopt
from fxquant.values import fetched


def write_patches(graph_module: fx.GraphModule, leaves: tuple[Tensor, ...]) -> None:
    """Change the graph in place, where a convolution reads an input whose sizes its kernel divides."""
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    shapes: dict[Any, torch.Size] = {node: leaf.shape for node, leaf in zip(inputs, leaves, strict=True)}
    for node in graph_module.graph.find_nodes(op="call_function", target=F.conv2d):
        tokens = _tokens_of(node)
        codes = _codes(graph_module, node.args[1])
        if tokens is None or codes is None or node.kwargs or len(node.args) < 7:
            continue
        kernel = codes.shape[2:]
        if _cuts(node, kernel) and _divides(kernel, shapes.get(_source(node.args[0]), ())):
            _write(graph_module, node, tokens, codes)
    graph_module.graph.eliminate_dead_code()


def patches(x: Tensor, height: int, width: int) -> Tensor:
    """(batch, C, H, W) → (batch, H/height · W/width, C · height · width)."""
    batch, channels, rows, columns = x.shape
    cut = x.reshape(batch, channels, rows // height, height, columns // width, width).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch, (rows // height) * (columns // width), channels * height * width)


def _write(graph_module: fx.GraphModule, node: fx.Node, tokens: fx.Node, codes: Tensor) -> None:
    weight: Any = node.args[1]
    name = f"_{node.name}_rows"
    graph_module.register_buffer(name, codes.flatten(1).contiguous())
    with graph_module.graph.inserting_before(node):
        cut = adopt(graph_module.graph.call_function(patches, (node.args[0], *codes.shape[2:])), node)
        held = graph_module.graph.get_attr(name)
        rows = adopt(graph_module.graph.call_function(weight.target, (held, *weight.args[1:])), weight)
    node.target, node.args = F.linear, (cut, rows, node.args[2])  # the node keeps its name, by which its kernel is told
    tokens.replace_all_uses_with(node)


def _tokens_of(node: fx.Node) -> fx.Node | None:
    """The transpose(1, 2) of flatten(2) of a node that nobody else reads."""
    flat = _only_reader(node)
    if flat is None or flat.target not in (torch.flatten, "flatten") or flat.kwargs:
        return None
    if flat.args[1:] not in ((2,), (2, -1), (2, 3)):
        return None
    turned = _only_reader(flat)
    if turned is None or turned.target not in (torch.transpose, "transpose") or turned.kwargs:
        return None
    return turned if sorted(axis % 3 for axis in turned.args[1:]) == [1, 2] else None  # type: ignore[operator]


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _codes(graph_module: fx.GraphModule, weight: Any) -> Tensor | None:
    """The stored codes of a weight with a scale for each output channel."""
    if not isinstance(weight, fx.Node) or weight.target is not qdq.dequantize_per_channel or weight.args[3] != 0:
        return None
    held: Any = weight.args[0]
    return fetched(graph_module, str(held.target)) if held.op == "get_attr" else None


def _cuts(node: fx.Node, kernel: torch.Size) -> bool:
    """Does each value of the input go into one patch, and each patch into one output?"""
    stride, padding, dilation, groups = node.args[3:7]
    plain = _both(padding) == (0, 0) and _both(dilation) == (1, 1) and groups == 1
    return bool(plain) and _both(stride) == tuple(kernel) and math.prod(kernel) > 1


def _both(sizes: Any) -> tuple[Any, ...]:
    return tuple(sizes) * (2 if len(sizes) == 1 else 1) if isinstance(sizes, (tuple, list)) else (sizes, sizes)


def _divides(kernel: torch.Size, shape: Sequence[int]) -> bool:
    return len(shape) == 4 and all(size % part == 0 and size > 0 for size, part in zip(shape[2:], kernel, strict=True))


def _source(node: Any) -> fx.Node | None:
    """What a pair of quantize and dequantize reads; the node itself without one."""
    if isinstance(node, fx.Node) and node.target is qdq.dequantize_per_tensor:
        codes: Any = node.args[0]
        return codes.args[0] if codes.target is qdq.quantize_per_tensor else node
    return node if isinstance(node, fx.Node) else None
