"""The pass fuse: a layer and the ReLU after it become one unit, for one kernel with one output range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn
from torch.nn import functional as F

from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.origin import carry
from fxquant.passes._placing import replace_at, sweep
from fxquant.passes._survey import Survey
from fxquant.pipeline import Pass
from fxquant.plan import Mode
from fxquant.program import Program, Stage
from fxquant.torch_ao import fused_with_relu


@dataclass(frozen=True)
class Fuse(Pass):
    """conv → relu → …  ⇒  conv+relu → …   Only where the ReLU alone reads the layer, and both are quantized alike."""

    name: ClassVar[str] = "fuse"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    def run(self, program: Program, ledger: Ledger) -> Program:
        survey, fused = Survey(program), []
        for node in [node for node in program.graph.nodes if _is_relu(program, node)]:
            before = node.all_input_nodes[0]
            layer = program.module_of(before)
            if layer is None or not _is_alone(before, survey) or not _is_alike(program, before, node):
                continue
            unit = fused_with_relu(layer)
            if unit is not None:
                if node.op == "call_module":
                    fused.append(str(node.target))
                _fuse_at(program, before, node, unit, ledger)
        sweep(program.graph_module, fused)
        return program


def _fuse_at(program: Program, before: fx.Node, relu: fx.Node, unit: nn.Module, ledger: Ledger) -> None:
    replace_at(program.graph_module, str(before.target), unit)
    ledger.settle(relu, f"fused into {before.target}", f"one kernel computes '{before.target}' and its ReLU")
    carry(before, before, relu)
    relu.replace_all_uses_with(before)
    program.graph.erase_node(relu)


def _is_relu(program: Program, node: fx.Node) -> bool:
    return type(program.module_of(node)) is nn.ReLU or (
        node.op in ("call_function", "call_method") and node.target in (F.relu, torch.relu, "relu")
    )


def _is_alone(before: fx.Node, survey: Survey) -> bool:
    """The layer is called once, and feeds nothing but the ReLU; nobody reads its weight past it."""
    name = str(before.target)
    return len(before.users) == 1 and survey.calls[name] == 1 and not survey.is_read_directly(name)


def _is_alike(program: Program, before: fx.Node, relu: fx.Node) -> bool:
    if is_kept_float(before) or is_kept_float(relu):
        return False
    if program.plan is None:
        return True
    layer, after = program.plan.of(before), program.plan.of(relu)
    if layer is None or after is None or layer.mode is not Mode.STATIC or after.mode is not Mode.STATIC:
        return False
    return layer.qconfig == after.qconfig or not (layer.is_explicit or after.is_explicit)
