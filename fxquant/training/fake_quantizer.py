"""FakeQuantizer: values are rounded to codes and back, and gradients pass through. Plain torch, no torch.ao.

    y = (clamp(round(x / scale) + zero_point, low, high) − zero_point) · scale
    ∂y/∂x = 1 where the code lies within low..high, else 0        (the straight-through estimator: Bengio et al., 2013)

A range gives the scale and zero point that torch trains with: those of the observer or, where the qconfig has
torch's fused fake quantize, of that op. They differ for symmetric ranges: the fused op's ends at the last code, an
observer's half a step beyond it, which is a tie: rounded outwards, clipped, and left without a gradient. A millionth on
the scale keeps the largest weight on this side of it.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fxquant.errors import NonFiniteError
from fxquant.observation import PLAIN, read_qparams

AVERAGING = 0.01  # of an activation's range, where its observer has no constant of its own: torch.ao's default
_BEFORE_THE_TIE = 1 - 1e-6
FOLLOWS = 1.0  # the range is that of the present values: what a min-max observer sees of a weight


@dataclass(frozen=True, slots=True)
class Grid:
    """Which codes there are, and how a range becomes a scale and a zero point."""

    dtype: torch.dtype  # quint8 or qint8, as observers say it
    low: int  # the codes that the scale is chosen for
    high: int
    is_symmetric: bool = False
    axis: int | None = None  # of the channels; None: one scale
    has_float_zero_point: bool = False
    averaging: float = AVERAGING  # share of each new range in the moving average
    eps: float = torch.finfo(torch.float32).eps
    is_fused: bool = False  # by the formula of torch's fused training op
    fixed: tuple[float, int] | None = None  # scale and zero point of an op whose range is known

    def of_range(self, low: float, high: float) -> tuple[float, int]:
        """Scale (a float32 value) and zero point of one range."""
        if self.fixed is not None:
            return self.fixed
        low, high = min(low, 0.0), max(high, 0.0)
        if self.is_symmetric:
            middle = self._middle
            below, above = self._steps_each_way
            return _float32(max(-low / below, high / above, self.eps)), middle
        scale = _float32(max((high - low) / (self.high - self.low), self.eps))
        return scale, min(max(self.low - round(low / scale), self.low), self.high)

    def of_ranges(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point (int32, or float32 for rows of tables) of a range for each channel."""
        steps = self.high - self.low
        if self.has_float_zero_point:
            scale = (high - low) / steps
            scale = torch.where(scale > self.eps, scale, torch.ones_like(scale))
            return scale, -low / scale
        if self.is_symmetric:
            below, above = self._steps_each_way
            scale = torch.maximum(low / -below, high / above).clamp_(min=self.eps)
            return scale, torch.full_like(scale, self._middle, dtype=torch.int32)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = ((high - low) / steps).clamp_(min=self.eps)
        return scale, (self.low - torch.round(low / scale)).clamp_(self.low, self.high).to(torch.int32)

    @property
    def _steps_each_way(self) -> tuple[float, float]:
        """By how many steps a symmetric range reaches below and above zero."""
        if self.is_fused:
            return self._middle - self.low, self.high - self._middle
        half = (self.high - self.low) / 2 * _BEFORE_THE_TIE
        return half, half

    @property
    def _middle(self) -> int:
        """The zero point of a symmetric range: 0 of -128…127, 128 of 0…255."""
        is_odd = self.is_fused or (self.low, self.high) == (0, 255) or self.low < 0
        return (self.low + self.high + is_odd) // 2


def _float32(value: float) -> float:
    return ctypes.c_float(value).value


