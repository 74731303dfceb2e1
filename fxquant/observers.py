"""Which observer asks for what: torch's own by name, and fxquant's own for what torch.ao has no words for.

An observer class of ours is made by a frozen factory, so that equal qconfigs are equal; `ask` says what it asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.float_formats import FloatFormat, covering_scale, encode, read_format, round_to
from fxquant.floors import FLOOR
from fxquant.groups import BITS, DEFAULT_SIZE, Grouped, quantize_groups
from fxquant.qconfigs import TensorAsk


def observer_options(ask: TensorAsk) -> tuple[str, dict[str, Any]]:
    """The class of a torch.ao observer by name, and its arguments, that ask for this."""
    dtype = getattr(torch, ask.dtype)
    if ask.is_float or ask.dtype in ("float16", "bfloat16"):
        return "PlaceholderObserver", {"dtype": dtype, "is_dynamic": ask.is_dynamic}
    options: dict[str, Any] = {}
    if ask.quant_min is not None:
        options = {"quant_min": ask.quant_min, "quant_max": ask.quant_max}
    if ask.is_dynamic:
        full = {"quant_min": 0, "quant_max": 255}
        return "PlaceholderObserver", {"dtype": dtype, "is_dynamic": True, **(full | options)}
    kind = "symmetric" if ask.is_symmetric else "affine"
    kind = "affine_float_qparams" if ask.is_float_qparams else kind
    options |= {"dtype": dtype, "qscheme": getattr(torch, f"per_{ask.granularity}_{kind}"), "eps": FLOOR}
    if ask.granularity == "channel":
        options["ch_axis"] = ask.axis
    return ask.observer, options


MSE = "MSEObserver"


class WeightObserver(nn.Module):
    """What stands in the place of a torch.ao weight observer; `ask` says how the weight shall be held."""

    dtype = torch.qint8  # what torch.ao's prepare takes it for: it inserts nothing for weights

    def __init__(self, ask: TensorAsk) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        """Nothing to learn: the weight itself has all that is asked."""
        return x


@dataclass(frozen=True, slots=True)
class GroupedWeights:
    """Makes the observer of a weight of 4 bits in groups: `QConfig(activation=..., weight=GroupedWeights(32))`."""

    group_size: int = DEFAULT_SIZE
    bits: int = BITS
    symmetric: bool = True

    def __call__(self) -> WeightObserver:
        """The observer."""
        half = 1 << (self.bits - 1)
        low, high = (-half, half - 1) if self.symmetric else (0, 2 * half - 1)
        return WeightObserver(
            TensorAsk(
                "int4",
                granularity="group",
                group_size=self.group_size,
                is_symmetric=self.symmetric,
                quant_min=low,
                quant_max=high,
                observer="GroupedWeights",
            )
        )


@dataclass(frozen=True, slots=True)
class FloatWeights:
    """Makes the observer of a weight in a small floating-point format: `FloatWeights("e3m2")`."""

    dtype: str
    granularity: str = "channel"  # or 'tensor'
    axis: int = 0

    def __call__(self) -> WeightObserver:
        """The observer."""
        return WeightObserver(
            TensorAsk(self.dtype, self.granularity, self.axis, is_symmetric=True, observer="FloatWeights")
        )


def grouped(weight: Tensor, ask: TensorAsk) -> Grouped:
    """The weight as `ask`, of a GroupedWeights, wants it. A group is no longer than a row."""
    rows = weight.shape[0] if weight.dim() else 1
    size = max(1, min(ask.group_size, weight.numel() // max(rows, 1)))
    low, high = int(ask.quant_min or 0), int(ask.quant_max or 0)
    bits = (high - low + 1).bit_length() - 1
    return quantize_groups(weight, size, bits=bits, symmetric=ask.is_symmetric)


@dataclass(frozen=True, slots=True)
class FloatCodes:
    """A weight in a small floating-point format."""

    codes: Tensor  # uint8 or int16, the weight's shape
    scale: Tensor  # float32, () or (channels,)
    fmt: FloatFormat
    axis: int | None


def float_codes(weight: Tensor, ask: TensorAsk) -> FloatCodes:
    """The weight as `ask`, of a FloatWeights, wants it: each scale lets the grid just cover its values."""
    fmt = format_of(ask)
    assert fmt is not None
    axis = ask.axis % weight.dim() if ask.granularity == "channel" else None
    size = weight.detach().float().abs()
    if axis is None:
        scale = covering_scale(size.amax() if size.numel() else size.new_zeros(()), fmt)
        spread = scale
    else:
        others = tuple(dim for dim in range(size.dim()) if dim != axis)
        most = size if not others else size.amax(others) if size.numel() else size.new_zeros(size.shape[axis])
        scale = covering_scale(most, fmt)
        spread = scale.view([-1 if dim == axis else 1 for dim in range(weight.dim())])
    codes = encode(round_to(weight.detach().float() / spread, fmt), fmt)
    return FloatCodes(codes, scale, fmt, axis)


def format_of(ask: TensorAsk) -> FloatFormat | None:
    """The small floating-point format that is asked; None for any other dtype."""
    return read_format(ask.dtype)


@dataclass(frozen=True, slots=True)
class FloatActivations:
    """Makes the observer of an activation in a small floating-point format, whose range one of torch.ao's watches."""

    dtype: str
    observer: str = "MinMaxObserver"
    is_dynamic: bool = False  # the scale comes from each tensor, as it comes

    def __call__(self) -> nn.Module:
        """The observer."""
        from fxquant.float_observer import FloatObserver  # late: it is made of a class of torch.ao's

        return FloatObserver(
            TensorAsk(self.dtype, is_dynamic=self.is_dynamic, is_symmetric=True, observer=self.observer)
        )


@dataclass(frozen=True, slots=True)
class LeastError:
    """Makes the observer of an integer activation that looks for the range with the least squared error."""

    ask: TensorAsk

    def __call__(self) -> nn.Module:
        """The observer."""
        from fxquant.mse_observer import MSEObserver  # late: it is made of a class of torch.ao's

        return MSEObserver(self.ask)


def own_factory(ask: TensorAsk) -> GroupedWeights | FloatWeights | FloatActivations | LeastError | None:
    """The factory of ours that asks for this; None where torch.ao has an observer for it."""
    if ask.observer == MSE and not ask.is_dynamic and format_of(ask) is None:
        return LeastError(ask)
    if ask.granularity == "group":
        codes = int(ask.quant_max or 0) - int(ask.quant_min or 0) + 1
        return GroupedWeights(ask.group_size, codes.bit_length() - 1, ask.is_symmetric)
    if format_of(ask) is None:
        return None
    if ask.observer == "FloatWeights":
        return FloatWeights(ask.dtype, ask.granularity, ask.axis)
    return FloatActivations(ask.dtype, ask.observer, ask.is_dynamic)
