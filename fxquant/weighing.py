"""What a float model's parameters amount to: elements, those that are not zero, bytes, and a checksum, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter, as a pass left it."""

    elements: int
    nonzero: int
    size_bytes: int
    crc32: int  # of its bytes: tells that something changed where the counts did not


Weights = Mapping[str, Weight]


def weights_of(module: nn.Module) -> Weights:
    """Every parameter by its first name; one that has several names counts once."""
    with torch.no_grad():
        return {name: _weight(parameter.detach().cpu()) for name, parameter in module.named_parameters()}


def _weight(value: torch.Tensor) -> Weight:
    plain = value.contiguous().flatten()
    checksum = crc32(plain.view(torch.uint8).numpy().data) if plain.numel() else 0
    return Weight(plain.numel(), int(torch.count_nonzero(plain)), plain.numel() * plain.element_size(), checksum)
