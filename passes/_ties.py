"""Tied weights after conversion: what several layers read is stored once where they quantized it alike.

embedding.weight is head.weight, both int8 per row  →  one tensor of codes, one of scales
embedding in uint8 rows, head in int8 per channel   →  two tensors, and a notice that says why
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxquant.ledger import Ledger
from fxquant.passes._held import HalfWeight
from fxquant.passes._weights import QuantizedWeight
from fxquant.sizes import size_bytes, storage_of
from fxquant.torch_ao import split_fused


@dataclass(frozen=True, slots=True)
class Tie:
    """Called modules that read one weight, by dotted name in graph order."""

    names: tuple[str, ...]
    is_one_module: bool  # its calls, which unshare gave a copy each and told (FXQ218)


def tied_layers(graph_module: fx.GraphModule) -> tuple[Tie, ...]:
    """Called modules whose weights are one tensor, in graph order."""
    groups: dict[Any, dict[str, nn.Module]] = {}
    for node in graph_module.graph.nodes:
        if node.op != "call_module":
            continue
        layer, _ = split_fused(graph_module.get_submodule(str(node.target)))
        weight = getattr(layer, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.numel():
            place = storage_of(weight), weight.storage_offset(), weight.shape, weight.stride()
            groups.setdefault(place, {})[str(node.target)] = layer
    return tuple(Tie(tuple(group), _is_one(group.values())) for group in groups.values() if len(group) > 1)


def _is_one(layers: Iterable[nn.Module]) -> bool:
    """Do they agree in their class and in every parameter?"""
    return len({(type(layer), *map(id, layer.parameters())) for layer in layers}) == 1


def share_codes(graph_module: fx.GraphModule, ties: Sequence[Tie], ledger: Ledger) -> None:
    """Let tied layers read one tensor again where their codes, scales and zero points are equal; say what became."""
    for tie in ties:
        held = [graph_module.get_submodule(name) for name in tie.names]
        if not any(isinstance(module, (QuantizedWeight, HalfWeight)) for module in held):
            continue  # all of them stay float: the tie is as it was
        owners: list[nn.Module] = []
        for module in held:
            first = next((owner for owner in owners if _is_alike(owner, module)), None)
            if first is None:
                owners.append(module)
            else:
                _share(first, module)
        if len(owners) > 1 or not tie.is_one_module:
            _tell(tie.names, held, owners, ledger)


def _is_alike(left: nn.Module, right: nn.Module) -> bool:
    match left, right:
        case QuantizedWeight(), QuantizedWeight():
            is_form = (left.axis, left.is_rows) == (right.axis, right.is_rows)
            return is_form and all(torch.equal(getattr(left, name), getattr(right, name)) for name in _CODED)
        case HalfWeight(), HalfWeight():
            return torch.equal(left.weight, right.weight)  # type: ignore[arg-type]
    return left.weight is right.weight  # two layers that stay float


_CODED = ("weight", "weight_scale", "weight_zero_point")


def _share(first: nn.Module, module: nn.Module) -> None:
    for name in _tensors_of(module):
        setattr(module, name, getattr(first, name))


def _tell(names: tuple[str, ...], held: Sequence[nn.Module], owners: Sequence[nn.Module], ledger: Ledger) -> None:
    told = ", ".join(f"'{name}'" for name in names)
    if len(owners) == 1:
        reason = f"the layers {told} share one weight and quantize it alike: its codes are stored once"
        ledger.notice("FXQ217", reason, module=names[0])
        return
    kinds = ", ".join(f"'{name}' holds {_form(module)}" for name, module in zip(names, held, strict=True))
    extra = sum(map(_weight_bytes, owners[1:]))
    ledger.notice(
        "FXQ217",
        f"the layers {told} shared one weight, which is stored {len(owners)} times now ({extra:,} bytes more): {kinds}",
        module=names[0],
        hint="one qconfig that suits all of them stores it once",
    )


def _weight_bytes(module: nn.Module) -> int:
    return size_bytes([getattr(module, name) for name in _tensors_of(module)])


def _tensors_of(module: nn.Module) -> tuple[str, ...]:
    return _CODED if isinstance(module, QuantizedWeight) else ("weight",)


def _form(module: nn.Module) -> str:
    weight: Any = module.weight
    dtype = str(weight.dtype).removeprefix("torch.")
    if isinstance(module, QuantizedWeight):
        return f"{dtype} rows" if module.is_rows else f"{dtype} per {'tensor' if module.axis is None else 'channel'}"
    return dtype
