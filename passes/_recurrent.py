"""What becomes of recurrent layers, and their canonical form: `fxquant.recurrent` on dequantized weights.

Weights are codes (or 16-bit floats) under the layer's name, one child for each matrix: `lstm.ih_l0.weight`, ...
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from fxquant import recurrent
from fxquant.origin import carry
from fxquant.packing import is_packed
from fxquant.passes._fate import Fate
from fxquant.passes._held import HALF_MODES, HalfWeight, own_ask
from fxquant.passes._tuples import substitute
from fxquant.passes._weights import fetch, held_weight, put
from fxquant.plan import Decision, Mode
from fxquant.program import Program
from fxquant.torch_ao import read_qconfig

LAYERS: dict[type[nn.Module], Callable[..., Any]] = {nn.LSTM: recurrent.lstm, nn.GRU: recurrent.gru}
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
RECURRENT = (*LAYERS, *CELLS)


def is_recurrent(module: nn.Module | None) -> bool:
    """Is this a recurrent layer that has a canonical form (or had one made)?"""
    return type(module) in RECURRENT or isinstance(module, RecurrentWeights)


def fate(module: nn.Module, node: fx.Node, decision: Decision) -> Fate | None:
    """Dynamic for a static request; float where the kernels cannot compute it."""
    name = type(module).__name__
    if getattr(module, "proj_size", 0):
        return Fate(
            Mode.FLOAT, f"the engines' {name} kernel has no projections, this one has proj_size={module.proj_size}"
        )
    given = _arguments(module, node)["input"]
    if not isinstance(given, fx.Node) or is_packed(given):
        return Fate(Mode.FLOAT, f"its input is a PackedSequence, which the canonical {name} does not take")
    if decision.mode not in (Mode.STATIC, Mode.DYNAMIC):
        return None
    activation = read_qconfig(decision.qconfig, name).activation
    if activation.is_simulated or activation.num_bits < 8:
        return Fate(
            Mode.FLOAT, f"the canonical {name} quantizes activations to 8 bits, the qconfig asks for {activation}"
        )
    if own_ask(decision.qconfig) is not None:
        return (
            Fate(Mode.DYNAMIC, f"there is no static {name}: its activations are quantized as they come")
            if decision.mode is Mode.STATIC
            else None
        )
    weight_dtype = _weight_dtype(decision.qconfig)
    if weight_dtype is not torch.qint8:
        return Fate(Mode.FLOAT, f"the engines' {name} kernel takes qint8 weights, the qconfig asks for {weight_dtype}")
    if decision.mode is Mode.STATIC:
        return Fate(Mode.DYNAMIC, f"the engines have no static {name} kernel: int8 weights, activations as they come")
    return None


def _weight_dtype(qconfig: Any) -> torch.dtype | None:
    found: torch.dtype | None = getattr(qconfig.weight(), "dtype", None)
    return found


class RecurrentWeights(nn.Module):
    """Stands at a recurrent layer's name and holds its weights; it is never called.

    Children: `ih_l0`, `hh_l0`, `ih_l0_reverse`, ... of a layer, `ih` and `hh` of a cell.
    """

    def __init__(self, module: nn.Module, decision: Decision) -> None:
        """Weights as the decision's mode and its qconfig's weight observer have them."""
        super().__init__()
        self.kind, self.op, self.options = type(module), *_canonical(module)
        self.cells = _cells(module)
        for cell in self.cells:
            for half in ("ih", "hh"):
                weight, bias = getattr(module, f"weight_{half}{cell}"), getattr(module, f"bias_{half}{cell}", None)
                self.add_module(
                    f"{half}{cell}", _held(weight.detach(), bias, _of_weight(decision, f"weight_{half}{cell}"))
                )

    def forward(self) -> None:
        """Not called: the graph fetches the buffers."""
        raise NotImplementedError("the graph fetches this module's buffers")


def _of_weight(decision: Decision, name: str) -> Decision:
    """The decision for one weight: what training made of it has a quantizer for each."""
    of = getattr(decision.qconfig, "of", None)
    return decision if of is None else replace(decision, qconfig=of(name))


def _held(weight: torch.Tensor, bias: torch.Tensor | None, decision: Decision) -> nn.Module:
    if decision.mode in HALF_MODES:
        return HalfWeight(weight, bias, HALF_MODES[decision.mode])
    return held_weight(weight, bias, decision.qconfig)


def _canonical(module: nn.Module) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The canonical op of a layer, and its options after the weights."""
    match module:
        case nn.LSTM() | nn.GRU():
            return LAYERS[type(module)], (module.num_layers, module.bidirectional, module.batch_first)
        case nn.LSTMCell():
            return recurrent.lstm_cell, ()
        case nn.GRUCell():
            return recurrent.gru_cell, ()
        case nn.RNNCell():
            return recurrent.rnn_tanh_cell if module.nonlinearity == "tanh" else recurrent.rnn_relu_cell, ()
    raise TypeError(type(module).__name__)


