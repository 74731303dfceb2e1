"""Executing the plan's decisions about activation sites: an observer is left out, or another takes its place.

    keep float   layer → observer → reader   ⇒  layer → reader
    otherwise    layer → observer → reader   ⇒  layer → observer' → reader

What shares an observer with the site (a flatten after it: the same values, moved) follows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import fx, nn

from fxquant import torch_ao
from fxquant.activation_sites import SiteDecision, code_range
from fxquant.float_observer import FloatObserver
from fxquant.ledger import Ledger
from fxquant.observation import observer_of
from fxquant.observers import MSE, LeastError
from fxquant.origin import origins
from fxquant.passes._functional import is_weighted
from fxquant.passes._moving import KEEPS_VALUES
from fxquant.passes._pairs import is_relu
from fxquant.passes._placing import place
from fxquant.plan import Mode
from fxquant.program import Program
from fxquant.qconfigs import Ask, TensorAsk

_OBSERVERS = {
    "minmax": "MinMaxObserver",
    "histogram": "HistogramObserver",
    "moving-average": "MovingAverageMinMaxObserver",
    "mse": MSE,
}


def execute(program: Program, ledger: Ledger) -> None:
    """Carry out each decision; what none of its rule's sites had is a notice."""
    decisions = () if program.plan is None else program.plan.activations
    idle = {decision.why: decision for decision in decisions}
    for decision in decisions:
        nodes = _at(program, decision)
        is_output = decision.said.site == "output"
        is_done = [(_output if is_output else _input)(program, node, decision, ledger) for node in nodes]
        if any(is_done):
            idle.pop(decision.why, None)
            ledger.remark_site(decision.site, _told(decision))
    for decision in idle.values():
        where = f"the {decision.said.site} of none of its layers"
        ledger.notice("FXQ114", f"{decision.why} changes nothing: {where} would have been quantized")


def has_own_site(program: Program, node: fx.Node) -> bool:
    """Has the plan a decision for an input or output of this very call? Then it may be without observers."""
    decisions = () if program.plan is None else program.plan.activations
    return any(decision.site in origins(node) for decision in decisions)


def _told(decision: SiteDecision) -> str:
    said = decision.said
    if said.keeps_float:
        return f"its {said.site} stays float32, by {decision.why}"
    asked = [f"{said.num_bits} bits"] * bool(said.num_bits) + [text for text in (said.dtype, said.observer) if text]
    return f"its {said.site} is quantized with {', '.join(asked)}, by {decision.why}"


def _at(program: Program, decision: SiteDecision) -> list[fx.Node]:
    """The nodes at the border of a site: most calls are one node, attention is many."""
    own = {node for node in program.graph.nodes if decision.site in origins(node)}
    if decision.said.site == "output":
        ends = [node for node in program.graph.nodes if node in own and not own.issuperset(_readers(program, node))]
        return [_with_relu(program, node) for node in ends]
    return [node for node in program.graph.nodes if node in own and not own.issuperset(_sources(program, node))]


def _with_relu(program: Program, node: fx.Node) -> fx.Node:
    """A ReLU that alone reads a layer belongs to it, fused or not: engines compute both at once."""
    if len(node.users) != 1 or not is_weighted(program.module_of(node)):
        return node
    [reader] = node.users
    return reader if is_relu(program, reader) else node


def _readers(program: Program, node: fx.Node) -> Iterable[fx.Node]:
    for user in node.users:
        yield from user.users if observer_of(program.graph_module, user) is not None else (user,)


def _sources(program: Program, node: fx.Node) -> Iterable[fx.Node]:
    for source in node.all_input_nodes:
        yield from source.all_input_nodes if observer_of(program.graph_module, source) is not None else (source,)


def _output(program: Program, node: fx.Node, decision: SiteDecision, ledger: Ledger) -> bool:
    """Change the observers that read `node`. False where it has none."""
    observers = _observers_of(program, node)
    for observer in observers:
        old = _module(program, observer)
        if decision.said.keeps_float:
            _tell_readers(program, observer, decision, ledger)
            _drop(observer)
            _follow(program, node, old, None)
        else:
            fresh = _made(old, decision)
            program.graph_module.set_submodule(str(observer.target), fresh)
            _follow(program, observer, old, fresh)
    return bool(observers)


