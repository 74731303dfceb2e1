"""Bytes that tensors take, each storage counted once: ties, views and shared modules are not counted twice."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def size_bytes(source: nn.Module | torch.Tensor | Iterable[torch.Tensor]) -> int:
    """Bytes of a module's parameters and buffers, or of some tensors; a storage that several of them share counts once.

    Of a shared storage the widest part that one tensor looks at is counted. Torch's packed weights, which are no
    tensors of the module, are not seen.
    """
    parts: dict[tuple[str, int], int] = {}
    for tensor in tensors_of(source):
        place = storage_of(tensor)
        parts[place] = max(parts.get(place, 0), tensor.numel() * tensor.element_size())
    return sum(parts.values())


def tensors_of(source: nn.Module | torch.Tensor | Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The tensors that `size_bytes` counts, in order."""
    if isinstance(source, torch.Tensor):
        return (source,)
    if isinstance(source, nn.Module):
        return (*source.parameters(), *source.buffers())
    return tuple(source)


def storage_of(tensor: torch.Tensor) -> tuple[str, int]:
    """Which storage a tensor looks into: the same for a tensor and its views and ties, even where it has no data."""
    return str(tensor.device), int(tensor.untyped_storage()._cdata)


def ties(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Groups of parameter and buffer names that share one storage, in the module's order."""
    groups: dict[tuple[str, int], list[str]] = {}
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    for name, tensor in named:
        groups.setdefault(storage_of(tensor), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
