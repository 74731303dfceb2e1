"""Building the engine's graph from the canonical one, node by node: matched patterns become quantized ops."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import qdq
from fxquant.origin import adopt, carry, origins
from fxquant.passes import (
    _native_embedding,
    _native_float_result,
    _native_formats,
    _native_layers,
    _native_others,
    _native_recurrent,
)
from fxquant.passes._canonical import attribute_name, is_activation_dequantize, is_activation_quantize, is_native
from fxquant.passes._native_ops import SHAPE_METHODS, reshape_for_view
from fxquant.passes._packing import quantized_tensor
from fxquant.passes._weights import is_widened_weight

_QUANTIZED = {torch.uint8: torch.quint8, torch.int8: torch.qint8}
_RELUS = (F.relu, torch.relu)


# Other answers of codes than the float value gives, and tensors, which would be codes too.
_OF_CODES = frozenset({"dtype", "itemsize", "nbytes", "is_quantized", "T", "mT", "H", "mH", "data", "real", "imag"})


@dataclass(frozen=True, slots=True)
class Lowered:
    """The engine's graph, which nodes of it compute which canonical nodes, and what became of each layer."""

    graph_module: fx.GraphModule
    counterpart: dict[fx.Node, fx.Node]  # lowered node → canonical node with the same value
    native: dict[fx.Node, str]  # canonical layer → which kernel runs it
    refused: dict[fx.Node, str]  # canonical layer → why the engine would not take it
    fused: dict[fx.Node, fx.Node]  # canonical relu → the layer whose kernel computes it


