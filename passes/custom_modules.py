"""custom-modules: each leaf that is more than one op gets its fate: written out, dynamic, rows, a handler's, or float.

attn (MultiheadAttention) → attn.q_proj, attn.k_proj, attn.v_proj → float core → attn.out_proj
lstm, static asked        → lstm, dynamic           table, static asked → table, int8 rows
mine (with a handler)     → handler.observe(mine)   theirs (without)    → float, FXQ208
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxquant.custom import CustomModule, handled_by, handler_for
from fxquant.errors import UnknownTargetError, UnsupportedOpError, did_you_mean
from fxquant.graphmodule import drop_unused_modules
from fxquant.keep_float import is_kept_float, keep_float, kept_because
from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import part_of, site_of, where
from fxquant.passes import _attention, _embedding, _encoder, _handlers, _norm, _recurrent
from fxquant.passes._fate import Fate
from fxquant.passes._functional import WEIGHTED
from fxquant.passes._native_ops import FIXED_MODULES, OWN_MODULES, SHARED_MODULES
from fxquant.passes._weights import put
from fxquant.pipeline import Pass
from fxquant.plan import Decision, Mode, QuantPlan
from fxquant.program import Program, Stage
from fxquant.rounds import tell
from fxquant.torch_ao import is_observer, split_fused

CODE = "FXQ208"
REGISTER = "register a handler: compile(..., custom_modules=[CustomModule({name}, observe=..., quantize=...)])"
_KNOWN = (*WEIGHTED, *SHARED_MODULES, *OWN_MODULES, *FIXED_MODULES)


@dataclass(frozen=True)
class CustomModules(Pass):
    """Decide what becomes of recurrent layers, embeddings, attention, norms, and modules of the user's own.

    Attention and torch's encoder layers are written out as nodes of which the Linear ones can be quantized. What else
    changes is the plan: a site that cannot have what was asked gets the nearest thing, and its row says so.
    With `strict`, a site that stays float against the plan (FXQ208) is an error.
    """

    name: ClassVar[str] = "custom-modules"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    handlers: tuple[CustomModule, ...] | None = None
    strict: bool = False

    def run(self, program: Program, ledger: Ledger) -> Program:
        handlers = tuple(self.handlers or ())
        _check_all_occur(program, handlers)
        _write_out_all(program, ledger)
        if program.plan is None:
            return program
        _hand_over(program, handlers, ledger)
        program = replace(program, plan=_with_fates(program, program.plan, ledger))
        _settle_cores(program, ledger)
        if self.strict:
            _refuse_declined(program, ledger)
        return program


def _leaves(program: Program) -> Iterator[tuple[fx.Node, nn.Module]]:
    """The modules that the graph calls, in its order."""
    for node in program.graph.nodes:
        module = program.module_of(node)
        if module is not None and not is_observer(module):
            yield node, module


def _mode(program: Program, node: fx.Node) -> Mode | None:
    """What the plan says of a node; None where there is no plan yet."""
    return None if program.plan is None else program.plan.mode_of(node)


# Handlers -----------------------------------------------------------------------------------------------------------


def _check_all_occur(program: Program, handlers: tuple[CustomModule, ...]) -> None:
    """FXQ110 for a handler whose class no call in the graph has."""
    leaves = list(_leaves(program))
    for handler in handlers:
        used = any(isinstance(module, handler.float_type) or handled_by(node) == handler for node, module in leaves)
        if not used:
            known = sorted({type(module).__name__ for _, module in leaves})
            raise UnknownTargetError(
                "FXQ110",
                f"no module of the graph is a {handler.name}, for which there is a handler",
                hint=f"{did_you_mean(handler.name, known)} A class that is traced into must be in leaf_modules=",
                module=handler.name,
            )


def _hand_over(program: Program, handlers: tuple[CustomModule, ...], ledger: Ledger) -> None:
    """Give the handlers their modules, where the plan asks for anything but float."""
    given: dict[fx.Node, CustomModule] = {}
    for node, module in list(_leaves(program)):
        handler = handler_for(module, handlers)
        if handler is None or handled_by(node) is not None or is_kept_float(node):
            continue
        if handler.observe is None:
            keep_float(node, handler.reason)
            ledger.settle(node, FLOAT, handler.reason, code="" if _mode(program, node) is Mode.FLOAT else CODE)
        elif _mode(program, node) is not Mode.FLOAT:
            given[node] = handler
    _handlers.observe(program, given)


# Writing out --------------------------------------------------------------------------------------------------------


def _write_out_all(program: Program, ledger: Ledger) -> None:
    """Encoders first, then their layers, then every attention."""
    waiting = [node for node, module in _leaves(program) if type(module) in _encoder.ENCODERS]
    while waiting:
        node = waiting.pop()
        module = program.module_of(node)
        if type(module) in _encoder.ENCODERS and _may(program, node, _encoder.refusal(module, node), ledger):  # type: ignore[arg-type]
            told = _encoder.remark(module, node)  # type: ignore[arg-type]
            if told is not None:
                ledger.remark(node, told)
            waiting.extend(_encoder.write_out(program.graph_module, node))
    held: dict[str, _attention.Projections] = {}
    for node, module in list(_leaves(program)):
        if type(module) is nn.MultiheadAttention and _may(program, node, _attention.refusal(module, node), ledger):
            name = str(node.target)
            if name not in held:
                held[name] = _attention.Projections(module)
                put(program.graph_module, name, held[name])
            _attention.write_out(program.graph, node, held[name])
    if held:
        program.graph.eliminate_dead_code()
        drop_unused_modules(program.graph_module)


def _may(program: Program, node: fx.Node, refusal: str | None, ledger: Ledger) -> bool:
    """Shall this call be written out? Not where it stays float anyway."""
    if _mode(program, node) is Mode.FLOAT or is_kept_float(node):
        return False
    if refusal is not None and program.plan is not None:
        keep_float(node, refusal)
        ledger.decline(CODE, node, why=refusal)
    return refusal is None


def _settle_cores(program: Program, ledger: Ledger) -> None:
    """The rows of the float parts between projections."""
    for node in program.graph.nodes:
        if part_of(node) and is_kept_float(node) and not ledger.is_settled(node):
            ledger.settle(node, FLOAT, _attention.CORE if "attention" in part_of(node) else _encoder.NO_KERNEL)


def _refuse_declined(program: Program, ledger: Ledger) -> None:
    """FXQ208 as an error, for the first site that stays float although something else was asked."""
    for node in program.graph.nodes:
        row = ledger.row_of(node) if is_kept_float(node) else None
        if row is not None and row.code == CODE:
            raise UnsupportedOpError(
                CODE,
                f"module '{row.module}' ({row.op}) stays float: {row.reason}",
                hint=row.hint or "ask for it to be float, or leave strict out",
                node=node.name,
                module=row.module,
                where=where(node),
            )


# Fates --------------------------------------------------------------------------------------------------------------


def _with_fates(program: Program, plan: QuantPlan, ledger: Ledger) -> QuantPlan:
    """The plan, with each site that cannot have what was asked given what it can."""
    changed: dict[str, Decision] = {}
    for node, module in _leaves(program):
        decision = plan.of(node)
        if decision is None or decision.mode is Mode.FLOAT or handled_by(node) is not None:
            continue
        if decision.fallbacks and not part_of(node):
            given, decision = decision, _fallen(node, module, decision)
            if decision is not given:
                changed[decision.site] = decision
                tell(decision, ledger)
            if decision.mode is Mode.FLOAT:
                continue
        fate = Fate(Mode.FLOAT, "") if is_kept_float(node) else _fate(node, module, decision)
        if fate is None:
            continue
        if fate.mode is not Mode.FLOAT:
            ledger.remark(node, fate.why)
        elif not is_kept_float(node):
            keep_float(node, fate.why)
            own = not type(module).__module__.startswith("torch.")
            ledger.decline(CODE, node, why=fate.why, hint=REGISTER.format(name=type(module).__name__) if own else "")
        if not part_of(node) or decision.site != site_of(node):  # a part has a decision of its own, or shares one
            qconfig = None if fate.mode is Mode.FLOAT else fate.qconfig or decision.qconfig
            why = f"{decision.why}; {fate.why}" if fate.why else decision.why
            changed[decision.site] = replace(decision, mode=fate.mode, qconfig=qconfig, why=why)
    return plan.with_decisions(changed) if changed else plan


def _fallen(node: fx.Node, module: nn.Module, decision: Decision) -> Decision:
    """The first link of its chain that this leaf can have as it is; the last one where it can have none."""
    while decision.fallbacks and decision.mode is not Mode.FLOAT:
        kept = kept_because(node)
        fate = Fate(Mode.FLOAT, kept) if is_kept_float(node) else _fate(node, module, decision)
        if fate is None:
            break
        decision = decision.fall(fate.why)
    return decision


def _fate(node: fx.Node, module: nn.Module, decision: Decision) -> Fate | None:
    """What a leaf gets where it is not what was asked; None where it is."""
    layer, _ = split_fused(module)
    if isinstance(layer, _recurrent.RECURRENT):
        return _recurrent.fate(layer, node, decision)
    if isinstance(layer, _embedding.EMBEDDINGS):
        return _embedding.fate(layer, decision)
    if type(layer) in _norm.NORMS:
        return _norm.fate(layer)
    if type(layer) in _KNOWN or isinstance(layer, _BatchNorm):
        return None
    name = type(layer).__name__
    if type(layer).__module__.startswith("torch."):
        return Fate(Mode.FLOAT, f"no engine has an int8 kernel for {name}")
    return Fate(Mode.FLOAT, f"{name} is a module of your own that nobody handles")