def canonical_of(module: nn.Module, target: str) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[str, ...], bool]:
    """(op, its options, cells, is the dynamic range reduced) of a recurrent layer on an engine."""
    return (*_canonical(module), _cells(module), _is_reduced(target, is_cell=isinstance(module, CELLS)))


def _cells(module: nn.Module) -> tuple[str, ...]:
    """The suffixes of a module's weights, in the order the kernels take them."""
    if not isinstance(module, (nn.LSTM, nn.GRU)):
        return ("",)
    directions = ("", "_reverse") if module.bidirectional else ("",)
    return tuple(f"_l{layer}{direction}" for layer in range(module.num_layers) for direction in directions)


def _arguments(module: nn.Module | type[nn.Module], node: fx.Node) -> dict[str, Any]:
    kind = module if isinstance(module, type) else type(module)
    bound = inspect.signature(kind.forward).bind(None, *node.args, **node.kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def convert(program: Program, node: fx.Node, decision: Decision) -> None:
    """Put the canonical op in the place of a recurrent layer's call."""
    graph, name = program.graph, str(node.target)
    module = program.graph_module.get_submodule(name)
    is_dynamic = decision.mode is Mode.DYNAMIC
    held = module
    if not isinstance(held, RecurrentWeights):
        held = RecurrentWeights(module, decision)
        put(program.graph_module, name, held)
    arguments = _arguments(held.kind, node)
    is_reduced = is_dynamic and _is_reduced(program.engine, is_cell=held.kind in CELLS)
    with graph.inserting_before(node):
        weights = tuple(part for cell in held.cells for part in _fetched(graph, name, held, cell, node))
        options = (*held.options, is_dynamic, is_reduced)
        made = carry(graph.call_function(held.op, (arguments["input"], arguments["hx"], weights, *options)), node)
        value = _shaped(graph, made, held.kind)
    substitute(graph, node, value, made)


def _is_reduced(target: str, *, is_cell: bool) -> bool:
    """The engines' cells always ask for 7 bits; qnnpack always gives 8. Layers: as `convert` does for Linear."""
    return target in (("x86", "fbgemm", "onednn") if is_cell else ("x86", "fbgemm"))


def _fetched(graph: fx.Graph, name: str, held: RecurrentWeights, cell: str, like: fx.Node) -> tuple[Any, ...]:
    """(w_ih, w_hh, b_ih, b_hh) of one cell."""
    pairs = [fetch(graph, f"{name}.{half}{cell}", getattr(held, f"{half}{cell}"), like) for half in ("ih", "hh")]
    return (*(weight for weight, _ in pairs), *(bias for _, bias in pairs))


def _shaped(graph: fx.Graph, made: fx.Node, kind: type[nn.Module]) -> Any:
    """What the module returned, of the canonical op's flat result."""

    def item(index: int) -> fx.Node:
        return carry(graph.call_function(operator.getitem, (made, index)), made)

    if kind is nn.LSTM:
        return item(0), (item(1), item(2))
    return (item(0), item(1)) if kind in (nn.GRU, nn.LSTMCell) else made
