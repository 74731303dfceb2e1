"""nn.TransformerEncoder and nn.TransformerEncoderLayer written out as calls of their own submodules, as in evaluation.

norm_first:  x = x + self_attn(norm1(x));   x = x + linear2(activation(linear1(norm2(x))))
otherwise:   x = norm1(x + self_attn(x));   x = norm2(x + linear2(activation(linear1(x))))
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant.keep_float import keep_float
from fxquant.origin import as_part, carry, part_of

ENCODERS = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
_MASKS = {nn.TransformerEncoder: "mask", nn.TransformerEncoderLayer: "src_mask"}
_RELUS = (F.relu, torch.relu)
NO_KERNEL = "no engine has an int8 kernel for its activation function"


def refusal(module: nn.Module, node: fx.Node) -> str | None:
    """Why this encoder (layer) cannot be written out; None when it can."""
    if isinstance(module, nn.TransformerEncoder):
        strange = next((layer for layer in module.layers if type(layer) is not nn.TransformerEncoderLayer), None)
        if strange is not None:
            return f"its layers are {type(strange).__name__}, not torch's own"
    layers = module.layers if isinstance(module, nn.TransformerEncoder) else (module,)
    if not all(_is_named(layer.activation) for layer in layers):
        return "its activation is a function without a name, which a graph cannot hold"
    arguments = _arguments(module, node)
    if arguments.get("is_causal") and arguments[_MASKS[type(module)]] is None:
        return "is_causal without a mask is an error in torch"
    return None


def remark(module: nn.Module, node: fx.Node) -> str | None:
    """What the written-out encoder does otherwise than torch's; None where it is the same."""
    if not isinstance(module, nn.TransformerEncoder) or not module.use_nested_tensor:
        return None
    if _arguments(module, node)["src_key_padding_mask"] is None:
        return None
    return "padded positions are computed like the others, where torch's nested tensors would give zeros"


def _is_named(activation: object) -> bool:
    return isinstance(activation, nn.Module) or getattr(activation, "__name__", "<lambda>") != "<lambda>"


def write_out(graph_module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, ...]:
    """Put calls of the submodules in the place of one call. Returns the calls that may be written out in turn."""
    module = graph_module.get_submodule(str(node.target))
    graph, arguments = graph_module.graph, _arguments(module, node)
    writer = _Writer(graph_module, node, arguments[_MASKS[type(module)]], arguments["src_key_padding_mask"])
    with graph.inserting_before(node):
        if isinstance(module, nn.TransformerEncoder):
            result, inner = writer.encoder(module, arguments["src"])
        else:
            assert isinstance(module, nn.TransformerEncoderLayer)
            result, inner = writer.layer(module, arguments["src"])
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return inner


def _arguments(module: nn.Module, node: fx.Node) -> dict[str, Any]:
    bound = inspect.signature(type(module).forward).bind(None, *node.args, **node.kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


@dataclass(frozen=True, slots=True)
class _Writer:
    graph_module: fx.GraphModule
    node: fx.Node
    mask: Any
    padding: Any

    def encoder(self, module: nn.TransformerEncoder, x: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
        layers = []
        for index in range(len(module.layers)):
            x = self._call(f"layers.{index}", x, src_mask=self.mask, src_key_padding_mask=self.padding)
            layers.append(x)
        if module.norm is not None:
            x = self._call("norm", x)
        return x, tuple(layers)

    def layer(self, module: nn.TransformerEncoderLayer, x: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
        if module.norm_first:
            attended, call = self._attend(self._call("norm1", x))
            x = self._add(1, x, attended)
            return self._add(2, x, self._feed(module, self._call("norm2", x))), (call,)
        attended, call = self._attend(x)
        x = self._call("norm1", self._add(1, x, attended))
        return self._call("norm2", self._add(2, x, self._feed(module, x))), (call,)

    def _attend(self, x: fx.Node) -> tuple[fx.Node, fx.Node]:
        masks = {"attn_mask": self.mask, "key_padding_mask": self.padding}
        call = self._call("self_attn", x, x, x, need_weights=False, **masks)
        return self._made("self_attn.attention", "call_function", operator.getitem, call, 0), call

    def _feed(self, module: nn.TransformerEncoderLayer, x: fx.Node) -> fx.Node:
        return self._call("linear2", self._activate(module.activation, self._call("linear1", x)))

    def _activate(self, activation: Callable[..., Any], x: fx.Node) -> fx.Node:
        if activation in _RELUS or type(activation) is nn.ReLU:
            self.graph_module.add_submodule(f"{self.node.target}.relu", nn.ReLU().train(self.graph_module.training))
            return self._call("relu", x)
        if isinstance(activation, nn.Module):
            return self._call("activation", x)
        made = self._made("activation", "call_function", activation, x)
        keep_float(made, NO_KERNEL)
        return made

    def _add(self, index: int, x: fx.Node, y: fx.Node) -> fx.Node:
        return self._made(f"residual{index}", "call_function", operator.add, x, y)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        return self._made(name, "call_module", f"{self.node.target}.{name}", *args, **kwargs)

    def _made(self, part: str, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        made = carry(self.graph_module.graph.create_node(kind, target, args, kwargs), self.node)
        return as_part(made, f"{part_of(self.node)}.{part}" if part_of(self.node) else part)
