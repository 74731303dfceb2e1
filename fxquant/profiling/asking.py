"""What a plan asks for a tensor, as a recipe's tables say it, so that a rule changes one thing and keeps the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fxquant.profiling.weights import bits_of
from fxquant.qconfigs import Ask, TensorAsk
from fxquant.recipe import Activation, Weight

_DTYPES = {"qint8": "int8", "quint8": "uint8"}
_WORDS = {
    "HistogramObserver": "histogram",
    "MinMaxObserver": "minmax",
    "PerChannelMinMaxObserver": "minmax",
    "MovingAverageMinMaxObserver": "moving-average",
    "MovingAveragePerChannelMinMaxObserver": "moving-average",
}


def observer_word(ask: TensorAsk) -> str:
    """How a recipe spells its observer; the class's name where a recipe has no word for it."""
    return _WORDS.get(ask.observer, ask.observer)


def as_activation(ask: TensorAsk, **changes: Any) -> Activation:
    """The table of an activation that is quantized to 8 bits or less, with these fields changed."""
    told: dict[str, Any] = {
        "dtype": _DTYPES.get(ask.dtype, ask.dtype),
        "observer": _WORDS.get(ask.observer, "histogram"),
        "symmetric": ask.is_symmetric,
        "dynamic": ask.is_dynamic,
        "num_bits": bits_of(ask),
    }
    return Activation(**told | changes)


def as_weight(ask: TensorAsk, **changes: Any) -> Weight | None:
    """The table of a weight, with these fields changed; None where it stays float."""
    if ask.is_float:
        return None
    told: dict[str, Any] = {
        "dtype": _DTYPES.get(ask.dtype, ask.dtype),
        "granularity": ask.granularity,
        "symmetric": ask.is_symmetric,
        "observer": _WORDS.get(ask.observer, "minmax"),
        "axis": ask.axis,
        "num_bits": bits_of(ask) if ask.dtype in _DTYPES else 8,
    }
    return Weight(**told | changes)


def with_observer(ask: Ask, word: str) -> Ask:
    """The same, with another observer for its activation: one that has no channels."""
    name = next(name for name, known in _WORDS.items() if known == word)
    return replace(ask, activation=replace(ask.activation, observer=name))
