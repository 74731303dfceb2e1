"""The smallest scale that an observer gives: its floor, which is there for ranges of zero and must not bite on others.

    scale = max((high - low) / steps, eps)      below eps · steps a range keeps fewer codes, below eps / 2 none: zeros

torch's observers floor at 1.2e-7 (float32's eps), which a trained layer can be under: what is behind a batch norm of
tiny variance or in front of one, gradients, probabilities of rare classes. Ours floor at 2^-60. A product of two such
scales is 2^-120, still a normal float32 with six bits to spare, which is what engines multiply sums by: x86, onednn,
fbgemm and qnnpack were tried down to it (and ONNX Runtime and OpenVINO hold scales as float32). A mapping of the
user's keeps the floor that it asks for, and is told where that bites.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOOR = 2.0**-60
REMEDY = "give the observer eps=2**-60, as presets do"


def floor_of(observer: nn.Module) -> float | None:
    """The smallest scale that an observer gives; None for one that has no floor."""
    inner = getattr(observer, "activation_post_process", observer)  # a fake quantize holds its observer
    eps = getattr(inner, "eps", None)
    if isinstance(eps, Tensor):
        return float(eps) if eps.numel() == 1 else None
    return eps if isinstance(eps, float) else None


def bites_range(observer: nn.Module, low: float, high: float) -> float | None:
    """The floor, where it is the scale of an activation whose range [low, high] is not zero; else None."""
    floor, codes = floor_of(observer), (getattr(observer, "quant_min", None), getattr(observer, "quant_max", None))
    width = max(high, 0.0) - min(low, 0.0)
    if floor is None or None in codes or width == 0.0:
        return None
    return floor if width / (int(codes[1]) - int(codes[0])) < floor else None  # type: ignore[arg-type]


def bitten_channels(weight: Tensor, scale: Tensor, axis: int | None, floor: float) -> int:
    """How many channels of a weight (of 1 where `axis` is None) have the floor for a scale without being zero."""
    rows = weight.detach().reshape(1, -1) if axis is None else weight.detach().movedim(axis, 0).flatten(1)
    is_floor = scale.reshape(-1) <= torch.tensor(floor, dtype=scale.dtype)
    return int((is_floor & rows.ne(0).any(1)).sum())


def without_dead_channels(scale: Tensor, weight: Tensor, axis: int) -> Tensor:
    """The scales of a weight's channels, where those of channels of zeros are as the largest one.

    Their codes are zero with any scale. With a tiny one the bias, which some engines hold in steps of
    `x_scale · weight_scale`, would not fit 32 bits.
    """
    dead = weight.detach().movedim(axis, 0).reshape(scale.shape[0], -1).eq(0).all(1)
    largest = scale[~dead].max() if not bool(dead.all()) else torch.ones_like(scale[0])
    return torch.where(dead, largest, scale)
