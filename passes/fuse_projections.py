"""fuse-projections: linear layers that read the same codes become one, whose rows are theirs.

    q = x' @ Wq.T + bq,   k = x' @ Wk.T + bk,   v = x' @ Wv.T + bv
    [q | k | v] = x' @ [Wq; Wk; Wv].T + [bq; bk; bv]        and q, k, v are slices of it

Each output has the scale of its own row, so the sums of codes are the same numbers. A dynamic input is quantized once
in place of three times (its range is one tensor's), and an engine is called once. A layer whose result is quantized as
it stands keeps a kernel of its own, which does that on the way out; so does one whose ReLU its kernel computes.

OpenVINO keeps its layers apart where their input has static codes: its kernel for three takes as long as three kernels
do (70 µs, 197 × 384 → 3 × 384), and the slices of its result are copied (23 µs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import qdq
from fxquant.graphmodule import drop_unused_modules
from fxquant.graphs.snapshot import TensorInfo
from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.observation import QParams
from fxquant.origin import adopt, as_part, carry, part_of, site_of
from fxquant.passes._canonical import is_activation_dequantize, is_activation_quantize
from fxquant.passes._moving import moves_values
from fxquant.passes._weights import QuantizedWeight, put
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage
from fxquant.values import fetched, known_value, note_value

_APART_ON_STATIC_CODES = ("openvino",)


@dataclass(frozen=True)
class FuseProjections(Pass):
    """q = linear(x), k = linear(x), v = linear(x)  ⇒  one linear layer of stacked weights, and slices of its result."""

    name: ClassVar[str] = "fuse-projections"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.CONVERTED})

    def run(self, program: Program, ledger: Ledger) -> Program:
        groups: dict[tuple[Any, ...], list[fx.Node]] = {}
        own = _read_once(program.graph_module)
        for node in program.graph.nodes:
            codes = _codes_read_by(node)
            if codes is None or (len(codes) == 1 and program.target in _APART_ON_STATIC_CODES):
                continue
            if _is_stackable(program.graph_module, node, own):
                mode = None if program.plan is None else program.plan.mode_of(node)
                groups.setdefault((*codes, mode, _bias_of(node) is None), []).append(node)
        for layers in groups.values():
            if len(layers) > 1:
                _stack(program.graph_module, layers, ledger)
        program.graph.eliminate_dead_code()
        drop_unused_modules(program.graph_module)
        return program


def _codes_read_by(node: fx.Node) -> tuple[Any, ...] | None:
    """What tells the input codes of a linear layer from all others, one value where they are static; else None."""
    if node.op != "call_function" or node.target is not F.linear or node.kwargs or is_kept_float(node):
        return None
    if is_activation_dequantize(node.args[0]):
        return (node.args[0],)
    quantize = node.args[0].args[0] if _is(node.args[0], qdq.dequantize_per_tensor) else None  # type: ignore[union-attr]
    if not _is(quantize, qdq.quantize_per_tensor):
        return None
    x, scale, _, *limits = quantize.args  # type: ignore[union-attr]
    choice = scale.args[0] if isinstance(scale, fx.Node) and scale.args else None
    if not _is(choice, qdq.choose_qparams) or choice.args[0] is not x:  # type: ignore[union-attr]
        return None
    return (*choice.args, *limits)  # type: ignore[union-attr]


def _is(node: Any, target: object) -> bool:
    return isinstance(node, fx.Node) and node.target is target


def _read_once(graph_module: fx.GraphModule) -> frozenset[fx.Node]:
    """The reads of tensors that nothing else reads, under any name."""
    reads: dict[int, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            reads.setdefault(id(_held(graph_module, node)), []).append(node)
    return frozenset(found[0] for found in reads.values() if len(found) == 1 and len(found[0].users) == 1)


def _is_stackable(graph_module: fx.GraphModule, node: fx.Node, own: frozenset[fx.Node]) -> bool:
    """Rows of int8 codes of its own, and a result that nothing is computed with in the layer's kernel."""
    weight, bias = node.args[1], _bias_of(node)
    if not _is(weight, qdq.dequantize_per_channel) or weight.args[3] != 0 or len(weight.users) != 1:  # type: ignore[union-attr]
        return False
    if not own.issuperset(weight.all_input_nodes) or not (bias is None or bias in own):  # type: ignore[union-attr]
        return False
    codes = _held(graph_module, weight.args[0])  # type: ignore[union-attr]
    return codes.dtype is torch.int8 and codes.dim() == 2 and not any(map(_is_in_kernel, node.users))


def _bias_of(node: fx.Node) -> Any:
    return node.args[2] if len(node.args) > 2 else None


def _is_in_kernel(user: fx.Node) -> bool:
    module = user.graph.owning_module.get_submodule(str(user.target)) if user.op == "call_module" else None  # type: ignore[union-attr]
    return is_activation_quantize(user) or user.target is F.relu or isinstance(module, nn.ReLU)


