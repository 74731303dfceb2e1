"""The canonical graph in a form that torch.export takes: its quantize and dequantize as ops of the dispatcher.

quantize_per_tensor(x, s, z, 0, 255, uint8)   ⇒   fxquant::quantize(x, s, z, 0, 255, uint8)
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.export import ExportedProgram

from fxquant import aliasing, float_formats, groups, qdq
from fxquant.engines import forms, ops
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.silence import silence
from fxquant.engines.ties import normalize_ties
from fxquant.engines.widening import widen_placed
from fxquant.errors import in_one_line
from fxquant.graphmodule import copied
from fxquant.graphs.snapshot import TensorInfo
from fxquant.packing import is_packed
from fxquant.values import fetched, known_value, note_value

_NODE = "fxq_canonical"  # within meta['custom'], which torch's tracers carry along


def exported(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, is_dynamic: bool = False) -> ExportedProgram:
    """The graph through torch.export, on inputs like `leaves`. EngineRefusal where it does not go through.

    With `is_dynamic`, every size that the graph does not fix is open. `canonical_name` tells where a node came from.
    """
    walked = _Walked(exportable(canonical))
    if not is_dynamic:
        return _traced(walked, leaves, None)
    shapes = (tuple(dict.fromkeys(range(leaf.dim()), torch.export.Dim.AUTO) for leaf in leaves),)
    try:
        return _traced(walked, _several(leaves), shapes)
    except EngineRefusal:
        if {leaf.shape[0] for leaf in leaves if leaf.dim()} <= {1}:
            raise
    return _traced(walked, leaves, shapes)  # a size of one may have been meant beside another


def _traced(walked: _Walked, leaves: tuple[Tensor, ...], shapes: Any) -> ExportedProgram:
    try:
        with silence(), torch.no_grad():
            return torch.export.export(walked.as_module(), leaves, dynamic_shapes=shapes)
    except EngineRefusal:
        raise
    except Exception as error:  # of any kind: what torch.export raises of its own is of no common class
        raise EngineRefusal(f"torch.export does not take it: {in_one_line(error)}", walked.at) from error


def _several(leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Two rows where one is given: torch.export takes a size of one for a constant."""
    return tuple(torch.cat((leaf, leaf)) if leaf.dim() and leaf.shape[0] == 1 else leaf for leaf in leaves)


class _Walked(fx.Interpreter):
    """Runs the graph node by node, so that torch.export notes each node's name; remembers where it stopped."""

    at = ""

    def run_node(self, n: fx.Node) -> Any:
        """As fx has it."""
        self.at = canonical_name(n)
        try:
            return super().run_node(n)
        except Exception as error:  # of any kind: tracers raise theirs, and the user's leaves run here
            raise EngineRefusal(f"torch.export does not take it: {in_one_line(error)}", self.at) from error

    def as_module(self) -> fx.GraphModule:
        """The graph module, its forward being this walk."""
        made, walk = self.module, self.run
        assert isinstance(made, fx.GraphModule)
        type(made).forward = lambda _, *leaves: walk(*leaves)  # its class is its own
        return made


def canonical_name(node: fx.Node) -> str:
    """The canonical node that an exported one came from; '' where it is not known."""
    found: str = node.meta.get("custom", {}).get(_NODE, "")
    return found


