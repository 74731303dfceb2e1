"""The weights of a drawn model: from a seed alone, with a special value over the first of them where one is asked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

_VALUES = {"zero": 0.0, "one": 1.0, "-one": -1.0, "eps": 1e-7, "-eps": -1e-7, "huge": 1e4, "-huge": -1e4}

SPECIALS = ("", *_VALUES, "row", "zero-row")


def fill(part: nn.Module | torch.Tensor, source: torch.Generator, special: str) -> None:
    """Draw all parameters and statistics. Weights keep the size of what they are fed; no variance is near zero."""
    if isinstance(part, torch.Tensor):
        part.copy_(torch.randn(part.shape, generator=source))
        _write_special(part, special)
        return
    is_norm = isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm))
    for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
        _DRAW.get(name, _weight if not is_norm else _around_one)(tensor.data, source)
    weight = getattr(part, "weight", None)
    if isinstance(weight, torch.Tensor):
        _write_special(weight.data, special)


def _around_one(tensor: torch.Tensor, source: torch.Generator) -> None:
    tensor.copy_(torch.rand(tensor.shape, generator=source) + 0.5)


def _small(tensor: torch.Tensor, source: torch.Generator) -> None:
    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=source))


def _weight(tensor: torch.Tensor, source: torch.Generator) -> None:
    inputs = max(1, tensor[0].numel())
    tensor.copy_(torch.randn(tensor.shape, generator=source) / inputs**0.5)


def _zero(tensor: torch.Tensor, source: torch.Generator) -> None:
    tensor.zero_()


_DRAW: dict[str, Callable[[torch.Tensor, torch.Generator], None]] = {
    "bias": _small,
    "running_mean": _small,
    "running_var": _around_one,
    "num_batches_tracked": _zero,
}


def _write_special(weight: torch.Tensor, special: str) -> None:
    if special in _VALUES:
        weight.view(-1)[0] = _VALUES[special]
    elif special:
        weight[0] = 0.75 if special == "row" else 0.0