def _held(graph_module: fx.GraphModule, node: Any) -> Tensor:
    found: Tensor = fetched(graph_module, str(node.target))
    return found


def _stack(graph_module: fx.GraphModule, layers: Sequence[fx.Node], ledger: Ledger) -> None:
    sizes = [_held(graph_module, layer.args[1].args[0]).shape[0] for layer in layers]  # type: ignore[union-attr]
    names = [_name(layer) for layer in layers]
    with graph_module.graph.inserting_before(layers[0]):
        whole = _whole(graph_module, layers, _free_name(graph_module, names))
        _note_width(whole, layers[0], sum(sizes))
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        places = zip(starts, sizes, strict=True)
        parts = [whole.graph.call_method("narrow", (whole, -1, *place)) for place in places]
    _hand_out(whole, layers, parts)
    _say(layers, names, ledger)


def _whole(graph_module: fx.GraphModule, layers: Sequence[fx.Node], name: str) -> fx.Node:
    """The layer that computes all of them, held under this name."""
    graph, first, held = graph_module.graph, layers[0], _stacked(graph_module, layers)
    put(graph_module, name, held)
    codes, scale, zero_point = (
        adopt(graph.get_attr(f"{name}.{part}"), first) for part in ("weight", "weight_scale", "weight_zero_point")
    )
    weight = adopt(graph.call_function(qdq.dequantize_per_channel, (codes, scale, zero_point, 0)), first)
    bias = None if held.bias is None else adopt(graph.get_attr(f"{name}.bias"), first)
    return carry(graph.call_function(F.linear, (first.args[0], weight, bias)), *layers)


def _hand_out(whole: fx.Node, layers: Sequence[fx.Node], parts: Sequence[fx.Node]) -> None:
    """Each layer's readers get its part of the whole, and the layer goes."""
    label = ", ".join(dict.fromkeys(filter(None, map(part_of, layers))))
    if label:
        as_part(whole, label)
    for layer, part in zip(layers, parts, strict=True):
        note_value(carry(part, layer), known_value(layer))
        if label:
            as_part(part, label)
        layer.replace_all_uses_with(part)
        _let_views_copy(part)
        layer.graph.erase_node(layer)


def _stacked(graph_module: fx.GraphModule, layers: Sequence[fx.Node]) -> QuantizedWeight:
    columns = zip(*(layer.args[1].args[:3] for layer in layers), strict=True)  # type: ignore[union-attr]
    codes, scale, zero_point = (torch.cat([_held(graph_module, node) for node in column]) for column in columns)
    biases = [_held(graph_module, bias) for layer in layers if (bias := _bias_of(layer)) is not None]
    qparams = QParams(scale, zero_point, torch.int8, -128, 127, axis=0)
    return QuantizedWeight(codes, qparams, torch.cat(biases) if biases else None)


def _name(layer: fx.Node) -> str:
    return str(layer.args[1].args[0].target).rpartition(".")[0]  # type: ignore[union-attr]


def _free_name(graph_module: fx.GraphModule, names: Sequence[str]) -> str:
    """'block.q' and 'block.k' are 'block.q_k' together; layers of several modules stand at the root."""
    parents = {name.rpartition(".")[0] for name in names}
    parent = parents.pop() if len(parents) == 1 else ""
    last = "_".join(name.rpartition(".")[2] if parent else name.replace(".", "_") for name in names)
    name = f"{parent}.{last}" if parent else last
    while _exists(graph_module, name):
        name += "_"
    return name


def _exists(graph_module: fx.GraphModule, name: str) -> bool:
    parent, _, last = name.rpartition(".")
    return hasattr(graph_module.get_submodule(parent), last)


def _note_width(whole: fx.Node, first: fx.Node, width: int) -> None:
    known = known_value(first)
    if isinstance(known, TensorInfo):
        note_value(whole, TensorInfo(known.dtype, (*known.shape[:-1], width)))


def _let_views_copy(part: fx.Node) -> None:
    """A slice lies in strides of the whole: a view that would merge them has to be a reshape."""
    waiting = [part]
    while waiting:
        for user in waiting.pop().users:
            if moves_values(user):
                user.target = "reshape" if user.op == "call_method" and user.target == "view" else user.target
                waiting.append(user)


def _say(layers: Sequence[fx.Node], names: Sequence[str], ledger: Ledger) -> None:
    if len({site_of(layer) for layer in layers}) == 1:
        told = ", ".join(part_of(layer) or name for layer, name in zip(layers, names, strict=True))
        ledger.remark(layers[0], f"{told} run in one kernel")
        return
    for layer, name in zip(layers, names, strict=True):
        others = ", ".join(f"'{other}'" for other in names if other != name)
        ledger.remark(layer, f"runs in one kernel with {others}")