@dataclass
class NativeGraph:
    """One lowering of one canonical graph. `avoid` holds layers that must stay float."""

    canonical: fx.GraphModule
    target: str
    avoid: dict[fx.Node, str]
    graph: fx.Graph = field(default_factory=fx.Graph)
    values: dict[fx.Node, fx.Node] = field(default_factory=dict)  # canonical → float (or any other) value
    codes: dict[fx.Node, fx.Node] = field(default_factory=dict)  # canonical quantize → quantized tensor
    moved: dict[fx.Node, fx.Node] = field(default_factory=dict)  # canonical value → codes that an op has moved
    constants: dict[str, Any] = field(default_factory=dict)  # attributes of the new module
    counterpart: dict[fx.Node, fx.Node] = field(default_factory=dict)
    native: dict[fx.Node, str] = field(default_factory=dict)
    refused: dict[fx.Node, str] = field(default_factory=dict)
    fused: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def build(self) -> Lowered:
        """Lower every node, drop what nothing reads, and put the constants in."""
        for node in self.canonical.graph.nodes:
            if is_activation_quantize(node):
                self.codes[node] = self._quantize(node)
                self.counterpart[self.codes[node]] = node
            else:
                self.values[node] = self._value(node)
        reshape_for_view(self.graph)
        self._assembled().graph.eliminate_dead_code()  # torch asks the owning module which calls are pure
        self._fold_weights()
        graph_module = self._assembled()
        alive = set(self.graph.nodes)
        paired = {lowered: node for lowered, node in self.counterpart.items() if lowered in alive}
        return Lowered(graph_module, paired, self.native, self.refused, self.fused)

    # Quantized values -------------------------------------------------------------------------------------------------

    def _quantize(self, node: fx.Node) -> fx.Node:
        """The quantized tensor of a canonical quantize: by a kernel where one matches, else from the float value."""
        source = node.args[0]
        made = self._kernel(node, source) if isinstance(source, fx.Node) and is_native(node) else None
        if made is not None:
            return carry(made, made, *node.users)
        x, scale, zero_point, *_, dtype = node.args
        if not is_native(node):
            return self.graph.node_copy(node, self.values.__getitem__)
        arguments = (self.values[x], scale, zero_point, _QUANTIZED[dtype])  # type: ignore[index]
        made = adopt(self.graph.call_function(torch.quantize_per_tensor, arguments), node)
        return carry(made, *node.users) if any(map(origins, node.users)) else made

    def _kernel(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        """One quantized op for `source` (and the op before it, when `source` is a relu), or None."""
        if source in self.avoid:
            return None
        inner = self.relu_of(source)
        for layer, relu in ((inner, source), (source, None)):
            if layer is None or layer in self.avoid:
                continue
            made = _native_layers.static(self, node, layer, relu) or _native_others.lower(self, node, layer, relu)
            if made is not None:
                kernel = self._named(made)
                self.native[layer] = f"runs as {kernel} on {self.target}"
                if relu is not None:
                    self.native[relu], self.fused[relu] = f"runs in {kernel} on {self.target}", layer
                return carry(made, layer, *(() if relu is None else (relu,)))
        return None

    def relu_of(self, node: fx.Node) -> fx.Node | None:
        """The op whose result this relu takes alone; None when it is no such relu."""
        is_function = node.op == "call_function" and node.target in _RELUS
        if not is_function and type(self.module_of(node)) is not nn.ReLU:
            return None
        source = node.args[0]
        return source if isinstance(source, fx.Node) and len(source.users) == 1 else None

    # Float and other values -------------------------------------------------------------------------------------------

    def _value(self, node: fx.Node) -> fx.Node:
        """The value of any other canonical node."""
        if is_activation_dequantize(node):
            source = node.all_input_nodes[0]
            if is_native(source):
                return adopt(self.graph.call_method("dequantize", (self.codes[source],)), node)
            return self.graph.node_copy(node, lambda other: self.codes.get(other) or self.values[other])
        if node.op == "call_method" and node.target in SHAPE_METHODS and self.is_coded(node.args[0]):
            rest = node.args[1:]
            return adopt(self.graph.call_method(str(node.target), (self.coded(node.args[0]), *rest)), node)
        is_read = node.op == "call_function" and node.target is getattr and node.args[1] not in _OF_CODES
        if is_read and self.is_coded(node.args[0]):
            return adopt(self.graph.call_function(getattr, (self.coded(node.args[0]), *node.args[1:])), node)
        codes = None if node in self.avoid else _native_others.move(self, node)
        if codes is not None:
            self.moved[node], self.counterpart[codes] = carry(codes, node), node
            self.native[node] = f"runs as {self._named(codes)} on {self.target}"
            return adopt(self.graph.call_method("dequantize", (codes,)), node)
        made = (
            _native_layers.dynamic_linear(self, node)
            or _native_layers.half_linear(self, node)
            or _native_formats.lower(self, node)
            or _native_embedding.lower(self, node)
            or _native_recurrent.lower(self, node)
            or _native_float_result.lower(self, node)
            or _native_float_result.lower_relu(self, node)
        )
        if made is not None:
            self.native[node] = f"runs as {self._named(made)} on {self.target}"
            self.counterpart[made] = node
            return carry(made, node)
        return self.graph.node_copy(node, lambda source: self.values[source])

    def _fold_weights(self) -> None:
        """Dequantized weights that a float op still reads are computed once, now."""
        for node in list(self.graph.nodes):
            if not is_widened_weight(node, self.canonical):
                continue
            name = self.own_name(f"{attribute_name(node.all_input_nodes[0])}_float")
            values = [self.tensor_of(argument) for argument in node.args]
            self.constants[name] = values[0].float() if node.op == "call_method" else node.target(*values)
            with self.graph.inserting_before(node):
                folded = adopt(self.graph.create_node("get_attr", name), node)
            node.replace_all_uses_with(folded)
        self._assembled().graph.eliminate_dead_code()

    # For the lowerings of other files ---------------------------------------------------------------------------------

    def own_name(self, name: str) -> str:
        """The name, or with underscores where the canonical module has something of that name already."""
        while hasattr(self.canonical, name):
            name += "_"
        return name

    def hold(self, name: str, value: Any) -> fx.Node:
        """A get_attr of a constant of the lowered module."""
        name = self.own_name(name)
        self.constants[name] = value
        return self.graph.get_attr(name)

    def refuse(self, layer: fx.Node, why: str) -> None:
        """Let a layer stay float because the engine does not take it."""
        self.refused[layer] = self.avoid[layer] = why

    def weight_of(self, node: Any) -> Tensor | None:
        """The quantized tensor of a dequantized int8 weight; None for anything else."""
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        codes = node.args[0]
        if node.target not in qdq.DEQUANTIZE or not isinstance(codes, fx.Node) or codes.op != "get_attr":
            return None
        values = [self.tensor_of(argument) for argument in node.args]
        if values[0].dtype is not torch.int8:
            return None
        return quantized_tensor(values[0], values[1], values[2], values[3] if len(values) > 3 else None)

    def codes_of(self, weight: fx.Node) -> Tensor:
        """The quantized tensor of a dequantized int8 weight, or the float32 one of a widened float16 weight."""
        held = self.weight_of(weight)
        found: Tensor = self.tensor_of(weight.args[0]).float() if held is None else held
        return found

    # Small questions --------------------------------------------------------------------------------------------------

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that a canonical node calls."""
        return self.canonical.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_coded(self, node: Any) -> bool:
        """Is this canonical value one of codes that the engine has: their dequantize, or moved by an op?"""
        return node in self.moved or (is_activation_dequantize(node) and is_native(node.args[0]))

    def coded(self, node: Any) -> fx.Node:
        """The quantized tensor behind such a value."""
        return self.moved[node] if node in self.moved else self.codes[node.args[0]]

    def tensor_of(self, argument: Any) -> Any:
        """The value of a get_attr; other arguments as they are."""
        return _get(self.canonical, str(argument.target)) if isinstance(argument, fx.Node) else argument

    def _named(self, made: fx.Node) -> str:
        """What runs, in words: 'quantized.conv2d_relu', 'MaxPool2d on codes'."""
        module = self.module_of(made)
        if module is not None:
            return f"{type(module).__name__} on codes"
        if isinstance(made.target, torch._ops.OpOverload):
            return made.target._schema.name.replace("::", ".")
        if getattr(made.target, "__module__", "").startswith("fxquant."):
            return f"torch's {made.target.__name__}"  # type: ignore[union-attr]
        return f"{getattr(made.target, '__name__', made.target)} on codes"

    def _assembled(self) -> fx.GraphModule:
        """A module with the attributes and submodules that the graph still uses, and nothing else."""
        root = nn.Module()
        for node in self.graph.nodes:
            if node.op not in ("get_attr", "call_module"):
                continue
            name = str(node.target)
            value = self.constants[name] if name in self.constants else _get(self.canonical, name)
            _put(root, name, value)
        return fx.GraphModule(root, self.graph, class_name=type(self.canonical).__name__)


def _get(root: nn.Module, path: str) -> Any:
    return operator.attrgetter(path)(root)


def _put(root: nn.Module, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root._modules[name]  # type: ignore[assignment]
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(last, value)
    else:
        setattr(root, last, value)
