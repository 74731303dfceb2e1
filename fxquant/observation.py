"""Reading observers: what an observer call in a graph has seen, and the scale and zero point that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fxquant.torch_ao import is_observer, quiet

# quantized dtype → (plain dtype, smallest code, largest code)
PLAIN = {
    torch.quint8: (torch.uint8, 0, 255),
    torch.qint8: (torch.int8, -128, 127),
    torch.qint32: (torch.int32, -(2**31), 2**31 - 1),
}
_REDUCED = {(0, 127), (-64, 63)}  # a 7-bit range only chooses a smaller scale; kernels clamp at 8 bits


@dataclass(frozen=True, slots=True)
class QParams:
    """Scale and zero point, per tensor or per channel of `axis`, and the codes they are for."""

    scale: Tensor  # float32, shape () or (channels,)
    zero_point: Tensor  # int64 (float32 for float qparams), same shape
    dtype: torch.dtype  # of the codes: uint8, int8 or int32
    quant_min: int
    quant_max: int
    axis: int | None = None
    is_float_zero_point: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """One observer module."""

    module: nn.Module

    @property
    def is_quantizing(self) -> bool:
        """Does it stand for a static quantization to integers?"""
        return getattr(self.module, "dtype", None) in PLAIN and not getattr(self.module, "is_dynamic", False)

    @property
    def range(self) -> tuple[float, float] | None:
        """Smallest and largest value seen; None for fixed qparams. An observer that saw nothing has (inf, -inf)."""
        source = getattr(self.module, "activation_post_process", self.module)  # a fake quantize holds its observer
        low, high = getattr(source, "min_val", None), getattr(source, "max_val", None)
        if not isinstance(low, Tensor) or not isinstance(high, Tensor):
            return None
        if low.numel() == 0:
            return float("inf"), float("-inf")
        return float(low.min()), float(high.max())

    def qparams(self) -> QParams:
        """What the observer computes from what it saw."""
        module = self.module
        with quiet():
            scale, zero_point = module.calculate_qparams()  # type: ignore[operator]
        return read_qparams(module, scale, zero_point)


def read_qparams(observer: nn.Module, scale: Tensor, zero_point: Tensor, *, is_weight: bool = False) -> QParams:
    """QParams with an observer's dtype, axis and range of codes. A weight of 7 bits has no more codes than that."""
    plain, low, high = PLAIN[observer.dtype]  # type: ignore[index]
    asked = getattr(observer, "quant_min", None), getattr(observer, "quant_max", None)
    if None not in asked and (is_weight or asked not in _REDUCED):
        low, high = int(asked[0]), int(asked[1])  # type: ignore[arg-type]
    scheme = getattr(observer, "qscheme", torch.per_tensor_affine)
    is_per_channel = scheme in (
        torch.per_channel_affine,
        torch.per_channel_symmetric,
        torch.per_channel_affine_float_qparams,
    )
    has_float_zero = scheme is torch.per_channel_affine_float_qparams
    return QParams(
        scale=scale.detach().to(torch.float32).reshape(-1 if is_per_channel else ()),
        zero_point=zero_point.detach()
        .to(torch.float32 if has_float_zero else torch.int64)
        .reshape(-1 if is_per_channel else ()),
        dtype=plain,
        quant_min=low,
        quant_max=high,
        axis=int(observer.ch_axis) if is_per_channel else None,  # type: ignore[arg-type]
        is_float_zero_point=has_float_zero,
    )


def observer_of(graph_module: fx.GraphModule, node: fx.Node) -> Observation | None:
    """The observer that a node calls; None where it calls none."""
    if node.op != "call_module":
        return None
    module = graph_module.get_submodule(str(node.target))
    return Observation(module) if is_observer(module) else None
