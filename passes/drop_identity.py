"""drop-identity: calls that give their input back unchanged are taken out of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import torch
from torch import fx, nn
from torch.nn import functional

from fxquant.casts import why_needless
from fxquant.eager_mode import why_placeless
from fxquant.errors import PassError
from fxquant.ledger import Ledger
from fxquant.origin import site_of
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage

REMOVED = "removed"

# The parameters after the input, as each is called: where p and the training flag stand.
_DROPOUT_FUNCTIONS: dict[Callable[..., Any], tuple[str, ...]] = {
    functional.dropout: ("p", "training"),
    functional.dropout1d: ("p", "training"),
    functional.dropout2d: ("p", "training"),
    functional.dropout3d: ("p", "training"),
    functional.alpha_dropout: ("p", "training"),
    functional.feature_alpha_dropout: ("p", "training"),
    torch.dropout: ("p", "train"),
    torch.dropout_: ("p", "train"),
    torch.alpha_dropout: ("p", "train"),
    torch.alpha_dropout_: ("p", "train"),
    torch.feature_dropout: ("p", "train"),
    torch.feature_dropout_: ("p", "train"),
    torch.feature_alpha_dropout: ("p", "train"),
    torch.feature_alpha_dropout_: ("p", "train"),
}
_TRAINING_BY_DEFAULT = frozenset({functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d})


@dataclass(frozen=True)
class DropIdentity(Pass):
    """Identity, dropout in eval, an empty Sequential and detach leave the graph; their readers read their input.

        y = conv(x); z = dropout(y); return relu(z)   →   y = conv(x); return relu(y)

    A dropout that forward() keeps on (training=True) stays, and the ledger says so.
    """

    name: ClassVar[str] = "drop-identity"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    keep_dropout: bool = False  # modules stay, for what trains on

    def run(self, program: Program, ledger: Ledger) -> Program:
        dropped: list[str] = []
        for node in list(program.graph.nodes):
            module = program.module_of(node)
            reason, source = self._why(node, module), _input(node)
            if reason and source is not None:
                ledger.settle(node, REMOVED, reason)
                node.replace_all_uses_with(source)  # exact for aliases too: the call gave back its input's storage
                program.graph.erase_node(node)
                dropped += [str(node.target)] if module is not None else []
            elif _is_dropout_on(node, module):
                _tell_random(node, ledger)
        called = {str(node.target) for node in program.graph.nodes if node.op == "call_module"}
        for name in dict.fromkeys(dropped):
            if name not in called:
                program.graph_module.delete_submodule(name)
        return program

    def _why(self, node: fx.Node, module: nn.Module | None) -> str:
        return "" if self.keep_dropout and is_dropout(module) and module.p else why_identity(node, module)

    def verify(self, program: Program) -> None:
        left = [node for node in program.graph.nodes if self._why(node, program.module_of(node)) and _input(node)]
        if left:
            raise PassError("FXQ403", f"'{left[0].name}' gives its input back and is still there", node=left[0].name)


def is_dropout(module: nn.Module | None) -> TypeGuard[nn.modules.dropout._DropoutNd]:
    """Is this one of torch's own dropout modules?"""
    return isinstance(module, nn.modules.dropout._DropoutNd) and type(module).__module__ == "torch.nn.modules.dropout"


def _input(node: fx.Node) -> fx.Node | None:
    given = node.args[0] if node.args else node.kwargs.get("input")
    return given if isinstance(given, fx.Node) else None


def why_identity(node: fx.Node, module: nn.Module | None) -> str:
    """Why the call changes nothing; empty when it may."""
    if module is not None:
        return why_placeless(str(node.target), module) or _why_module(module)
    is_detached = (node.op == "call_method" and node.target == "detach") or node.target is torch.detach
    if is_detached or (node.target is getattr and node.args[1] == "data"):
        return "it only matters to autograd, which inference does not use"
    if node.op != "call_function" or node.target not in _DROPOUT_FUNCTIONS:
        return why_needless(node)
    chance, training = _dropout_arguments(node)
    if training is False:
        return "dropout does nothing in eval mode"
    return "its probability is 0" if chance == 0 else ""


def _why_module(module: nn.Module) -> str:
    if type(module) is nn.Identity:
        return "it gives its input back"
    if is_dropout(module):
        return "" if module.training and module.p else "dropout does nothing in eval mode"
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and not len(module):
        return "an empty Sequential gives its input back"
    return ""


def _dropout_arguments(node: fx.Node) -> tuple[Any, Any]:
    """(p, training) as the call has them, with the defaults of the function."""
    function: Any = node.target
    names = _DROPOUT_FUNCTIONS[function]
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    default = function in _TRAINING_BY_DEFAULT
    return given.get("p", 0.5), given.get(names[1], default)


def _is_dropout_on(node: fx.Node, module: nn.Module | None) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.training and module.p > 0
    return node.op == "call_function" and node.target in _DROPOUT_FUNCTIONS


def _tell_random(node: fx.Node, ledger: Ledger) -> None:
    reason = "dropout is on whatever the model's mode: it stays, and the output stays random"
    hint = "say training=self.training where it says training=True"
    ledger.decline("FXQ216", node, why=reason, hint=hint)
    ledger.notice("FXQ216", f"{site_of(node)}: {reason}", hint=hint)
