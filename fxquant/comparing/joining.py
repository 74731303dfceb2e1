"""Several batches as one: nested values whose tensors share a leading size are put one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxquant.structure import flatten

_PLAIN = (int, float, str, bool, type(None))


def join(values: Sequence[Any], rows: Sequence[int]) -> Any | None:
    """One nested value with the rows of all of these; None where they cannot stand in one.

    Args:
        values: one for each batch. Their tensors of leading size `rows` are rows; all else must be the same in each.
        rows: how many rows each has.
    """
    leaves, structures = zip(*(flatten(value) for value in values), strict=True)
    if len({str(structure) for structure in structures}) > 1:
        return None
    joined = []
    for column in zip(*leaves, strict=True):
        if all(is_of_rows(leaf, count) for leaf, count in zip(column, rows, strict=True)):
            if len({(leaf.dtype, leaf.shape[1:], leaf.device) for leaf in column}) > 1:
                return None
            joined.append(torch.cat([leaf.detach() for leaf in column]))
        elif all(_is_same(leaf, column[0]) for leaf in column):
            joined.append(column[0])
        else:
            return None
    return structures[0].unflatten(joined)


def pick(value: Any, rows: int, order: torch.Tensor) -> Any:
    """The rows of this order, of a nested value that has `rows` of them."""
    leaves, structure = flatten(value)
    picked = (leaf.index_select(0, order.to(leaf.device)) if is_of_rows(leaf, rows) else leaf for leaf in leaves)
    return structure.unflatten(picked)


def is_of_rows(leaf: Any, rows: int) -> bool:
    """Is it a tensor with so many rows?"""
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == rows


def _is_same(leaf: Any, other: Any) -> bool:
    if isinstance(leaf, torch.Tensor) and isinstance(other, torch.Tensor):
        return leaf.dtype == other.dtype and leaf.shape == other.shape and bool(leaf.equal(other))
    return leaf is other or (isinstance(leaf, _PLAIN) and type(leaf) is type(other) and leaf == other)
