"""The ledger of a graph on an engine outside torch: what each layer runs as, as the engine says where it does say it.

Without one, a layer counts as int8 when everything that it computes with is codes: its weight is dequantized from int8
and so are its inputs; what has no weight also hands codes on. The rest is float, in the engine's float type.
"""

from __future__ import annotations

import torch
from torch import fx

from fxquant import qdq
from fxquant.errors import LoweringError
from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import origins, part_of, scope, site_of, where
from fxquant.passes._engine_graph import EngineGraph
from fxquant.passes._native_ops import is_shared
from fxquant.passes._pieces import is_plain
from fxquant.passes._weights import INT8_WEIGHTS, held_as
from fxquant.placed import placed_as
from fxquant.plan import HELD_MODES, Decision, Mode
from fxquant.program import Program
from fxquant.values import fetched

INT8 = "int8"


def settle(program: Program, target: str, made: EngineGraph, ledger: Ledger, *, is_strict: bool) -> None:
    """A row for each site. FXQ504, where `is_strict`, for a layer that was to be quantized and stays in torch."""
    for engine in made.engines:
        if engine.told:
            ledger.notice("FXQ519", engine.told)
    for node, kind in _kinds(program, made):
        if placed_as(node) and node not in made.in_torch:
            continue  # its row has the times that it was placed by
        _settle(node, kind, program, target, made.in_torch.get(node, ""), ledger, is_strict=is_strict)
    _settle_gone(program, ledger)


def _kinds(program: Program, made: EngineGraph) -> list[tuple[fx.Node, str]]:
    """One node for each site, or part of one, and what it runs as: one on codes where there is any."""
    told = {name: kind for engine in made.engines for name, kind in engine.rows().items()}
    found: dict[tuple[str, str], tuple[fx.Node, str]] = {}
    for node in program.graph.nodes:
        if not origins(node) or node.op in ("placeholder", "get_attr", "output") or _is_slice(node):
            continue
        kind = FLOAT
        if node not in made.in_torch and not is_plain(node):
            kind = told.get(node.name) or _by_graph(node, program, made.float_type)
        place = site_of(node), part_of(node)
        if place not in found or (kind == INT8 and found[place][1] != INT8):
            found[place] = node, kind
    return list(found.values())


def _is_slice(node: fx.Node) -> bool:
    """A layer's part of the result of one that computes several: that one has the row."""
    return node.target == "narrow" and set(origins(node)) < set(origins(node.args[0]))  # type: ignore[arg-type]


def _settle(
    node: fx.Node, kind: str, program: Program, target: str, stays: str, ledger: Ledger, *, is_strict: bool
) -> None:
    decision = None if program.plan is None else program.plan.of(node)
    is_asked = decision is not None and decision.mode not in (Mode.FLOAT, *HELD_MODES)
    row = ledger.row_of(node)
    if stays and is_asked:
        if is_strict:
            module = row.module if row is not None else scope(node)
            told = f"layer '{module or site_of(node)}' {stays}"
            hint = "leave it out of the mapping, or compile with strict=False"
            raise LoweringError("FXQ504", told, hint=hint, node=site_of(node), module=module, where=where(node))
        ledger.decline("FXQ504", node, why=stays)
    elif stays:
        ledger.settle(node, held_as(node, program.graph_module) or FLOAT, stays)
    elif kind == INT8:
        ledger.settle(node, INT8, f"runs on codes on {target}")
    elif held := held_as(node, program.graph_module):
        _settle_held(node, kind, held, target, ledger, is_asked=is_asked)
    elif is_asked:
        ledger.settle(node, kind, f"{target} computes it in {kind} here", code="FXQ207")
    else:
        ledger.settle(node, kind, _why_float(row.reason if row is not None else "", decision, kind, target))


def _settle_held(node: fx.Node, kind: str, held: str, target: str, ledger: Ledger, *, is_asked: bool) -> None:
    why = f"{target} computes it in {kind}, with the weight widened"
    ledger.settle(node, held, why, code="FXQ207" if is_asked and held == INT8_WEIGHTS else "")


def _why_float(reason: str, decision: Decision | None, kind: str, target: str) -> str:
    why = reason or (decision.why if decision is not None else "") or "no rule asks for it"
    return why if kind == FLOAT else f"{why}; {target} computes it in {kind}"


def _settle_gone(program: Program, ledger: Ledger) -> None:
    """Sites whose nodes are gone, and that no pass has said anything of."""
    alive = {origin for node in program.graph.nodes for origin in origins(node)}
    for row in ledger.layers:
        if row.effective:
            continue
        if row.site in alive:
            ledger.settle_site(row.site, FLOAT, row.reason or "no rule asks for it", module=row.module)
        else:
            ledger.settle_site(row.site, "removed", "nothing reads its result", module=row.module)


def _by_graph(node: fx.Node, program: Program, floats: str) -> str:
    return INT8 if _is_on_codes(node, program.graph_module) else floats


def _is_on_codes(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Is everything that it computes with codes?"""
    held = held_as(node, graph_module)
    if held:
        return held == INT8_WEIGHTS and _has_codes(node.args[0], graph_module)
    sources = [source for source in node.all_input_nodes if _is_float(source, graph_module)]
    if not sources or not node.users or not all(user.target is qdq.quantize_per_tensor for user in node.users):
        return False
    return all(is_dequantized(source) or _is_fused(source, graph_module) for source in sources)


def _is_float(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    if is_plain(node):
        return False
    value = fetched(graph_module, str(node.target)) if node.op == "get_attr" else None
    return node.op != "get_attr" or (isinstance(value, torch.Tensor) and value.is_floating_point())


def _is_fused(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """A layer on codes whose one reader is computed with it."""
    held = held_as(node, graph_module) == INT8_WEIGHTS
    return held and len(node.users) == 1 and _has_codes(node.args[0], graph_module)


def _has_codes(node: object, graph_module: fx.GraphModule) -> bool:
    """The dequantize of an activation, or one whose values were only moved since."""
    while isinstance(node, fx.Node) and not is_dequantized(node):
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not is_shared(node.op, node.target, module):
            return False
        node = node.args[0] if node.args else None
    return isinstance(node, fx.Node)


def is_dequantized(node: object) -> bool:
    """The dequantize of an activation, static or dynamic."""
    if not isinstance(node, fx.Node) or node.target is not qdq.dequantize_per_tensor:
        return False
    return isinstance(node.args[0], fx.Node) and node.args[0].op != "get_attr"
