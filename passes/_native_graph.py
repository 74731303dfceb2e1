"""Building the engine's graph from the canonical one, node by node: matched patterns become quantized ops."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import qdq
from fxquant.origin import adopt, carry
from fxquant.passes._canonical import is_activation_dequantize, is_activation_quantize, is_native, qparams_of
from fxquant.passes._native_ops import BINARY, FIXED_MODULES, OWN_MODULES, SHAPE_METHODS, is_shared
from fxquant.passes._packing import HALF_ENGINES, PACKED, pack_half_linear, quantized_tensor
from fxquant.passes._weights import HALF_WEIGHTS, held_as, is_widened_weight

_QUANTIZED = {torch.uint8: torch.quint8, torch.int8: torch.qint8}
_RELUS = (F.relu, torch.relu)


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
            return made
        x, scale, zero_point, _, _, dtype = node.args
        if not is_native(node):
            return self.graph.node_copy(node, self.values.__getitem__)
        arguments = (self.values[x], scale, zero_point, _QUANTIZED[dtype])  # type: ignore[index]
        return adopt(self.graph.call_function(torch.quantize_per_tensor, arguments), node)

    def _kernel(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        """One quantized op for `source` (and the op before it, when `source` is a relu), or None."""
        if source in self.avoid:
            return None
        inner = self._relu_of(source)
        for layer, relu in ((inner, source), (source, None)):
            if layer is None or layer in self.avoid:
                continue
            made = self._weighted(node, layer, relu) or self._other(node, layer, relu)
            if made is not None:
                kernel = self._named(made)
                self.native[layer] = f"runs as {kernel} on {self.target}"
                if relu is not None:
                    self.native[relu], self.fused[relu] = f"runs in {kernel} on {self.target}", layer
                return carry(made, layer, *(() if relu is None else (relu,)))
        return None

    def _relu_of(self, node: fx.Node) -> fx.Node | None:
        """The op whose result this relu takes alone; None when it is no such relu."""
        is_function = node.op == "call_function" and node.target in _RELUS
        if not is_function and type(self._module(node)) is not nn.ReLU:
            return None
        source = node.args[0]
        return source if isinstance(source, fx.Node) and len(source.users) == 1 else None

    def _weighted(self, node: fx.Node, layer: fx.Node, relu: fx.Node | None) -> fx.Node | None:
        """conv, transposed conv or linear on a packed weight."""
        if layer.op != "call_function" or layer.target not in PACKED:
            return None
        x = layer.args[0]
        if not self._is_coded(x) and not self._is_reflected(layer, x):
            return None
        _, op, op_relu = PACKED[layer.target]
        chosen = op if relu is None else op_relu
        packed = None if chosen is None else self._packed(layer)
        if packed is None:
            return None
        codes = self._coded(x) if self._is_coded(x) else self._reflected(x)
        return self.graph.call_function(chosen, (codes, packed, node.args[1], node.args[2]))

    def _is_reflected(self, layer: fx.Node, x: Any) -> bool:
        """Is the input of this 2-d convolution a coded value with a reflected border? That much works on codes."""
        is_pad = isinstance(x, fx.Node) and x.op == "call_function" and x.target is F.pad and x.args[2:] == ("reflect",)
        return layer.target is F.conv2d and is_pad and self._is_coded(x.args[0])

    def _reflected(self, pad: fx.Node) -> fx.Node:
        return adopt(self.graph.call_function(F.pad, (self._coded(pad.args[0]), *pad.args[1:])), pad)

    def _packed(self, layer: fx.Node) -> fx.Node | None:
        """A get_attr of the layer's packed weight; None where the engine refuses it."""
        weight, bias = layer.args[1], layer.args[2]
        held = self._weight(weight)
        if held is None or (isinstance(bias, fx.Node) and bias.op != "get_attr"):
            return None
        name = f"{_attribute(weight.args[0])}_packed"  # type: ignore[union-attr]
        if name not in self.constants:
            pack = PACKED[layer.target][0]  # type: ignore[index]
            try:
                self.constants[name] = pack(held, self._tensor(bias), *layer.args[3:])
            except RuntimeError as error:
                self.refused[layer] = f"{self.target} refuses its weight: {str(error).splitlines()[0]}"
                self.avoid[layer] = self.refused[layer]
                return None
        return self.graph.create_node("get_attr", name)

    def _weight(self, node: Any) -> Tensor | None:
        """The quantized tensor of a dequantized int8 weight; None for anything else."""
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return None
        codes = node.args[0]
        if node.target not in qdq.DEQUANTIZE or not isinstance(codes, fx.Node) or codes.op != "get_attr":
            return None
        values = [self._tensor(argument) for argument in node.args]
        if values[0].dtype is not torch.int8:
            return None
        return quantized_tensor(values[0], values[1], values[2], values[3] if len(values) > 3 else None)

    def _other(self, node: fx.Node, layer: fx.Node, relu: fx.Node | None) -> fx.Node | None:
        """Ops without weights of their own: see the table."""
        scale, zero_point = node.args[1], node.args[2]
        if layer.op == "call_function" and layer.target in BINARY and not layer.kwargs:
            op, op_relu = BINARY[layer.target]
            chosen = op if relu is None else op_relu
            if chosen is None or len(layer.args) != 2 or not all(map(self._is_coded, layer.args)):
                return None
            return self.graph.call_function(chosen, (*map(self._coded, layer.args), scale, zero_point))
        if relu is not None:
            return None
        if layer.op == "call_function" and layer.target is torch.cat:
            return self._cat(layer, scale, zero_point)
        module = self._module(layer)
        if not layer.args or (layer.kwargs and layer.op == "call_module"):
            return None
        if not self._is_coded(layer.args[0]):
            return None
        x = self._coded(layer.args[0])
        if type(module) in OWN_MODULES:
            op, options = OWN_MODULES[type(module)](module)
            return self.graph.call_function(op, (x, *self._held(layer, options), scale, zero_point))
        if type(module) in FIXED_MODULES:
            op, fixed_scale, fixed_zero = FIXED_MODULES[type(module)]
            same = abs(float(scale) - fixed_scale) < 1e-9 and zero_point == fixed_zero  # type: ignore[arg-type]
            return self.graph.call_function(op, (x,)) if same else None
        return self._shared(node, layer)

    def _shared(self, node: fx.Node, layer: fx.Node) -> fx.Node | None:
        """An op that keeps scale and zero point, where the result is quantized with its input's."""
        if not is_shared(layer.op, layer.target, self._module(layer)):
            return None
        if qparams_of(layer.args[0]) != (node.args[1], node.args[2], node.args[5]):
            return None
        others = [source for source in layer.all_input_nodes if source is not layer.args[0]]
        if any(is_activation_dequantize(source) for source in others):
            return None
        inner = {layer.args[0]: self._coded(layer.args[0])}
        return self.graph.node_copy(layer, lambda source: inner.get(source) or self.values[source])

    def _cat(self, layer: fx.Node, scale: Any, zero_point: Any) -> fx.Node | None:
        items, dim = layer.args[0], layer.args[1] if len(layer.args) > 1 else layer.kwargs.get("dim", 0)
        if not isinstance(items, (tuple, list)) or not all(map(self._is_coded, items)):
            return None
        coded = [self._coded(item) for item in items]
        return self.graph.call_function(torch.ops.quantized.cat.default, (coded, dim, scale, zero_point))

    def _held(self, layer: fx.Node, options: tuple[Any, ...]) -> tuple[Any, ...]:
        """Options of a kernel with tensors among them: those become attributes."""
        held = []
        for index, option in enumerate(options):
            if isinstance(option, Tensor):
                name = f"{_attribute(layer)}_{index}"
                self.constants[name] = option.detach()
                option = self.graph.create_node("get_attr", name)
            held.append(option)
        return tuple(held)

    # Float and other values -------------------------------------------------------------------------------------------

    def _value(self, node: fx.Node) -> fx.Node:
        """The value of any other canonical node."""
        if is_activation_dequantize(node):
            source = node.args[0]
            if is_native(source):
                return adopt(self.graph.call_method("dequantize", (self.codes[source],)), node)
            return self.graph.node_copy(node, lambda other: self.codes.get(other) or self.values[other])
        if node.op == "call_method" and node.target in SHAPE_METHODS and self._is_coded(node.args[0]):
            rest = node.args[1:]
            return adopt(self.graph.call_method(str(node.target), (self._coded(node.args[0]), *rest)), node)
        if node.op == "call_function" and node.target is getattr and self._is_coded(node.args[0]):
            return adopt(self.graph.call_function(getattr, (self._coded(node.args[0]), *node.args[1:])), node)
        made = self._dynamic_linear(node) or self._half_linear(node) or self._embedding(node)
        if made is not None:
            self.native[node] = f"runs as {self._named(made)} on {self.target}"
            self.counterpart[made] = node
            return carry(made, node)
        return self.graph.node_copy(node, lambda source: self.values[source])

    def _dynamic_linear(self, node: fx.Node) -> fx.Node | None:
        """linear on an input that is quantized as it comes."""
        if node.op != "call_function" or node.target is not F.linear or node in self.avoid:
            return None
        value = node.args[0]
        codes = value.args[0] if isinstance(value, fx.Node) and value.args else None
        scale = codes.args[1] if isinstance(codes, fx.Node) and len(codes.args) > 1 else None
        qparams = scale.args[0] if isinstance(scale, fx.Node) and scale.target is operator.getitem else None
        if not isinstance(qparams, fx.Node) or qparams.target is not qdq.choose_qparams:
            return None
        packed = self._packed(node)
        if packed is None:
            return None
        x, is_reduced = qparams.args
        arguments = (self.values[x], packed, is_reduced)  # type: ignore[index]
        return self.graph.call_function(torch.ops.quantized.linear_dynamic.default, arguments)

    def _half_linear(self, node: fx.Node) -> fx.Node | None:
        """linear on a weight that is held as float16, where the engine has a kernel for it."""
        if node.op != "call_function" or node.target is not F.linear or self.target not in HALF_ENGINES:
            return None
        if node in self.avoid or held_as(node, self.canonical) != HALF_WEIGHTS:
            return None
        half, bias = node.args[1].args[0], node.args[2]  # type: ignore[union-attr]
        name = f"{_attribute(half)}_packed"
        self.constants[name] = pack_half_linear(self._tensor(half), self._tensor(bias))
        arguments = (self.values[node.args[0]], self.graph.create_node("get_attr", name))  # type: ignore[index]
        return self.graph.call_function(torch.ops.quantized.linear_dynamic_fp16.default, arguments)

    def _embedding(self, node: fx.Node) -> fx.Node | None:
        """A look-up in a table of uint8 rows."""
        if node.op != "call_function" or node.target is not F.embedding or node in self.avoid:
            return None
        table = node.args[1]
        if not isinstance(table, fx.Node) or table.target is not qdq.dequantize_rows:
            return None
        codes, scale, zero_point = (self._tensor(argument) for argument in table.args)
        name = f"{_attribute(table.args[0])}_packed"
        weight = quantized_tensor(codes, scale, zero_point, 0)
        self.constants[name] = torch.ops.quantized.embedding_bag_prepack(weight)
        arguments = (self.graph.create_node("get_attr", name), self.values[node.args[0]])  # type: ignore[index]
        return self.graph.call_function(torch.ops.quantized.embedding_byte.default, arguments)

    def _fold_weights(self) -> None:
        """Dequantized weights that a float op still reads are computed once, now."""
        for node in list(self.graph.nodes):
            if not is_widened_weight(node, self.canonical):
                continue
            name = f"{_attribute(node.all_input_nodes[0])}_float"
            values = [self._tensor(argument) for argument in node.args]
            self.constants[name] = values[0].float() if node.op == "call_method" else node.target(*values)  # type: ignore[operator]
            with self.graph.inserting_before(node):
                folded = adopt(self.graph.create_node("get_attr", name), node)
            node.replace_all_uses_with(folded)
        self._assembled().graph.eliminate_dead_code()

    # Small questions --------------------------------------------------------------------------------------------------

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.canonical.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _is_coded(self, node: Any) -> bool:
        return is_activation_dequantize(node) and is_native(node.args[0])

    def _coded(self, node: Any) -> fx.Node:
        return self.codes[node.args[0]]

    def _tensor(self, argument: Any) -> Any:
        """The value of a get_attr; other arguments as they are."""
        return _get(self.canonical, str(argument.target)) if isinstance(argument, fx.Node) else argument

    def _named(self, made: fx.Node) -> str:
        """What runs, in words: 'quantized.conv2d_relu', 'MaxPool2d on codes'."""
        module = self._module(made)
        if module is not None:
            return f"{type(module).__name__} on codes"
        if isinstance(made.target, torch._ops.OpOverload):
            return made.target._schema.name.replace("::", ".")
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


def _attribute(node: Any) -> str:
    return str(node.target if node.op == "get_attr" else node.name).replace(".", "_")


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
