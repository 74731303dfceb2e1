"""The pass fold-batchnorm: a batch norm in eval is an affine map per channel, so it goes into the layer before it.

    y = (z − mean) · gamma / sqrt(var + eps) + beta        z = w ∗ x + b
    s = gamma / sqrt(var + eps)                            y = (w · s) ∗ x + (b − mean) · s + beta

w · s scales by output channel. That is dimension 0 of a convolution's or linear layer's weight. A transposed
convolution of G groups has its weight as (in, out/G, ...): the rows of input block g hold block g of the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import fx, nn

from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.origin import carry
from fxquant.passes._batchnorm import CANNOT_FOLD, BatchNorm, Layer, batchnorm_of, why_not_foldable
from fxquant.passes._placing import replace_at, sweep, twin
from fxquant.passes._survey import Survey
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """conv → bn → …  ⇒  conv' → …   The folded layer is a new module under the old one's name."""

    name: ClassVar[str] = "fold-batchnorm"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    remember: bool = False  # keep what was folded with its node: fake-quantize trains it

    def run(self, program: Program, ledger: Ledger) -> Program:
        survey, folded = Survey(program), []
        for node in [node for node in program.graph.nodes if batchnorm_of(program, node) is not None]:
            if is_kept_float(node):
                continue  # skip-batchnorm has written down why
            reason = why_not_foldable(program, node, survey)
            if reason is not None:
                ledger.decline(CANNOT_FOLD, node, why=f"cannot be folded: {reason}")
                continue
            folded.append(str(node.target))
            if self.remember:
                _remember(program, node)
            _fold_at(program, node, ledger)
        sweep(program.graph_module, folded)
        return program


@dataclass(frozen=True, slots=True)
class Folded:
    """A layer as it was, and the batch norms that were folded into it, in order."""

    layer: Layer
    norms: tuple[BatchNorm, ...] = ()
    names: tuple[str, ...] = ()  # of the norms, in the user's model


def folded_into(node: fx.Node) -> Folded | None:
    """What was folded into the layer that this node calls, where fold-batchnorm was to remember it."""
    found: Folded | None = node.meta.get(_FOLDED)
    return found


_FOLDED = "fxq_folded"


def _remember(program: Program, node: fx.Node) -> None:
    before = node.all_input_nodes[0]
    layer, norm = cast(Layer, program.module_of(before)), cast(BatchNorm, program.module_of(node))
    known = folded_into(before) or Folded(layer)
    before.meta[_FOLDED] = Folded(known.layer, (*known.norms, norm), (*known.names, str(node.target)))


def _fold_at(program: Program, node: fx.Node, ledger: Ledger) -> None:
    before = node.all_input_nodes[0]
    layer, norm = cast(Layer, program.module_of(before)), cast(BatchNorm, program.module_of(node))
    replace_at(program.graph_module, str(before.target), fold(layer, norm))
    reason = f"in eval it scales and shifts the channels of '{before.target}', whose weight now does both"
    ledger.settle(node, f"folded into {before.target}", reason)
    carry(before, before, node)
    node.replace_all_uses_with(before)
    program.graph.erase_node(node)


def fold(layer: Layer, norm: BatchNorm) -> Layer:
    """A new layer that computes norm(layer(x)) for a batch norm in eval. Sums in float64, rounds once."""
    weight, bias = layer.weight.detach(), layer.bias
    scale, shift = _scale_and_shift(norm)
    before = torch.zeros_like(shift) if bias is None else bias.detach().double()
    folded = twin(layer)
    folded.weight = _parameter_like(cast(nn.Parameter, layer.weight), weight.double() * _over_outputs(scale, layer))
    folded.bias = _parameter_like(folded.weight, before * scale + shift)
    return folded


def _scale_and_shift(norm: BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    mean, var = cast(torch.Tensor, norm.running_mean).double(), cast(torch.Tensor, norm.running_var).double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    scale = gamma / torch.sqrt(var + norm.eps)
    return scale, beta - mean * scale


def _over_outputs(scale: torch.Tensor, layer: Layer) -> torch.Tensor:
    """The scale of each output channel, shaped to multiply the layer's weight."""
    weight = layer.weight
    if not isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    per_group = scale.reshape(layer.groups, -1)  # (G, out/G)
    rows = per_group.repeat_interleave(weight.shape[0] // layer.groups, dim=0)  # (in, out/G)
    return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))


def _parameter_like(old: nn.Parameter, value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(old.dtype), requires_grad=old.requires_grad)