class FakeQuantizer(nn.Module):
    """Rounds what passes to the codes of a grid. In training it watches the range; in eval it does not.

    Buffer `bounds`: smallest and largest value, shape (2,) or (2, channels); infinities the wrong way round where
    nothing was seen. `is_observing` False keeps the range as it is; `is_on` False lets values pass.
    """

    is_fake_quantize = True  # `torch_ao.is_observer` goes by it
    is_dynamic = False
    bounds: Tensor

    def __init__(self, grid: Grid, *, channels: int | None = None, name: str = "") -> None:
        super().__init__()
        self.grid, self.name = grid, name
        self.is_observing, self.is_on = grid.fixed is None, True
        self.dtype, self.quant_min, self.quant_max = grid.dtype, grid.low, grid.high
        self.qscheme, self.ch_axis = _scheme(grid), grid.axis or 0
        self.is_idle = False  # it met indices or counts, which nobody quantizes
        shape = (2,) if channels is None else (2, channels)
        self.register_buffer(
            "bounds", torch.tensor([math.inf, -math.inf]).view(2, *[1] * (len(shape) - 1)).repeat(1, *shape[1:])
        )
        found = read_qparams(self, torch.ones(channels or 1), torch.zeros(channels or 1))
        self.limits = found.quant_min, found.quant_max  # where kernels clamp: a 7-bit range only has a smaller scale

    @property
    def min_val(self) -> Tensor | None:
        """The smallest value, or one for each channel; None for a fixed range."""
        return None if self.grid.fixed is not None else self.bounds[0]

    @property
    def max_val(self) -> Tensor | None:
        """The largest value, or one for each channel; None for a fixed range."""
        return None if self.grid.fixed is not None else self.bounds[1]

    @property
    def has_range(self) -> bool:
        """Has it seen anything?"""
        return self.grid.fixed is not None or bool((self.bounds[0] <= self.bounds[1]).all())

    def start_at(self, low: Tensor, high: Tensor) -> None:
        """Begin with a range that an observer found."""
        self.bounds.copy_(torch.stack((low.detach().float(), high.detach().float())).view_as(self.bounds))

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as the next call in eval uses them."""
        if self.grid.axis is not None:
            return self.grid.of_ranges(self.bounds[0], self.bounds[1])
        low, high = self.bounds.tolist()
        scale, zero_point = self.grid.of_range(low, high)
        return torch.tensor(scale), torch.tensor(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; the gradient is that of torch.fake_quantize_per_tensor_affine (or per channel)."""
        if not x.is_floating_point():
            self.is_idle = True
            return x
        if self.grid.axis is not None:
            return self._per_channel(x)
        low, high = self._observed(x)
        if not self.is_on or low > high:
            return x
        return torch.fake_quantize_per_tensor_affine(x, *self.grid.of_range(low, high), *self.limits)

    @property
    def _watches(self) -> bool:
        return self.is_observing and (self.training or self.grid.averaging == FOLLOWS)

    def _observed(self, x: Tensor) -> tuple[float, float]:
        """The range that counts for this call."""
        if self.grid.fixed is not None:
            return 0.0, 0.0
        low, high = self.bounds.tolist()
        if not self._watches or x.numel() == 0:
            return low, high
        with torch.no_grad():
            seen = torch.stack(torch.aminmax(x)).float()
            if low > high or self.grid.averaging == FOLLOWS:
                self.bounds.copy_(seen)
            else:
                self.bounds.lerp_(seen, self.grid.averaging)
        low, high = self.bounds.tolist()
        if not math.isfinite(low + high):
            raise NonFiniteError(
                "FXQ302",
                f"'{self.name}' gave NaN or infinity while it was trained",
                hint="the batch holds some, or training diverged: lower the learning rate, resume from a good state",
                module=self.name,
            )
        return low, high

    def _per_channel(self, x: Tensor) -> Tensor:
        axis = cast(int, self.grid.axis)
        if self._watches:
            with torch.no_grad():
                self._watch_channels(x.transpose(0, axis).flatten(1))
        if not self.is_on:
            return x
        scale, zero_point = self.grid.of_ranges(*self.bounds.float())  # torch takes no float64 here
        return torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, *self.limits)

    def before_norm(self, weight: Tensor, scale: Tensor) -> Tensor:
        """fq(weight · scale) / scale, for a scale (none of them 0) of each index of dimension 0, in one step.

        round(w · s / Δ) · Δ / s is rounding `w` with steps of Δ / s, whatever the sign of s. Gradients pass to `weight`
        alone: steps are constants, as everywhere.
        """
        with torch.no_grad():
            if self._watches:
                low, high = torch.aminmax(weight.flatten(1), dim=1)
                ends = torch.stack((low * scale, high * scale))
                low, high = torch.aminmax(ends, dim=0)
                self._move(torch.stack((low, high) if self.grid.axis is not None else (low.min(), high.max())))
            step, zero_point = self.grid.of_ranges(*self.bounds.float())
            step, zero_point = step / scale.float(), zero_point.expand(scale.shape).contiguous()
        if not self.is_on:
            return weight
        return torch.fake_quantize_per_channel_affine(weight, step, zero_point, 0, *self.limits)

    def _watch_channels(self, rows: Tensor) -> None:
        self._move(torch.stack(torch.aminmax(rows, dim=1)))

    def _move(self, seen: Tensor) -> None:
        if self.grid.averaging == FOLLOWS or not self.has_range:
            self.bounds.copy_(seen)
        else:
            self.bounds.lerp_(seen, self.grid.averaging)

    def extra_repr(self) -> str:
        grid = self.grid
        told = f"{str(grid.dtype).removeprefix('torch.')} {grid.low}…{grid.high}"
        scales = "" if grid.axis is None else f", axis {grid.axis}"
        return f"{told}{scales}{'' if self.is_observing else ', frozen'}"


