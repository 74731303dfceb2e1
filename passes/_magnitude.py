"""Which weights are smallest: masks for a share of them, and for N of each M along the input dimension.

Ties are broken by position, so that the same weights give the same mask, and exactly as many are pruned as were asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pattern:
    """At most `kept` of each `block` neighbours along the input dimension are not zero."""

    kept: int
    block: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.block}"


def smallest(weight: Tensor, count: int) -> Tensor:
    """True at the `count` elements of smallest magnitude; of equal ones the first."""
    size = weight.detach().abs().flatten()
    if count == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    threshold = size.kthvalue(count).values
    mask = size < threshold
    ties = (size == threshold).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return mask.view(weight.shape)


def smallest_of_all(weights: Sequence[Tensor], count: int) -> list[Tensor]:
    """`smallest`, over all of these tensors as if they were one."""
    together = smallest(torch.cat([weight.detach().flatten() for weight in weights]), count)
    parts = torch.split(together, [weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def smallest_in_blocks(weight: Tensor, pattern: Pattern, axis: int) -> Tensor:
    """True at all but the `kept` largest of each block of neighbours along `axis`, whose length is a multiple."""
    size = weight.detach().abs().movedim(axis, -1)
    blocks = size.reshape(*size.shape[:-1], -1, pattern.block)
    order = blocks.argsort(dim=-1, descending=True, stable=True)
    mask = torch.ones_like(blocks, dtype=torch.bool).scatter_(-1, order[..., : pattern.kept], False)
    return mask.reshape(size.shape).movedim(-1, axis)
