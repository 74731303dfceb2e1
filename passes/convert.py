"""convert: observers become quantize → dequantize, weights become int8 constants. The result is the canonical graph.

x → observer → conv(w) → observer → y
x → quantize → dequantize → conv(dequantize(w_codes)) → quantize → dequantize → y
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import fx

from fxquant import qdq
from fxquant.custom import handled_by
from fxquant.errors import PassError
from fxquant.float_formats import FloatFormat, choose_float_scale, simulate_float
from fxquant.float_observer import float_range
from fxquant.floors import REMEDY, bitten_channels, floor_of
from fxquant.graphmodule import drop_unused_modules
from fxquant.ledger import Ledger
from fxquant.observation import Observation, QParams, observer_of
from fxquant.observers import format_of
from fxquant.origin import adopt, carry, split_last
from fxquant.passes import _embedding, _handlers, _recurrent, _simulated
from fxquant.passes._canonical import is_activation_dequantize
from fxquant.passes._clamped import NARROWED
from fxquant.passes._functional import emit, is_weighted
from fxquant.passes._held import own_ask
from fxquant.passes._moving import KEEPS_VALUES
from fxquant.passes._ties import share_codes, tied_layers
from fxquant.passes._weights import INT8_WEIGHTS, QuantizedWeight, fetch, store, store_half
from fxquant.passes.insert_observers import OBSERVED
from fxquant.pipeline import Pass
from fxquant.plan import HELD_MODES, Decision, Mode
from fxquant.program import Program, Stage
from fxquant.targets import has_saturation_risk, isa
from fxquant.torch_ao import read_qconfig, split_fused
from fxquant.values import fetched

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
        ties = tied_layers(program.graph_module)
        for node in [node for node in program.graph.nodes if node.op == "call_module"]:
            _convert_layer(program, node, ledger)
        _simulated.settle(program, ledger)
        share_codes(program.graph_module, ties, ledger)
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
    """x → observer becomes x → quantize → dequantize; before a clamp that it stands for as well, too."""
    graph, source = program.graph, node.all_input_nodes[0]
    watched = float_range(observation.module)
    if watched is not None:
        scale, fmt = watched
        with graph.inserting_before(node):
            value = graph.call_function(simulate_float, (source, scale, fmt.exponent_bits, fmt.mantissa_bits))
        node.replace_all_uses_with(adopt(value, node))
        graph.erase_node(node)
        return
    qparams = _kept_from(program, source) or observation.qparams()
    if NARROWED in source.meta:
        [unclamped] = source.all_input_nodes
        source.replace_input_with(unclamped, _rounded(unclamped, qparams, before=source, like=unclamped))
    node.replace_all_uses_with(_rounded(source, qparams, before=node, like=node))
    graph.erase_node(node)


def _rounded(value: fx.Node, qparams: QParams, *, before: fx.Node, like: fx.Node) -> fx.Node:
    """value → quantize → dequantize, with the line and scope of `like`."""
    graph, literals = before.graph, (float(qparams.scale), int(qparams.zero_point))
    limits = qparams.quant_min, qparams.quant_max, qparams.dtype
    with graph.inserting_before(before):
        codes = graph.call_function(qdq.quantize_per_tensor, (value, *literals, *limits))
        rounded = graph.call_function(qdq.dequantize_per_tensor, (codes, *literals))
    adopt(codes, like), adopt(rounded, like)
    return rounded


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
        _tell_of_floor(program, str(node.target), base.weight, decision.qconfig, ledger)  # type: ignore[arg-type]
    else:
        return
    if decision.mode in HELD_MODES:  # what an engine runs is settled again when it is lowered
        held = _held_as(decision)
        why = f"{program.target} has no kernel for {type(base).__name__} on {held} alone: the weight is widened ahead"
        ledger.settle(node, held, why)


def _tell_of_floor(program: Program, name: str, weight: torch.Tensor, qconfig: Any, ledger: Ledger) -> None:
    """FXQ322 for a weight whose values are so small that the observer's eps is wider than their step."""
    held = fetched(program.graph_module, name)
    floor = floor_of(qconfig.weight()) if isinstance(held, QuantizedWeight) else None
    if floor is None:
        return
    count = bitten_channels(weight, held.weight_scale, held.axis, floor)
    if count:
        told = f"the weight of '{name}' has {count} channel{'s'[: count != 1]} with values below its observer's"
        ledger.notice("FXQ322", f"{told} eps={floor:.3g}: codes are lost", module=name, hint=REMEDY)