def _scheme(grid: Grid) -> torch.qscheme:
    if grid.has_float_zero_point:
        return torch.per_channel_affine_float_qparams
    if grid.axis is not None:
        return torch.per_channel_symmetric if grid.is_symmetric else torch.per_channel_affine
    return torch.per_tensor_symmetric if grid.is_symmetric else torch.per_tensor_affine


def grid_of(observer: Any, *, is_weight: bool = False) -> Grid:
    """The grid of a torch.ao observer, or of the one inside a fake quantize.

    The range of an activation is a moving average in training, whatever its observer would do in calibration.
    """
    inner = getattr(observer, "activation_post_process", observer)
    scheme = inner.qscheme
    is_per_channel = scheme in (
        torch.per_channel_affine,
        torch.per_channel_symmetric,
        torch.per_channel_affine_float_qparams,
    )
    grid = Grid(
        dtype=observer.dtype,
        low=int(inner.quant_min),
        high=int(inner.quant_max),
        is_symmetric=scheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric),
        axis=int(inner.ch_axis) if is_per_channel else None,
        has_float_zero_point=scheme is torch.per_channel_affine_float_qparams,
        is_fused=type(observer).__name__.startswith("Fused"),
        averaging=float(getattr(inner, "averaging_constant", FOLLOWS if is_weight else AVERAGING)),
        eps=float(getattr(inner, "eps", torch.finfo(torch.float32).eps)),
    )
    if hasattr(inner, "min_val"):
        return grid
    return replace(grid, fixed=(_float32(float(inner.scale)), int(inner.zero_point)))


def has_grid(observer: Any) -> bool:
    """Is what it asks for one scale a tensor or channel, of whole numbers?"""
    inner = getattr(observer, "activation_post_process", observer)
    return observer.dtype in PLAIN and all(hasattr(inner, name) for name in ("qscheme", "quant_min", "quant_max"))


def seen_range(observer: Any) -> tuple[Tensor, Tensor] | None:
    """What an observer found in calibration, as the range to start with; None where it saw nothing."""
    inner = getattr(observer, "activation_post_process", observer)
    low, high = getattr(inner, "min_val", None), getattr(inner, "max_val", None)
    if not isinstance(low, Tensor) or not isinstance(high, Tensor) or low.numel() == 0 or bool((low > high).any()):
        return None
    if hasattr(inner, "searched"):
        return tuple(torch.tensor(end) for end in inner.searched())  # type: ignore[return-value]
    if not hasattr(inner, "histogram"):
        return low, high
    scale, zero_point = inner.calculate_qparams()  # a histogram cuts outliers off
    return (inner.quant_min - zero_point) * scale, (inner.quant_max - zero_point) * scale
