"""convert: observers become quantize → dequantize, weights become int8 constants. The result is the canonical graph.

x → observer → conv(w) → observer → y
x → quantize → dequantize → conv(dequantize(w_codes)) → quantize → dequantize → y
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant import qdq
from fxquant.custom import handled_by
from fxquant.errors import PassError
from fxquant.graphmodule import drop_unused_modules
from fxquant.ledger import Ledger
from fxquant.observation import Observation, QParams, observer_of
from fxquant.origin import adopt, carry, split_last
from fxquant.passes import _embedding, _handlers, _recurrent
from fxquant.passes._canonical import is_activation_dequantize
from fxquant.passes._functional import emit, is_weighted
from fxquant.passes._weights import HALF_WEIGHTS, INT8_WEIGHTS, fetch, store, store_half
from fxquant.passes.insert_observers import OBSERVED
from fxquant.pipeline import Pass
from fxquant.plan import Mode
from fxquant.program import Program, Stage
from fxquant.targets import has_saturation_risk, isa
from fxquant.torch_ao import split_fused

TRAINED = "fxq_trained"  # meta key: a qconfig whose weight observer gives the scales that training used


@dataclass(frozen=True)
class Convert(Pass):
    """observer ⇒ quantize → dequantize; weights ⇒ int8 constants: the canonical graph, plain integers only."""

    name: ClassVar[str] = "convert"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.CALIBRATED})
    yields: ClassVar[Stage] = Stage.CONVERTED

    def run(self, program: Program, ledger: Ledger) -> Program:
        for node in list(program.graph.nodes):
            observation = observer_of(program.graph_module, node)
            if observation is not None:
                _quantize_activation(program, node, observation)
        _handlers.quantize(program, ledger)
        _keep_what_others_read(program)
        for node in [node for node in program.graph.nodes if node.op == "call_module"]:
            _convert_layer(program, node, ledger)
        program.graph.eliminate_dead_code()
        drop_unused_modules(program.graph_module)
        return program.at(Stage.CONVERTED)

    def verify(self, program: Program) -> None:
        left = [str(node.target) for node in program.graph.nodes if observer_of(program.graph_module, node) is not None]
        if left:
            raise PassError("FXQ403", f"observers are left in the canonical graph: {', '.join(left)}", node=left[0])


def _keep_what_others_read(program: Program) -> None:
    """A weight that the graph also reads by itself (`x @ self.fc.weight`) stays float there, under its own name."""
    graph_module = program.graph_module
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_module"}
    for node in program.graph.nodes:
        owner, _, attribute = str(node.target).rpartition(".")
        if node.op != "get_attr" or owner not in called:
            continue
        name = f"_float_{owner}_{attribute}".replace(".", "_")
        if not hasattr(graph_module, name):
            setattr(graph_module, name, getattr(graph_module.get_submodule(owner), attribute))
        node.target = name


def _quantize_activation(program: Program, node: fx.Node, observation: Observation) -> None:
    """x → observer becomes x → quantize → dequantize."""
    graph, source = program.graph, node.all_input_nodes[0]
    qparams = _kept_from(program, source) or observation.qparams()
    limits = qparams.quant_min, qparams.quant_max, qparams.dtype
    with graph.inserting_before(node):
        literals = float(qparams.scale), int(qparams.zero_point)
        codes = graph.call_function(qdq.quantize_per_tensor, (source, *literals, *limits))
        value = graph.call_function(qdq.dequantize_per_tensor, (codes, *literals))
    adopt(codes, node), adopt(value, node)
    node.replace_all_uses_with(value)
    graph.erase_node(node)


KEEPS_VALUES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)


def _kept_from(program: Program, source: fx.Node) -> QParams | None:
    """The input's scale and zero point, for a module that only moves values: codes stay codes."""
    if type(program.module_of(source)) not in KEEPS_VALUES:
        return None
    if not is_activation_dequantize(source.args[0]):
        return None
    _, scale, zero_point, low, high, dtype = source.args[0].args[0].args  # type: ignore[union-attr]
    return QParams(torch.tensor(scale, dtype=torch.float64), torch.tensor(zero_point), dtype, low, high)  # type: ignore[arg-type]