def exportable(canonical: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph on ops of the dispatcher; the given one stays as it is. EngineRefusal where there is none."""
    made = copied(canonical)
    widen_placed(made)
    normalize_ties(made)
    _set_apart(made)
    for node in made.graph.nodes:
        node.meta["custom"] = {_NODE: node.name}
    for node in list(made.graph.nodes):
        if node.op == "call_function" and node.target in _WRITTEN:
            _WRITTEN[node.target](made, node)
        elif node.op == "call_module" and is_recurrent(made, node):
            _float_layer(made, node)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


def _set_apart(graph_module: fx.GraphModule) -> None:
    """The model's own tensor 'mean' ⇒ 'mean_held': torch.export takes it for the result of the op of that name."""
    held = {str(node.target): getattr(graph_module, str(node.target), None) for node in _reads(graph_module)}
    apart = {name: f"{name}_held" for name, value in held.items() if isinstance(value, Tensor) and _is_of_op(name)}
    for name, new in apart.items():
        delattr(graph_module, name)
        graph_module.register_buffer(new, held[name])
    for node in _reads(graph_module):
        node.target = apart.get(str(node.target), node.target)


def _reads(graph_module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph_module.graph.nodes if node.op == "get_attr"]


def _is_of_op(name: str) -> bool:
    return hasattr(torch.ops.aten, re.sub(r"_\d+$", "", name.lower()))


def is_recurrent(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """A layer over a whole sequence, quantized or float."""
    if node.op == "call_module":
        return type(graph_module.get_submodule(str(node.target))) in forms.MODULES
    return node.op == "call_function" and node.target in forms.LAYERS


def _quantize(graph_module: fx.GraphModule, node: Any) -> None:
    is_chosen = any(isinstance(argument, fx.Node) for argument in node.args[1:])
    node.target = ops.QUANTIZE_BY if is_chosen else ops.QUANTIZE


def _dequantize(graph_module: fx.GraphModule, node: Any) -> None:
    codes, *qparams = node.args
    known = [_literal(graph_module, argument) for argument in qparams]
    if all(value is not None for value in known):
        node.target, node.args = ops.DEQUANTIZE, (codes, float(known[0]), int(known[1]))
    else:
        node.target = ops.DEQUANTIZE_BY


def _dequantize_channels(graph_module: fx.GraphModule, node: Any) -> None:
    node.target = ops.DEQUANTIZE_CHANNELS


def _choose_qparams(graph_module: fx.GraphModule, node: Any) -> None:
    if len(node.args) > 2 and node.args[2] != 8:
        raise EngineRefusal(f"activations of {node.args[2]} bits are for simulation: no engine has them", node.name)
    node.target = ops.CHOOSE_QPARAMS


def _dequantize_groups(graph_module: fx.GraphModule, node: Any) -> None:
    """Packed codes ⇒ one code a byte, which the op reads: exporters pack them again in their own way."""
    packed, scale, zero_point, block_size, shape = node.args
    steps = fetched(graph_module, str(scale.target)).to(torch.float32)
    codes = groups.unpack(fetched(graph_module, str(packed.target)), math.prod(shape[1:]))
    middle = torch.full_like(steps, groups.MIDDLE, dtype=torch.uint8)
    zeros = middle if zero_point is None else fetched(graph_module, str(zero_point.target))
    graph, constants = graph_module.graph, []
    with graph.inserting_before(node):
        for label, tensor in (("weight", codes), ("scale", steps), ("zero_point", zeros)):
            name = f"_blocks_{node.name}_{label}"
            graph_module.register_buffer(name, tensor)
            constants.append(_like(graph.get_attr(name), node))
        rows = _like(graph.call_function(ops.DEQUANTIZE_BLOCKS, (*constants, block_size)), node)
        value = rows if len(shape) == 2 else _like(graph.call_method("reshape", (rows, shape)), node)
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _dequantize_floats(graph_module: fx.GraphModule, node: Any) -> None:
    """Codes of small floats ⇒ the float32 weight: no engine has the formats, and decoding them is work."""
    known: Any = [fetched(graph_module, str(a.target)) if isinstance(a, fx.Node) else a for a in node.args]
    name = f"_floats_{node.name}"
    graph_module.register_buffer(name, float_formats.dequantize_floats(*known))
    with graph_module.graph.inserting_before(node):
        value = _like(graph_module.graph.get_attr(name), node)
    node.replace_all_uses_with(value)
    graph_module.graph.erase_node(node)


def _layer(graph_module: fx.GraphModule, node: Any) -> None:
    node.target, node.args = forms.LAYERS[node.target], node.args[:6]


def _float_layer(graph_module: fx.GraphModule, node: Any) -> None:
    """A float nn.LSTM or nn.GRU ⇒ its op: torch.export would fix the length."""
    name = str(node.target)
    module: Any = graph_module.get_submodule(name)
    bound = inspect.signature(type(module).forward).bind(module, *node.args, **node.kwargs)
    bound.apply_defaults()
    if module.proj_size or is_packed(bound.arguments["input"]):
        return
    with graph_module.graph.inserting_before(node):
        weights = [_like(graph_module.graph.get_attr(f"{name}.{one}"), node) for one in module._flat_weights_names]
        form: Any = forms.MODULES[type(module)]
        given = bound.arguments["input"], bound.arguments["hx"], weights
        options = module.num_layers, module.bidirectional, module.batch_first
        made = _like(graph_module.graph.call_function(form, (*given, *options)), node)
    node.replace_all_uses_with(made)
    graph_module.graph.erase_node(node)


def _cell(graph_module: fx.GraphModule, node: Any) -> None:
    node.args = (*node.args[:3], False, False)  # as with float16 weights: its inputs are not quantized


def _embedding(graph_module: fx.GraphModule, node: Any) -> None:
    """embedding(i, dequantize_rows(codes)) ⇒ dequantize_rows(embedding(i, codes))."""
    table = node.args[1]
    if isinstance(table, fx.Node) and table.target is qdq.dequantize_rows:
        node.target, node.args, node.kwargs = forms.look_up, (node.args[0], *table.args), {}


def _memory(graph_module: fx.GraphModule, node: Any) -> None:
    told = "keeps a buffer's new value for the next call" if node.target is aliasing.store else "writes through a view"
    raise EngineRefusal(f"it {told}, and an engine's graph has no state and no views", node.name)


def _write(graph_module: fx.GraphModule, node: Any) -> None:
    """v = y[i]; rewritten(v, value, (y, v))   ⇒   y1 = with_item(y, i, value), v1 = y1[i]; refused for other views."""
    view, value, members = node.args
    if not _is_plain_view(view) or any(member not in (view, view.args[0]) for member in members):
        _memory(graph_module, node)
    base, index = view.args
    with graph_module.graph.inserting_before(node):
        new = _like(graph_module.graph.call_function(aliasing.with_item, (base, index, value)), node)
        item = _like(graph_module.graph.call_function(operator.getitem, (new, index)), node)
    note_value(new, known_value(base))
    note_value(item, known_value(view))
    for user in list(node.users):
        user.replace_all_uses_with(item if members[user.args[1]] is view else new)


def _is_plain_view(node: Any) -> bool:
    """An index of a tensor that copies nothing: numbers, slices of numbers, None and '...'."""
    if node.target is not operator.getitem or not isinstance(known_value(node.args[0]), TensorInfo):
        return False
    parts = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    ends = [(part.start, part.stop, part.step) if isinstance(part, slice) else (part,) for part in parts]
    return all(end is None or end is ... or type(end) is int for several in ends for end in several)


def _like(made: fx.Node, node: fx.Node) -> fx.Node:
    made.meta["custom"] = node.meta["custom"]
    return made


def _literal(graph_module: fx.GraphModule, argument: object) -> Any:
    """The number behind an argument: itself, or of a constant with one element; None where it is computed."""
    if not isinstance(argument, fx.Node):
        return argument
    value = fetched(graph_module, str(argument.target)) if argument.op == "get_attr" else None
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else None


_WRITTEN: dict[Any, Callable[[fx.GraphModule, fx.Node], None]] = {
    qdq.quantize_per_tensor: _quantize,
    qdq.dequantize_per_tensor: _dequantize,
    qdq.dequantize_per_channel: _dequantize_channels,
    qdq.choose_qparams: _choose_qparams,
    groups.dequantize_groups: _dequantize_groups,
    float_formats.dequantize_floats: _dequantize_floats,
    F.embedding: _embedding,
    aliasing.store: _memory,
    aliasing.rewritten: _write,
    **dict.fromkeys(forms.LAYERS, _layer),
    **dict.fromkeys(forms.CELLS, _cell),
}
