"""Which layers of a fallback chain did not come to run as their link says: sites, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import fx

from fxquant.passes._canonical import grid_of
from fxquant.passes._functional import is_weighted
from fxquant.passes._native_recurrent import KERNELS
from fxquant.passes._weights import INT8_WEIGHTS, held_as
from fxquant.placed import placed_as
from fxquant.plan import Mode
from fxquant.program import Program
from fxquant.torch_ao import split_fused

_COMPUTED = (Mode.STATIC, Mode.DYNAMIC)  # modes that need a kernel; the others only hold their weights


def may_fall(program: Program, node: fx.Node) -> bool:
    """Is there another link for this site, should this one fail? Never in a loaded program."""
    return program.plan is not None and program.plan.may_fall(node)


def not_observed(program: Program, node: fx.Node, why: str) -> dict[str, str]:
    """A node without observers, if another link may serve it: only layers with weights have other modes."""
    module = program.module_of(node)
    if module is None or not is_weighted(split_fused(module)[0]) or not may_fall(program, node):
        return {}
    return {program.plan.of(node).site: why}  # type: ignore[union-attr]  # may_fall looked


def not_lowered(program: Program, native: Mapping[fx.Node, str], refused: Mapping[fx.Node, str]) -> dict[str, str]:
    """Sites of canonical layers that no kernel computes, though their link asks for one and there are others.

    `refused` has the reasons that are known, of the engine or of the parity check.
    """
    found: dict[str, str] = {}
    for node in program.graph.nodes:
        decision = None if program.plan is None else program.plan.of(node)
        if decision is None or not decision.fallbacks or decision.mode not in _COMPUTED or node in native:
            continue
        if placed_as(node):  # it could run as its link says, and is faster in float
            continue
        if held_as(node, program.graph_module) == INT8_WEIGHTS or node.target in KERNELS:
            found.setdefault(decision.site, refused.get(node) or _without_kernel(program, node, decision.op))
    return found


def _without_kernel(program: Program, node: fx.Node, op: str) -> str:
    if program.plan is not None and program.plan.mode_of(node) is Mode.STATIC:
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and source.target is F.pad:  # of a convolution that pads otherwise than by zeros
            source = source.args[0]
        if grid_of(source) is None:
            return "its input stays float32"
    return f"{program.target} has no int8 kernel for {op} here"
