"""The observer of an activation in a small floating-point format: torch.ao's range, and the scale that covers it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from fxquant.float_formats import FloatFormat, covering_scale, read_format
from fxquant.observers import MSE, LeastError
from fxquant.qconfigs import TensorAsk
from fxquant.torch_ao import Observer, quiet, stock_qconfig

_LEVELS = 127.5  # half of the range of a symmetric 8-bit observer, in its scales


class FloatObserver(Observer):
    """Watches by the observer of torch.ao that `ask` names. To prepare it is one of 8 bits, which it serves alike."""

    quant_min, quant_max = 0, 255  # what prepare asks of observers where the range of an op is fixed

    def __init__(self, ask: TensorAsk) -> None:
        super().__init__(dtype=torch.quint8, is_dynamic=ask.is_dynamic)
        self.ask = ask
        self.activation_post_process: Any = _watching(ask.observer)

    def forward(self, x: Tensor) -> Tensor:
        """`x` as it is; its range is remembered."""
        seen: Tensor = self.activation_post_process(x)
        return seen

    def calculate_qparams(self, **kwargs: Any) -> Any:
        """Those of the 8-bit observer inside."""
        return self.activation_post_process.calculate_qparams()


def _watching(observer: str) -> Any:
    """An observer of 8 symmetric bits, ours or one of torch.ao's."""
    if observer == MSE:
        return LeastError(TensorAsk("qint8", is_symmetric=True, observer=MSE))()
    with quiet():
        return cast(Any, stock_qconfig(observer))(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)


def float_range(module: nn.Module) -> tuple[float, FloatFormat] | None:
    """(scale, format) of what a FloatObserver has seen; None for any other module."""
    if not isinstance(module, FloatObserver):
        return None
    fmt = read_format(module.ask.dtype)
    assert fmt is not None
    with quiet():
        scale, _ = module.calculate_qparams()
    return float(covering_scale(scale.detach().reshape(()) * _LEVELS, fmt)), fmt
