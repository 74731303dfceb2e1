"""insert-observers: execute the plan's static decisions with torch.ao's own prepare, and check that they landed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import fx, nn

from fxquant.errors import BackendError, ContractError
from fxquant.graphmodule import drop_unused_modules
from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.observation import Observation, observer_of
from fxquant.origin import adopt, site_of, where
from fxquant.passes._activation_sites import execute as execute_activation_sites
from fxquant.passes._activation_sites import has_own_site
from fxquant.passes._clamped import narrow
from fxquant.passes._coordinates import positions
from fxquant.passes._landing import may_fall, not_observed
from fxquant.passes._masks import masked_values
from fxquant.passes._pairs import hide_relus, show
from fxquant.passes._scalar_chains import give_own_observers, observers_within
from fxquant.passes._shared_memory import in_shared_memory, read_unobserved
from fxquant.pipeline import Pass
from fxquant.plan import Mode, QuantPlan
from fxquant.program import Program, Stage
from fxquant.torch_ao import Prepared, prepare, quiet

OBSERVED = "fxq_observed"  # meta key: this layer's weight is to be quantized statically


@dataclass(frozen=True)
class InsertObservers(Pass):
    """x → conv → y  ⇒  x → observer → conv → observer → y, for each site that the plan quantizes statically.

    Dynamic, weight-only and float16 sites need no observers and stay as they are until `convert`.
    With `strict`, a decision that did not land is FXQ501 instead of a ledger row.
    """

    name: ClassVar[str] = "insert-observers"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.PLANNED})
    yields: ClassVar[Stage] = Stage.PREPARED

    strict: bool = False

    def run(self, program: Program, ledger: Ledger) -> Program:
        plan = _plan_of(program)
        static = [node for node in program.graph.nodes if plan.mode_of(node) is Mode.STATIC and not is_kept_float(node)]
        shared = in_shared_memory(program.graph_module)
        hidden = hide_relus(program)
        prepared = prepare(program.graph_module, {node.name: plan.of(node).qconfig for node in static})  # type: ignore[union-attr, misc]
        program = replace(program, graph_module=prepared.graph_module, stage=Stage.PREPARED)
        show(program.graph_module, hidden)
        give_own_observers(program.graph_module, lambda node: _observer_for(plan, node))
        _drop_idle_observers(program, prepared)
        read_unobserved(program.graph_module, shared)
        _drop_observers_of_masks(program, ledger)
        _drop_observers_of_positions(program, ledger)
        for node in observers_within(program.graph_module):
            node.replace_all_uses_with(node.all_input_nodes[0])
            program.graph.erase_node(node)
        execute_activation_sites(program, ledger)
        narrow(program)
        drop_unused_modules(program.graph_module)
        for node in program.graph.nodes:
            if observer_of(program.graph_module, node) is not None:
                adopt(node, node.all_input_nodes[0])
            elif node.name in prepared.observed:
                node.meta[OBSERVED] = True
        unlanded: dict[str, str] = {}
        for node in static:
            if not _is_landed(program, node) and not has_own_site(program, node):
                why = f"the engines have no int8 kernel for {_told(program, node)} here, or its inputs stay float"
                self._report(program, node, why, ledger)
                unlanded |= not_observed(program, node, why)
        return replace(program, unlanded=unlanded)

    def _report(self, program: Program, node: fx.Node, why: str, ledger: Ledger) -> None:
        if self.strict and not may_fall(program, node):
            raise BackendError(
                "FXQ501",
                f"'{site_of(node)}' stays float: {why}",
                node=site_of(node),
                where=where(node),
                hint="leave it out of the mapping, or compile with strict=False",
            )
        row = ledger.row_of(node)
        if row is None or not row.code:
            ledger.decline("FXQ209", node, why=why)


def _plan_of(program: Program) -> QuantPlan:
    if program.plan is None:
        raise ContractError("FXQ401", "there is no plan to execute", hint="run select-qconfigs first")
    return program.plan


def _told(program: Program, node: fx.Node) -> str:
    module = program.module_of(node)
    return type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))


def _observer_for(plan: QuantPlan, node: fx.Node) -> nn.Module | None:
    decision = plan.of(node)
    qconfig: Any = None if decision is None else decision.qconfig
    with quiet():
        return None if qconfig is None else qconfig.activation()


def _drop_idle_observers(program: Program, prepared: Prepared) -> None:
    """Observers between sites that all stay float, or of a float type, would only cost time."""
    graph_module = program.graph_module
    for node in list(graph_module.graph.nodes):
        observer = observer_of(graph_module, node)
        if observer is None:
            continue
        neighbours = (*node.all_input_nodes, *node.users)
        is_wanted = any(neighbour.name in prepared.is_configured for neighbour in neighbours)
        if not is_wanted or not observer.is_quantizing or _is_for_weights(observer):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph_module.graph.erase_node(node)
    drop_unused_modules(graph_module)


def _is_for_weights(observer: Observation) -> bool:
    """An observer of a weight that forward() computes: it stays float, there is nothing to pack ahead of a call."""
    return "per_channel" in str(getattr(observer.module, "qscheme", ""))


def _drop_observers_of_masks(program: Program, ledger: Ledger) -> None:
    """Scores with a mask among them go to their softmax in float: no 8-bit range holds both."""
    masked = masked_values(program.graph_module)
    _leave_float(program, ledger, masked, "a mask's large negative values are among its own: no 8-bit range holds both")


def _drop_observers_of_positions(program: Program, ledger: Ledger) -> None:
    """Positions, and boxes made of them, stay float: their range at another size is not known."""
    told = "it counts positions: its range hangs on the size of the input"
    _leave_float(program, ledger, positions(program.graph_module), told)


def _leave_float(program: Program, ledger: Ledger, values: set[fx.Node], why: str) -> None:
    for node in list(program.graph.nodes):
        source = node.all_input_nodes[0] if observer_of(program.graph_module, node) is not None else None
        if source is None or source not in values:
            continue
        if ledger.row_of(source) is not None:
            ledger.decline("FXQ209", source, why=why)
        node.replace_all_uses_with(source)
        program.graph.erase_node(node)


def _is_landed(program: Program, node: fx.Node) -> bool:
    """Is its weight observed, or the value it makes (itself, or through the relu that is fused with it)?"""
    if node.meta.get(OBSERVED) and program.module_of(node) is not None:
        return True
    return any(
        observer_of(program.graph_module, user) is not None
        or any(observer_of(program.graph_module, next_user) is not None for next_user in user.users)
        for user in node.users
    )
