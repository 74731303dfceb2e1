"""Running the users' handlers: float module → observed → quantized, with every fault told by handler and module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.custom import CustomModule, hand_to, handled_by
from fxquant.errors import PassError
from fxquant.keep_float import keep_float
from fxquant.ledger import Ledger
from fxquant.origin import where
from fxquant.passes._weights import put
from fxquant.program import Program
from fxquant.structure import flatten

Call = tuple[tuple[Any, ...], dict[str, Any]]


def observe(program: Program, given: dict[fx.Node, CustomModule]) -> None:
    """Let each handler put its observed module in the place of the float one."""
    calls, made = example_calls(program, tuple(given)), dict[str, nn.Module]()
    for node, handler in given.items():
        name, decision = str(node.target), program.plan.of(node) if program.plan is not None else None
        if name not in made:
            float_module = program.graph_module.get_submodule(name)
            qconfig = None if decision is None else decision.qconfig
            made[name] = _made(handler, "observe", node, handler.observe, float_module, qconfig)
            _compare(handler, "observe", node, float_module, made[name], calls.get(node))
        keep_float(node, _told(handler))
        hand_to(node, handler)
    for name, module in made.items():
        put(program.graph_module, name, module)


def quantize(program: Program, ledger: Ledger) -> None:
    """Let each handler put its quantized module in the place of the observed one."""
    nodes = [node for node in program.graph.nodes if handled_by(node) is not None]
    calls, made = example_calls(program, nodes), dict[str, nn.Module]()
    for node in nodes:
        handler, name = handled_by(node), str(node.target)
        assert handler is not None
        if name not in made:
            observed = program.graph_module.get_submodule(name)
            made[name] = _made(handler, "quantize", node, handler.quantize, observed)
            _compare(handler, "quantize", node, observed, made[name], calls.get(node))
            put(program.graph_module, name, made[name])
        ledger.settle(node, f"custom ({type(made[name]).__name__})", _told(handler))


def example_calls(program: Program, nodes: Sequence[fx.Node]) -> dict[fx.Node, Call]:
    """What these nodes are called with on the example inputs; empty where none are known."""
    if not nodes or program.example_leaves is None:
        return {}
    recorder = _Recorder(program.graph_module, frozenset(nodes))
    with torch.no_grad():
        recorder.run(*program.example_leaves)
    return recorder.calls


class _Recorder(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, wanted: frozenset[fx.Node]) -> None:
        super().__init__(graph_module)
        self.wanted, self.calls = wanted, dict[fx.Node, Call]()

    def run_node(self, node: fx.Node) -> Any:
        if node in self.wanted:
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            self.calls[node] = tuple(args), dict(kwargs)
        return super().run_node(node)


def _told(handler: CustomModule) -> str:
    return f"your handler for {handler.name} quantizes it"


def _made(
    handler: CustomModule, step: str, node: fx.Node, function: Callable[..., Any] | None, *args: Any
) -> nn.Module:
    assert function is not None
    try:
        made = function(*args)
    except Exception as error:
        raise _fault(handler, step, node, f"raised {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise _fault(handler, step, node, f"gave {type(made).__name__} {made!r:.60}, not an nn.Module")
    return made.eval()


def _compare(
    handler: CustomModule, step: str, node: fx.Node, before: nn.Module, after: nn.Module, call: Call | None
) -> None:
    """The new module's result has the structure, shapes and dtypes of the one before."""
    if call is None:
        return
    args, kwargs = call
    with torch.no_grad():
        expected = _form(before(*args, **kwargs))
        try:
            found = _form(after(*args, **kwargs))
        except Exception as error:
            raise _fault(handler, step, node, f"gave a module that fails: {type(error).__name__}: {error}") from error
    if found != expected:
        raise _fault(handler, step, node, f"gave a module that returns {found}, where {expected} is expected")


def _form(result: Any) -> str:
    leaves, structure = flatten(result)
    told = (f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)
    return str(structure.unflatten(told)).replace("'", "")


def _fault(handler: CustomModule, step: str, node: fx.Node, what: str) -> PassError:
    return PassError(
        "FXQ407",
        f"{step}() of the handler for {handler.name} {what}, at module '{node.target}'",
        hint=f"correct {step}=, or keep the class float: CustomModule.float({handler.name}, 'reason')",
        node=node.name,
        module=str(node.target),
        where=where(node),
    )
