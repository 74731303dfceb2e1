"""Attention masks in plain torch: every form that torch.nn.MultiheadAttention takes, as one float mask to add."""

from __future__ import annotations

import torch
from torch import Tensor


def merged_mask(query: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> Tensor | None:
    """The sum of both masks, to be added to scores of shape (batch, heads, targets, sources), or without the batch.

    `query` has shape (batch, heads, targets, width) or (heads, targets, width). `attn_mask` is (targets, sources) or
    (batch * heads, targets, sources), `key_padding_mask` (batch, sources) or (sources,). True means: do not look there.
    """
    mask = None
    if attn_mask is not None:
        mask = _additive(attn_mask, query.dtype)
        if mask.dim() == 3 and query.dim() == 4:
            mask = mask.view(query.shape[0], query.shape[1], *mask.shape[1:])
    if key_padding_mask is not None:
        padding = _additive(key_padding_mask, query.dtype)
        padding = padding[:, None, None, :] if padding.dim() == 2 else padding[None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
