"""What forward() does in training mode only. The graph was captured in eval; a second capture says what differs.

`F.dropout(x, p, self.training)` is off in the captured graph. Where that is all that differs it becomes an nn.Dropout,
which follows train() and eval(); anything else is told, since QAT trains what eval mode computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from fxquant.capture import capture
from fxquant.errors import FxQuantError
from fxquant.ledger import Ledger
from fxquant.origin import carry, site_of, where
from fxquant.program import Program
from fxquant.request import CaptureRequest
from fxquant.trainable import TrainableModel
from fxquant.training.recurrent_layer import QATRecurrent

OFF = "FXQ233"

_MODULES: dict[Callable[..., Any], type[nn.Module]] = {
    F.dropout: nn.Dropout,
    torch.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    torch.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
_HIDING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.LSTM, nn.GRU)


def revive(program: Program, request: CaptureRequest, ledger: Ledger) -> None:
    """Make functional dropout live where that is sound; tell where training mode does something else (FXQ233).

    `request` is a capture of a fork of the same model; the fork is put into training mode.
    """
    if isinstance(request.model, TrainableModel):
        for node in program.graph.nodes:
            if _is_off(node):
                ledger.notice(OFF, f"{_place(node)}: dropout is off in training: the model was captured in eval mode")
        return
    try:
        training = capture(replace(request, model=request.model.train()), Ledger())
    except FxQuantError as error:
        why = f"in training mode forward() cannot be captured ({error.code}): what trains is what eval mode computes"
        ledger.notice(OFF, why)
        return
    pairs, odd = _paired(program.graph, training.graph)
    if odd is not None:
        why = "forward() does something else in training mode: what trains is what eval mode computes"
        ledger.notice(
            OFF, f"{_place(odd)}: {why}", hint="use nn.Dropout modules, or a forward() that is the same in both"
        )
        return
    for node, other in pairs:
        if _is_off(node) and not _is_off(other):
            _make_live(program, node, other)


def _place(node: fx.Node) -> str:
    line = where(node)
    return f"'{site_of(node)}'" + (f" at {str(line).splitlines()[0]}" if line is not None else "")


def _paired(graph: fx.Graph, other: fx.Graph) -> tuple[list[tuple[fx.Node, fx.Node]], fx.Node | None]:
    """Nodes in pairs, and the first that has no equal, where the graphs differ in more than dropout."""
    nodes, others = list(graph.nodes), list(other.nodes)
    pairs: dict[fx.Node, fx.Node] = {}
    for node, twin in zip(nodes, others, strict=False):
        if not _is_same(node, twin, pairs):
            return [], node
        pairs[node] = twin
    if len(nodes) != len(others):
        return [], nodes[min(len(nodes), len(others)) - 1]
    return list(pairs.items()), None


def _is_same(node: fx.Node, twin: fx.Node, pairs: Mapping[fx.Node, fx.Node]) -> bool:
    if (node.op, node.target) != (twin.op, twin.target):
        return False
    if node.target in _MODULES:
        return pairs.get(node.all_input_nodes[0]) is twin.all_input_nodes[0] and _chance(node) == _chance(twin)
    mapped = fx.map_arg((node.args, node.kwargs), pairs.get)
    return repr(mapped) == repr((twin.args, twin.kwargs))  # nodes by name, constants by value


def _chance(node: fx.Node) -> Any:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)


def _is_off(node: fx.Node) -> bool:
    """A functional dropout that does nothing because of the mode."""
    if node.op != "call_function" or node.target not in _MODULES or not _chance(node):
        return False
    flags = (*node.args[2:3], *(node.kwargs[name] for name in ("training", "train") if name in node.kwargs))
    return flags == (False,)


def _make_live(program: Program, node: fx.Node, other: fx.Node) -> None:
    name = f"_live_{node.name}"
    program.graph_module.add_submodule(name, _MODULES[node.target](float(_chance(other))).eval())  # type: ignore[index]
    with program.graph.inserting_after(node):
        made = program.graph.call_module(name, (node.all_input_nodes[0],))
    carry(made, node)
    node.replace_all_uses_with(made)
    program.graph.erase_node(node)


# Dropout inside torch's own layers ----------------------------------------------------------------------------------


def hidden_dropout(program: Program) -> dict[str, nn.Module]:
    """Calls of layers that drop inside while they train."""
    found: dict[str, nn.Module] = {}
    for node in program.graph.nodes:
        module = program.module_of(node)
        if isinstance(module, _HIDING) and any(_drops(part) for part in module.modules()):
            found[str(node.target)] = module
    return found


def _drops(module: nn.Module) -> bool:
    if isinstance(module, (nn.LSTM, nn.GRU)):
        return module.dropout > 0 and module.num_layers > 1
    chance = module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0.0)
    return isinstance(chance, float) and chance > 0


def tell_hidden(before: Mapping[str, nn.Module], program: Program, ledger: Ledger) -> None:
    """A notice for each that was written out, and so lost its dropout."""
    modules = dict(program.graph_module.named_modules())
    for name, module in before.items():
        now = modules.get(name)
        if type(now) is not type(module) or isinstance(now, QATRecurrent):
            told = (
                f"the dropout inside '{name}' ({type(module).__name__}) is off in training: its parts are written out"
            )
            ledger.notice(OFF, told, module=name)
