"""lower-native: the canonical graph on torch's own engines (x86, onednn, fbgemm, qnnpack).

    quantize → dequantize → conv(dequantize(codes)) → relu → quantize → dequantize
    quantize_per_tensor → quantized.conv2d_relu(packed) → dequantize

What an engine has no kernel for stays float between a dequantize and a quantize. Each lowered op is held to the
canonical graph: fed the same input, its codes may differ by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import fx

from fxquant.errors import LoweringError, ParityError
from fxquant.graphs.snapshot import TensorInfo
from fxquant.keep_float import BY_DECISION, is_kept_float
from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import origins, part_of, site_of, where
from fxquant.passes._canonical import grid_of
from fxquant.passes._landing import may_fall, not_lowered
from fxquant.passes._native_graph import Lowered, NativeGraph
from fxquant.passes._native_ops import is_shared
from fxquant.passes._parity import Mismatch, mismatches
from fxquant.passes._unsigned import shift
from fxquant.passes._weights import INT8_WEIGHTS, held_as
from fxquant.pipeline import Pass
from fxquant.placed import placed_as
from fxquant.plan import HELD_MODES, Mode
from fxquant.priming import pack_anew
from fxquant.program import Finding, Program, Stage
from fxquant.torch_ao import engine, quiet
from fxquant.values import known_value, note_value

QUANTIZED = {"uint8": "quint8", "int8": "qint8"}  # dtype of codes → of the quantized tensor that holds them


@dataclass(frozen=True)
class LowerNative(Pass):
    """dequantize → conv → relu → quantize  ⇒  quantized.conv2d_relu on packed weights; each op checked for parity.

    A layer that the engine refuses (FXQ504) or computes differently (FXQ505) stays float with that row; with `strict`
    it is an error. `check` leaves the parity check out when False.
    """

    name: ClassVar[str] = "lower-native"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.CONVERTED})
    yields: ClassVar[Stage] = Stage.LOWERED

    strict: bool = False
    check: bool = True

    def run(self, program: Program, ledger: Ledger) -> Program:
        shift(program.graph, program.target)
        unlowered = ledger.state()
        refused, found = decided_float(program), _known(program)
        refused.update(_told(found))
        with engine(program.target), quiet():
            lowered = NativeGraph(program.graph_module, program.target, dict(refused)).build()
            fresh = self._mismatches(program, lowered)
            if fresh:
                found, refused = (*found, *fresh), refused | _told(fresh)
                lowered = NativeGraph(program.graph_module, program.target, refused).build()
            elif self.check:
                pack_anew(lowered.graph_module, program.target)
        self._settle(program, lowered, found, ledger)
        _note_values(lowered)
        return replace(
            program,
            graph_module=lowered.graph_module,
            canonical=program.graph_module,
            stage=Stage.LOWERED,
            unlowered=unlowered,
            findings=tuple(_finding(mismatch) for mismatch in found),
            unlanded=not_lowered(program, lowered.native, {**lowered.refused, **_told(found)}),
        )

    def _mismatches(self, program: Program, lowered: Lowered) -> tuple[Mismatch, ...]:
        if not self.check or program.example_leaves is None:
            return ()
        return mismatches(program.graph_module, lowered, program.example_leaves, program.target)

    def _settle(self, program: Program, lowered: Lowered, found: tuple[Mismatch, ...], ledger: Ledger) -> None:
        for node, why in lowered.native.items():
            if placed_as(node):
                continue  # its row has the times that it was placed by
            ledger.settle(node, _runs_as(program, node), why)
        for node, why in lowered.refused.items():
            if self.strict and not may_fall(program, node):
                raise LoweringError(
                    "FXQ504",
                    f"layer '{_named(node, ledger)}' stays float: {why}",
                    hint="leave it out of the mapping, or compile with strict=False",
                    **_place(node, ledger),
                )
            ledger.decline("FXQ504", node, why=why)
        for mismatch in found:
            first = mismatch.layers[0]
            if self.strict and not may_fall(program, first):
                told = f"layer '{_named(first, ledger)}': {mismatch}"
                raise ParityError("FXQ505", told, hint=mismatch.hint, **_place(first, ledger))
            for layer in mismatch.layers:
                ledger.decline("FXQ505", layer, why=str(mismatch), hint=mismatch.hint)
        _settle_rest(program, ledger)


def _runs_as(program: Program, node: fx.Node) -> str:
    """What a layer that a kernel runs is called: by its weights, where these alone are narrow."""
    mode = Mode.STATIC if program.plan is None else program.plan.mode_of(node)
    held = held_as(node, program.graph_module) if mode in HELD_MODES else ""
    is_on_codes = held == INT8_WEIGHTS and node.target in (F.embedding, F.embedding_bag)
    return "int8" if not held or is_on_codes else held


def _told(found: tuple[Mismatch, ...]) -> dict[fx.Node, str]:
    return {layer: str(mismatch) for mismatch in found for layer in mismatch.layers}


def _finding(mismatch: Mismatch) -> Finding:
    return Finding(tuple(layer.name for layer in mismatch.layers), mismatch.steps, mismatch.target)


def _known(program: Program) -> tuple[Mismatch, ...]:
    """What an earlier check found on this engine, for a program that comes without an example to check it on."""
    nodes = {node.name: node for node in program.graph.nodes}
    return tuple(
        Mismatch(tuple(nodes[name] for name in finding.nodes), finding.steps, finding.target)
        for finding in program.findings
        if finding.target == program.target and all(name in nodes for name in finding.nodes)
    )


def _note_values(lowered: Lowered) -> None:
    """A kernel gives what its canonical node gives, codes as a quantized tensor: no meta kernel could tell."""
    for node, canonical in lowered.counterpart.items():
        value = known_value(canonical)
        grid = grid_of(canonical)  # of a float value that the engine has as codes
        if isinstance(value, TensorInfo):
            dtype = value.dtype if grid is None else str(grid[-1]).removeprefix("torch.")
            value = TensorInfo(QUANTIZED.get(dtype, dtype), value.shape)
        note_value(node, value)


def decided_float(program: Program) -> dict[fx.Node, str]:
    """Layers that stay float by decision among quantized ones; what only moves values may still run on codes."""
    found: dict[fx.Node, str] = {}
    for node in program.graph.nodes:
        decision = None if program.plan is None else program.plan.of(node)
        is_float = decision is not None and decision.mode is Mode.FLOAT
        if is_kept_float(node) or (is_float and not is_shared(node.op, node.target, program.module_of(node))):
            found[node] = BY_DECISION
    return found


def _settle_parts(program: Program, ledger: Ledger) -> None:
    """Parts of sites that no pass has settled stay float."""
    for node in program.graph.nodes:
        if not part_of(node) or node.op in ("get_attr", "placeholder", "output") or ledger.is_settled(node):
            continue
        is_static = program.plan is not None and program.plan.mode_of(node) is Mode.STATIC
        why = f"{program.target} has no int8 kernel for it here" if is_static else "it has no weight to quantize"
        ledger.settle(node, FLOAT, why)


def _named(node: fx.Node, ledger: Ledger) -> str:
    row = ledger.row_of(node)
    return site_of(node) if row is None or not row.module else row.module


def _place(node: fx.Node, ledger: Ledger) -> dict[str, Any]:
    return {"node": site_of(node), "module": _named(node, ledger), "where": where(node)}


def _settle_rest(program: Program, ledger: Ledger) -> None:
    """Rows that no pass has settled: what the plan left float, and what was asked and has no kernel."""
    _settle_parts(program, ledger)
    plan = program.plan
    alive = {origin for node in program.graph.nodes for origin in origins(node)}
    held = {site_of(node): told for node in program.graph.nodes if (told := held_as(node, program.graph_module))}
    fed_float = _fed_float(program)
    for row in ledger.layers:
        if row.effective:
            continue
        decision = None if plan is None else plan.get(row.site)
        if row.site not in alive:
            ledger.settle_site(row.site, "removed", "nothing reads its result", module=row.module)
        elif decision is None or decision.mode is Mode.FLOAT:
            ledger.settle_site(row.site, FLOAT, row.reason or "no rule asks for it", module=row.module)
        elif decision.mode in HELD_MODES and row.site in held:
            kind = held[row.site].removesuffix(" weights")
            why = f"{program.target} has no kernel for {row.op} on {kind} weights alone: the weight is widened ahead"
            ledger.settle_site(row.site, held[row.site], why, module=row.module)
        elif row.site in held:
            why = f"{program.target} has no int8 kernel for {row.op} here: it is computed in float32"
            ledger.settle_site(row.site, held[row.site], why, module=row.module, code="FXQ207")
        else:
            why = f"{program.target} has no int8 kernel for {row.op} here"
            why = "its input stays float32" if row.site in fed_float else why
            ledger.settle_site(row.site, FLOAT, why, module=row.module, code="FXQ207")


def _fed_float(program: Program) -> frozenset[str]:
    """Sites of ops that engines have on codes, whose input is no quantized value."""
    return frozenset(
        site_of(node)
        for node in program.graph.nodes
        if is_shared(node.op, node.target, program.module_of(node))
        and not any(grid_of(source) is not None for source in node.all_input_nodes)
    )
