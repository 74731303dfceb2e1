"""Digests of the rows that a model is fed, so that the same rows are known again without keeping them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

_BYTES = 8  # of one digest: among a billion rows, one pair in forty shares one by chance


def row_digests(leaves: Sequence[torch.Tensor]) -> tuple[bytes, ...]:
    """One digest for each row of these tensors together; where they share no leading size, one for all of them."""
    sizes = {leaf.shape[0] if leaf.dim() > 0 else None for leaf in leaves}
    rows = sizes.pop() if len(sizes) == 1 else None
    parts = [_rows(leaf.detach(), rows) for leaf in leaves]
    return tuple(_digest(row) for row in zip(*parts, strict=True))


def _rows(leaf: torch.Tensor, rows: int | None) -> list[tuple[bytes, Any]]:
    """Of each row, or of all: its dtype and shape, and its bytes."""
    count = 1 if rows is None else rows
    head = f"{leaf.dtype}{list(leaf.shape if rows is None else leaf.shape[1:])}".encode()
    if not leaf.numel():
        return [(head, b"")] * count
    whole = leaf.cpu().resolve_conj().resolve_neg().contiguous().reshape(count, -1)
    return [(head, row) for row in whole.view(torch.uint8).numpy()]


def _digest(parts: Sequence[tuple[bytes, Any]]) -> bytes:
    found = hashlib.blake2b(digest_size=_BYTES)
    for head, row in parts:
        found.update(head)
        found.update(row)
    return found.digest()