def _convert_layer(program: Program, node: fx.Node, ledger: Ledger) -> None:
    module = program.module_of(node)
    decision = program.plan.of(node) if program.plan is not None else None
    if module is None or decision is None or decision.mode is Mode.FLOAT or handled_by(node) is not None:
        return
    if TRAINED in node.meta:
        decision = replace(decision, qconfig=node.meta[TRAINED])
    base, _ = split_fused(module)
    if _recurrent.is_recurrent(base):
        _recurrent.convert(program, node, decision)
    elif _embedding.is_embedding(base):
        _embedding.convert(program, node, decision)
    elif is_weighted(base):
        _BY_MODE[decision.mode](program, node, decision.qconfig)
    else:
        return
    if decision.mode in _HELD_AS:  # what an engine runs is settled again when it is lowered
        held = _HELD_AS[decision.mode]
        why = f"{program.target} has no kernel for {type(base).__name__} on {held} alone: the weight is widened ahead"
        ledger.settle(node, held, why)


def _static(program: Program, node: fx.Node, qconfig: object) -> None:
    if node.meta.get(OBSERVED):
        _replace(program, node, qconfig, lambda graph, x: x)


def _weight_only(program: Program, node: fx.Node, qconfig: object) -> None:
    _replace(program, node, qconfig, lambda graph, x: x)


def _dynamic(program: Program, node: fx.Node, qconfig: object) -> None:
    is_reduced = program.target in ("x86", "fbgemm") or has_saturation_risk(program.target, isa())

    def quantized_input(graph: fx.Graph, x: fx.Node) -> fx.Node:
        qparams = graph.call_function(qdq.choose_qparams, (x, is_reduced))
        scale, zero_point = (graph.call_function(operator.getitem, (qparams, index)) for index in (0, 1))
        codes = graph.call_function(qdq.quantize_per_tensor, (x, scale, zero_point, 0, 255, torch.uint8))
        value = graph.call_function(qdq.dequantize_per_tensor, (codes, scale, zero_point))
        for made in (qparams, scale, zero_point, codes, value):
            adopt(made, node)
        return value

    _replace(program, node, qconfig, quantized_input)


def _float16(program: Program, node: fx.Node, qconfig: object) -> None:
    """Keep the weight as float16; it is widened when it is used."""
    graph, name = program.graph, str(node.target)
    module, _ = split_fused(program.graph_module.get_submodule(name))
    store_half(program.graph_module, name, module)
    with graph.inserting_before(node):
        half = adopt(graph.get_attr(f"{name}.weight"), node)
        weight = adopt(graph.call_method("to", (half, torch.float32)), node)
        bias = None if getattr(module, "bias", None) is None else adopt(graph.get_attr(f"{name}.bias"), node)
        made = carry(emit(graph, module, node.args[0], weight, bias), node)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _replace(
    program: Program, node: fx.Node, qconfig: object, quantized_input: Callable[[fx.Graph, fx.Node], fx.Node]
) -> None:
    """Put the functional call with an int8 weight in the place of a module call."""
    graph, name = program.graph, str(node.target)
    module, has_relu = split_fused(program.graph_module.get_submodule(name))
    held = store(program.graph_module, name, module.weight, getattr(module, "bias", None), qconfig)  # type: ignore[arg-type]
    with graph.inserting_before(node):
        x = quantized_input(graph, node.args[0])  # type: ignore[arg-type]
        weight, bias = fetch(graph, name, held, node)
        made = carry(emit(graph, module, x, weight, bias), node)
        if has_relu:
            made = split_last(made, carry(graph.call_function(F.relu, (made,)), node))
    node.replace_all_uses_with(made)
    graph.erase_node(node)


_BY_MODE = {Mode.STATIC: _static, Mode.DYNAMIC: _dynamic, Mode.WEIGHT_ONLY: _weight_only, Mode.FLOAT16: _float16}
_HELD_AS = {Mode.WEIGHT_ONLY: INT8_WEIGHTS, Mode.FLOAT16: HALF_WEIGHTS}
