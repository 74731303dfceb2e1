"""bake: training is over: batch norms are folded for good, and each weight keeps the scales that training used.

QATLayer(conv, bn, fq) → conv' with conv' = conv folded with bn, and the scales of fq handed to convert
dropout → nothing
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxquant.calibration import FEW_SAMPLES, judge
from fxquant.errors import PassError
from fxquant.graphmodule import drop_unused_modules
from fxquant.ledger import Ledger
from fxquant.origin import adopt
from fxquant.passes._placing import replace_at
from fxquant.passes.convert import TRAINED
from fxquant.passes.drop_identity import REMOVED, is_dropout
from fxquant.passes.fake_quantize import KEEPS_CODES
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage
from fxquant.torch_ao import fused_with_relu
from fxquant.training.fake_quantizer import FakeQuantizer
from fxquant.training.layers import QATEmbedding, QATLayer, without_tensors
from fxquant.training.recurrent_layer import QATRecurrent, plain


@dataclass(frozen=True)
class Bake(Pass):
    """Trained modules ⇒ plain layers and ranges, as calibration leaves them. FXQ303 for a range that saw nothing."""

    name: ClassVar[str] = "bake"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.PREPARED})
    yields: ClassVar[Stage] = Stage.CALIBRATED

    def run(self, program: Program, ledger: Ledger) -> Program:
        program.graph_module.eval()
        for part in program.graph_module.modules():
            part.training = False  # the graph module's own containers too
        for node in list(program.graph.nodes):
            module = program.module_of(node)
            if is_dropout(module):
                _drop(node, ledger, "it was on in training; it does nothing in eval mode")
            elif isinstance(module, FakeQuantizer) and module.is_idle:
                _drop_idle(node, ledger)
        for node in [node for node in program.graph.nodes if KEEPS_CODES in node.meta]:
            _observe_again(node)
        with torch.no_grad():
            for node in [node for node in program.graph.nodes if node.op == "call_module"]:
                _bake_at(program, node)
        judge(program, ledger, samples=FEW_SAMPLES)
        drop_unused_modules(program.graph_module)
        return program.at(Stage.CALIBRATED)

    def verify(self, program: Program) -> None:
        left = [node for node in program.graph.nodes if isinstance(program.module_of(node), _TRAINED)]
        if left:
            raise PassError("FXQ403", f"'{left[0].target}' is still a layer in training", node=left[0].name)


def _drop(node: fx.Node, ledger: Ledger, why: str) -> None:
    ledger.settle(node, REMOVED, why)
    node.replace_all_uses_with(node.all_input_nodes[0])
    node.graph.erase_node(node)


def _observe_again(node: fx.Node) -> None:
    """The observer that fake-quantize took away behind a dropout, for convert to make codes of."""
    with node.graph.inserting_after(node):
        made = adopt(node.graph.call_module(node.meta[KEEPS_CODES], (node,)), node)
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


def _drop_idle(node: fx.Node, ledger: Ledger) -> None:
    source = node.all_input_nodes[0]
    if ledger.row_of(source) is not None:
        ledger.decline("FXQ209", source, why="its values are whole numbers: only float32 tensors are quantized")
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)


_TRAINED = (QATLayer, QATEmbedding, QATRecurrent)


def _bake_at(program: Program, node: fx.Node) -> None:
    module = program.module_of(node)
    if isinstance(module, QATRecurrent):
        for name, fake_quant in module.weight_fake_quants.items():
            fake_quant(getattr(module, name))
        node.meta[TRAINED] = TrainedQConfig(dict(module.weight_fake_quants.items()))
        replace_at(program.graph_module, str(node.target), plain(module))
    if not isinstance(module, (QATLayer, QATEmbedding)):
        return
    weight, bias = module.folded() if isinstance(module, QATLayer) else (module.weight, None)
    if module.weight_fake_quant is not None:
        module.weight_fake_quant(weight)  # a range that follows the weight sees its last state
        node.meta[TRAINED] = TrainedQConfig({"weight": module.weight_fake_quant})
    layer = _plain(module, weight, bias)
    if isinstance(module, QATLayer) and module.has_relu:
        unit = fused_with_relu(layer)
        assert unit is not None  # fuse made it from this very type
        layer = unit
    replace_at(program.graph_module, str(node.target), layer)


def _plain(module: QATLayer | QATEmbedding, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    made: Any = without_tensors(module.kind)
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if "bias" in made._parameters:
        made.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class TrainedQConfig:
    """Stands in for a qconfig: its weight observer has the scales of training, whatever it is shown."""

    fake_quantizers: Mapping[str, nn.Module]  # by the weight's name

    def of(self, name: str) -> TrainedQConfig:
        """That of one weight among several."""
        return TrainedQConfig({"weight": self.fake_quantizers[name]})

    def weight(self) -> nn.Module:
        """The 'observer'."""
        found = self.fake_quantizers["weight"]
        assert isinstance(found, FakeQuantizer)
        found.is_observing = False
        return found
