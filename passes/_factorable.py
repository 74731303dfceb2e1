"""Which layers can be factorized, what each of them costs for the example, and why the others stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fxquant.graphs.snapshot import TensorInfo
from fxquant.passes._chosen_layers import Layer
from fxquant.passes._factors import KINDS, Factored, is_spatial, matrix
from fxquant.passes._rank_choice import Choices, shares
from fxquant.passes._survey import Survey
from fxquant.program import Program
from fxquant.values import known_value

_HOLD_LINEARS = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
WRITE_OUT = "put 'custom-modules' before low-rank: it writes attention and encoder layers out as calls of their Linears"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layer that can be factorized, with its two costs."""

    layer: Layer
    module: Factored
    is_spatial: bool
    macs: Choices
    parameters: Choices


def candidate(layer: Layer, method: str) -> Candidate:
    """Singular values and costs of a layer that `why_not` has nothing to say of."""
    module = cast(Factored, layer.module)
    spatial = is_spatial(module, method)
    found = matrix(module.weight, spatial=spatial)
    energies = shares(torch.linalg.svdvals(found))
    whole, per_rank = _macs(layer, module, spatial=spatial)
    most = next((rank for rank in range(len(energies), 0, -1) if rank * per_rank < whole), 0)
    return Candidate(
        layer,
        module,
        spatial,
        Choices(energies, per_rank, whole, most),
        Choices(energies, sum(found.shape), module.weight.numel(), most),
    )


def _macs(layer: Layer, module: Factored, *, spatial: bool) -> tuple[float, float]:
    """(of the layer, of one rank of its pair) over all of its calls; of one position where shapes are not known."""
    each = [_macs_of_call(node, module, spatial=spatial) for node in layer.calls]
    return sum(whole for whole, _ in each), sum(per_rank for _, per_rank in each)


def _macs_of_call(node: fx.Node, module: Factored, *, spatial: bool) -> tuple[float, float]:
    out, weight = module.weight.shape[0], module.weight
    positions = positions_of(node, module)
    if not spatial:
        return positions * weight.numel(), positions * (out + weight.numel() / out)
    _, inputs, height, width = weight.shape
    assert isinstance(module, nn.Conv2d)
    columns = positions * _widening(node, module)  # the first layer runs along the rows of the input, all of them
    return positions * weight.numel(), columns * inputs * height + positions * out * width


def positions_of(node: fx.Node, module: nn.Linear | _ConvNd) -> float:
    """How often the weight is used for the example: places of the output (transposed: of the input). 1: not known."""
    is_transposed = isinstance(module, _ConvTransposeNd)
    value = known_value(node.args[0] if is_transposed and node.args else node)  # type: ignore[arg-type]  # it is a node
    if not isinstance(value, TensorInfo) or not prod(value.shape):
        return 1
    if isinstance(module, nn.Linear):
        return prod(value.shape) / module.out_features
    return prod(value.shape) / (module.in_channels if is_transposed else module.out_channels)


def _widening(node: fx.Node, module: nn.Conv2d) -> float:
    """Width of the input over that of the output; its stride where shapes are not known."""
    source = node.args[0] if node.args else None
    before, after = (known_value(found) if isinstance(found, fx.Node) else None for found in (source, node))
    if isinstance(before, TensorInfo) and isinstance(after, TensorInfo) and after.shape[-1]:
        return before.shape[-1] / after.shape[-1]
    return float(module.stride[1])


def why_not(layer: Layer, program: Program, survey: Survey, *, is_meant: bool) -> tuple[str, str] | None:
    """(reason, hint) for a layer that stays as it is, both empty where nothing need be said; None: it can be split."""
    kind = type(layer.module)
    if not layer.is_called:
        return "", ""  # the module that holds it is told of
    if kind in _HOLD_LINEARS:
        return f"{kind.__name__} calls its linear layers itself", WRITE_OUT
    if isinstance(layer.module, _ConvTransposeNd):
        return f"{kind.__name__} has no factorized form here", ""
    if kind not in KINDS:
        told = f"{kind.__name__} is neither a linear layer nor a convolution"
        return (told if is_meant and not _has_parts(layer) else ""), ""
    module = cast(Factored, layer.module)
    reason = _why_not_weight(layer, module, program, survey)
    return None if reason is None else (reason, "")


def _has_parts(layer: Layer) -> bool:
    return next(layer.module.children(), None) is not None


def _why_not_weight(layer: Layer, module: Factored, program: Program, survey: Survey) -> str | None:
    if not isinstance(module, nn.Linear) and module.groups > 1:
        kind = "depthwise" if module.groups == module.in_channels else f"of {module.groups} groups"
        return f"its convolution is {kind}: each group has a small matrix of its own"
    if f"{layer.name}.weight" in program.pruned:
        return "its weight was pruned, and factors would not keep the zeros (factorize first, then prune the factors)"
    if survey.is_read_directly(layer.name) or not isinstance(module.weight, nn.Parameter):
        return "its weight is also read directly, or computed"
    tied = _tied(layer, module, program.graph_module)
    if tied:
        return f"its weight is also '{tied}'"
    if not bool(module.weight.any()):
        return "its weights are all zero"
    return None


def _tied(layer: Layer, module: Factored, graph_module: fx.GraphModule) -> str:
    """Another name of the very same weight; '' where it has none."""
    mine, place = f"{layer.name}.weight", module.weight.data_ptr()
    named = graph_module.named_parameters(remove_duplicate=False)
    same = (name for name, value in named if value.data_ptr() == place and value.shape == module.weight.shape)
    return next((name for name in same if name != mine), "")


def has_shapes(candidates: Sequence[Candidate]) -> bool:
    """Is it known how often each of them is computed?"""
    return all(known_value(node) is not None for found in candidates for node in found.layer.calls)
