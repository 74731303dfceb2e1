"""nn.MultiheadAttention written out: projections are Linear modules, the core between them is plain float ops.

    q, k, v = q_proj(query), k_proj(key), v_proj(value)             each split into heads: (..., heads, length, width)
    output = out_proj(join(softmax(q @ k.T / sqrt(width) + mask) @ v))

Only negative dimensions are used, so batched and unbatched inputs go through the same nodes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.attention import merged_mask
from fxquant.keep_float import keep_float
from fxquant.origin import as_part, carry, part_of
from fxquant.passes._tuples import reads_only_first, substitute

CORE = "no engine has an int8 kernel for softmax(q @ k) @ v"
_FORWARD = inspect.signature(nn.MultiheadAttention.forward)


class Projections(nn.Module):
    """Stands where an nn.MultiheadAttention was and holds its four Linear modules, which share its parameters."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        for name, weight, bias in _inputs(attention):
            self.add_module(name, _linear(weight, bias))
        self.add_module("out_proj", _linear(attention.out_proj.weight, attention.out_proj.bias))
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.is_batch_first = attention.batch_first
        self.eval()

    def forward(self) -> None:
        """Not called: the graph calls the projections."""
        raise NotImplementedError("the graph calls this module's projections")


def _inputs(attention: nn.MultiheadAttention) -> list[tuple[str, Tensor, Tensor | None]]:
    if attention.in_proj_weight is not None:
        weights: tuple[Any, ...] = attention.in_proj_weight.chunk(3)
    else:
        weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    biases: Any = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    return list(zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return made


@dataclass(frozen=True, slots=True)
class _Call:
    """One call's arguments, as nn.MultiheadAttention.forward names them."""

    query: Any
    key: Any
    value: Any
    key_padding_mask: Any
    attn_mask: Any
    needs_weights: bool
    is_averaged: bool


def refusal(module: nn.MultiheadAttention, node: fx.Node) -> str | None:
    """Why this attention cannot be written out; None when it can."""
    if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
        return "its add_bias_kv or add_zero_attn appends rows to key and value"
    arguments = _arguments(node)
    literal = ("need_weights", "average_attn_weights", "is_causal")
    computed = next((name for name in literal if isinstance(arguments[name], fx.Node)), None)
    if computed is not None:
        return f"its {computed} is computed by the model"
    if arguments["is_causal"] and arguments["attn_mask"] is None:
        return "is_causal without an attn_mask is an error in torch"
    if not all(isinstance(arguments[name], fx.Node) for name in ("query", "key", "value")):
        return "its query, key or value is no single tensor of the graph"
    return None


def _arguments(node: fx.Node) -> dict[str, Any]:
    bound = _FORWARD.bind(None, *node.args, **node.kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _call(node: fx.Node) -> _Call:
    given = _arguments(node)
    names = ("query", "key", "value", "key_padding_mask", "attn_mask")
    return _Call(
        **{name: given[name] for name in names},
        needs_weights=bool(given["need_weights"]) and not reads_only_first(node),
        is_averaged=bool(given["average_attn_weights"]),
    )


def write_out(graph: fx.Graph, node: fx.Node, held: Projections) -> None:
    """Put the explicit nodes in the place of one call of an nn.MultiheadAttention whose modules are now `held`."""
    with graph.inserting_before(node):
        output, weights = _Writer(graph, node, held).write(_call(node))
    substitute(graph, node, (output, weights))


@dataclass(frozen=True, slots=True)
class _Writer:
    graph: fx.Graph
    node: fx.Node
    held: Projections

    def write(self, call: _Call) -> tuple[fx.Node, fx.Node | None]:
        q, k, v = (
            self._heads(self._project(name, source))
            for name, source in (("q_proj", call.query), ("k_proj", call.key), ("v_proj", call.value))
        )
        mask = None
        if call.attn_mask is not None or call.key_padding_mask is not None:
            mask = self._core(merged_mask, q, call.attn_mask, call.key_padding_mask)
        if not call.needs_weights:
            return self._output(self._core(F.scaled_dot_product_attention, q, k, v, mask)), None
        weights = self._weights(q, k, mask)
        output = self._output(self._core(torch.matmul, weights, v))
        return output, self._core("mean", weights, -3) if call.is_averaged else weights

    def _weights(self, q: fx.Node, k: fx.Node, mask: fx.Node | None) -> fx.Node:
        scaled = self._core(torch.mul, q, math.sqrt(1.0 / self.held.head_dim))
        scores = self._core(torch.matmul, scaled, self._core("transpose", k, -2, -1))
        if mask is not None:
            scores = self._core(torch.add, scores, mask)
        return self._core(torch.softmax, scores, -1)

    def _project(self, name: str, source: fx.Node) -> fx.Node:
        made = carry(self.graph.call_module(f"{self.node.target}.{name}", (source,)), self.node)
        return as_part(made, _within(self.node, name))

    def _heads(self, x: fx.Node) -> fx.Node:
        """(batch, length, features) → (batch, heads, length, width); without a batch likewise."""
        split = self._core("unflatten", x, -1, (self.held.num_heads, self.held.head_dim))
        if not self.held.is_batch_first:
            split = self._core("transpose", split, 0, -3)  # nothing moves without a batch
        return self._core("transpose", split, -3, -2)

    def _output(self, x: fx.Node) -> fx.Node:
        joined = self._core("flatten", self._core("transpose", x, -3, -2), -2)
        if not self.held.is_batch_first:
            joined = self._core("transpose", joined, 0, -2)
        return self._project("out_proj", joined)

    def _core(self, target: str | Callable[..., Any], *args: Any) -> fx.Node:
        """A node of the float core."""
        kind = "call_method" if isinstance(target, str) else "call_function"
        made = as_part(carry(self.graph.create_node(kind, target, args), self.node), _within(self.node, "attention"))
        keep_float(made, CORE)
        return made


def _within(node: fx.Node, name: str) -> str:
    """The part's name, below the part that the call itself is ('self_attn.q_proj' within an encoder layer)."""
    return f"{part_of(node)}.{name}" if part_of(node) else name
