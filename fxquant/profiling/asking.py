"""What a plan asks for a tensor, as a recipe's tables say it, so that a rule changes one thing and keeps the rest."""

from __future__ import annotations

from dataclasses import replace

from fxquant.profiling.weights import bits_of, code_range
from fxquant.qconfigs import Ask, TensorAsk
from fxquant.recipe import Activation, Weight

_DTYPES = {"qint8": "int8", "quint8": "uint8"}
_WORDS = {
    "HistogramObserver": "histogram",
    "MSEObserver": "mse",
    "MinMaxObserver": "minmax",
    "PerChannelMinMaxObserver": "minmax",
    "MovingAverageMinMaxObserver": "moving-average",
    "MovingAveragePerChannelMinMaxObserver": "moving-average",
}


def observer_word(ask: TensorAsk) -> str:
    """How a recipe spells its observer; the class's name where a recipe has no word for it."""
    return _WORDS.get(ask.observer, ask.observer)


def has_words(ask: Ask) -> bool:
    """Can a recipe's tables say all of it? Not for observers of one's own, ranges that are fixed, or float qparams."""
    return all(_has_words(half) for half in (ask.activation, ask.weight))


def _has_words(ask: TensorAsk) -> bool:
    if ask.is_float:
        return True
    is_plain = ask.dtype in _DTYPES and not ask.is_fixed and not ask.is_float_qparams
    return is_plain and (ask.is_dynamic or ask.observer in _WORDS) and _is_whole_range(ask)


def _is_whole_range(ask: TensorAsk) -> bool:
    """Are its codes those of `num_bits`?"""
    low, high = code_range(ask)
    bits = bits_of(ask)
    half = 1 << (bits - 1)
    return (low, high) == ((-half, half - 1) if ask.dtype == "qint8" else (0, 2 * half - 1))


def as_activation(ask: TensorAsk) -> Activation | None:
    """The table of an activation; None where it stays float."""
    if ask.is_float:
        return None
    return Activation(
        dtype=_DTYPES[ask.dtype],
        observer=_WORDS.get(ask.observer, "histogram"),  # a dynamic one has none: its ranges come with the values
        symmetric=ask.is_symmetric,
        dynamic=ask.is_dynamic,
        num_bits=bits_of(ask),
    )


def as_weight(ask: TensorAsk) -> Weight | None:
    """The table of a weight; None where it stays float."""
    if ask.is_float:
        return None
    return Weight(
        dtype=_DTYPES[ask.dtype],
        granularity=ask.granularity,
        symmetric=ask.is_symmetric,
        observer=_WORDS[ask.observer],
        axis=ask.axis,
        num_bits=bits_of(ask),
    )


def with_observer(ask: Ask, word: str) -> Ask:
    """The same, with another observer for its activation: one that has no channels."""
    name = next(name for name, known in _WORDS.items() if known == word)
    return replace(ask, activation=replace(ask.activation, observer=name))