def _held_as(decision: Decision) -> str:
    """How the weights of a decision are stored, in the ledger's words."""
    if decision.mode is not Mode.WEIGHT_ONLY:
        return f"{decision.mode} weights"
    ask = own_ask(decision.qconfig)
    return INT8_WEIGHTS if ask is None else f"{ask.dtype} weights"


def _static(program: Program, node: fx.Node, qconfig: object) -> None:
    if node.meta.get(OBSERVED):
        _replace(program, node, qconfig, lambda graph, x: x)


def _weight_only(program: Program, node: fx.Node, qconfig: object) -> None:
    _replace(program, node, qconfig, lambda graph, x: x)


def _dynamic(program: Program, node: fx.Node, qconfig: object) -> None:
    is_reduced = program.engine in ("x86", "fbgemm") or has_saturation_risk(program.engine, isa())
    decision = program.plan.of(node) if program.plan is not None else None
    planned = qconfig if decision is None else decision.qconfig  # training has a quantizer of weights in its place
    asked = read_qconfig(planned, f"the plan, for '{node.target}'").activation
    fmt, bits = format_of(asked), asked.num_bits

    def simulated_input(graph: fx.Graph, x: fx.Node, fmt: FloatFormat) -> fx.Node:
        scale = adopt(graph.call_function(choose_float_scale, (x, fmt.exponent_bits, fmt.mantissa_bits)), node)
        value = graph.call_function(simulate_float, (x, scale, fmt.exponent_bits, fmt.mantissa_bits))
        return adopt(value, node)

    def quantized_input(graph: fx.Graph, x: fx.Node) -> fx.Node:
        if fmt is not None:
            return simulated_input(graph, x, fmt)
        given = (x, is_reduced) if bits == 8 else (x, False, bits)
        qparams = graph.call_function(qdq.choose_qparams, given)
        scale, zero_point = (graph.call_function(operator.getitem, (qparams, index)) for index in (0, 1))
        codes = graph.call_function(qdq.quantize_per_tensor, (x, scale, zero_point, 0, (1 << bits) - 1, torch.uint8))
        value = graph.call_function(qdq.dequantize_per_tensor, (codes, scale, zero_point))
        for made in (qparams, scale, zero_point, codes, value):
            adopt(made, node)
        return value

    _replace(program, node, qconfig, quantized_input)


def _half(program: Program, node: fx.Node, dtype: torch.dtype) -> None:
    """Keep the weight as 16-bit floats; it is widened when it is used."""
    graph, name = program.graph, str(node.target)
    module, _ = split_fused(program.graph_module.get_submodule(name))
    held = store_half(program.graph_module, name, module, dtype)
    with graph.inserting_before(node):
        made = carry(emit(graph, module, node.args[0], *fetch(graph, name, held, node)), node)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _float16(program: Program, node: fx.Node, qconfig: object) -> None:
    _half(program, node, torch.float16)


def _bfloat16(program: Program, node: fx.Node, qconfig: object) -> None:
    _half(program, node, torch.bfloat16)


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


_BY_MODE = {
    Mode.STATIC: _static,
    Mode.DYNAMIC: _dynamic,
    Mode.WEIGHT_ONLY: _weight_only,
    Mode.FLOAT16: _float16,
    Mode.BFLOAT16: _bfloat16,
}