def _input(program: Program, node: fx.Node, decision: SiteDecision, ledger: Ledger) -> bool:
    """Change what observes the inputs of `node`, for this reader alone. False where nothing does."""
    observers = [source for source in node.all_input_nodes if observer_of(program.graph_module, source) is not None]
    for observer in observers:
        source, old = observer.all_input_nodes[0], _module(program, observer)
        if decision.said.keeps_float:
            node.replace_input_with(observer, source)
            fresh = None
        else:
            fresh = _made(old, decision)
            name = place(program.graph_module, fresh, scope_name="", stem="activation_site")
            with program.graph.inserting_before(node):
                made = program.graph.call_module(name, (source,))
            node.replace_input_with(observer, made)
        if not observer.users:
            program.graph.erase_node(observer)
        if len(node.all_input_nodes) == 1:
            _renew(program, node, old, fresh)
    return bool(observers)


def _follow(program: Program, start: fx.Node, old: nn.Module, fresh: nn.Module | None) -> None:
    """Ops that read `start` and share its observer get the new one, or none, as well."""
    for reader in list(start.users):
        if len(reader.all_input_nodes) == 1:
            _renew(program, reader, old, fresh)


def _renew(program: Program, node: fx.Node, old: nn.Module, fresh: nn.Module | None) -> None:
    is_moving = type(program.module_of(node)) in KEEPS_VALUES
    for observer in _observers_of(program, node):
        if _module(program, observer) is not old and not is_moving:
            continue
        if fresh is None:
            _drop(observer)
            _follow(program, node, old, None)
        else:
            program.graph_module.set_submodule(str(observer.target), fresh)
            _follow(program, observer, old, fresh)


def _tell_readers(program: Program, observer: fx.Node, decision: SiteDecision, ledger: Ledger) -> None:
    """A static layer that reads a value kept float has no codes to compute on."""
    for reader in observer.users:
        if program.plan is not None and program.plan.mode_of(reader) is Mode.STATIC:
            ledger.remark(reader, f"its input stays float32, by {decision.why}")


def _observers_of(program: Program, node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if observer_of(program.graph_module, user) is not None]


def _module(program: Program, observer: fx.Node) -> nn.Module:
    return program.graph_module.get_submodule(str(observer.target))


def _drop(observer: fx.Node) -> None:
    observer.replace_all_uses_with(observer.all_input_nodes[0])
    observer.graph.erase_node(observer)


def _made(old: nn.Module, decision: SiteDecision) -> nn.Module:
    """An observer like the one that stands there, but for what the rule says."""
    said, ask = decision.said, torch_ao.ask_of(old)
    if ask.is_fixed:  # to the range of its op: with other codes it has to look
        ask = TensorAsk(ask.dtype, observer="MinMaxObserver")
    dtype = {"uint8": "quint8", "int8": "qint8"}.get(said.dtype, ask.dtype)
    if said.num_bits or dtype != ask.dtype:
        low, high = code_range(dtype, said.num_bits or 8)
        ask = replace(ask, dtype=dtype, quant_min=low, quant_max=high)
    ask = replace(ask, observer=_OBSERVERS.get(said.observer, ask.observer))
    with torch_ao.quiet():
        factory: Any = torch_ao.make_qconfig(Ask(ask, TensorAsk())).activation  # type: ignore[attr-defined]
        return _like(old, factory)


def _like(old: nn.Module, factory: Any) -> nn.Module:
    """What the factory makes; a fake quantize around it where one stands there, as in training."""
    made: nn.Module = factory()
    if isinstance(factory, LeastError):
        return made  # training puts its own quantizer in the place of any observer
    if not hasattr(old, "activation_post_process") or isinstance(old, FloatObserver):
        return made
    is_same = type(old.activation_post_process) is type(made)  # fused kinds of fake quantize take one observer alone
    kind: Any = type(old) if is_same else next(k for k in type(old).__mro__ if k.__name__ == "FakeQuantize")
    fake: nn.Module = kind(observer=factory.p.func, **factory.p.keywords)
    return fake
