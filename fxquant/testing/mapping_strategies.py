"""Strategies for QConfigMappings: what is asked, and at which level. Each draw compiles, though not all is served."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from fxquant.observers import FloatWeights, GroupedWeights
from fxquant.qconfigs import Ask, TensorAsk
from fxquant.testing.layers import Layer, layers_of
from fxquant.testing.mapping_spec import MappingSpec

_FLOAT = TensorAsk()
_HALF = TensorAsk("float16")
_ROWS = TensorAsk("quint8", "channel", is_float_qparams=True, observer="PerChannelMinMaxObserver")
_OWN_WEIGHTS = (
    GroupedWeights(32)().ask,
    GroupedWeights(5, bits=3, symmetric=False)().ask,
    FloatWeights("float8_e4m3fn", "tensor")().ask,
    FloatWeights("e3m2", "tensor")().ask,
)
_SMALL_ACTIVATIONS = (
    TensorAsk("float8_e5m2", is_symmetric=True, observer="MinMaxObserver"),
    TensorAsk("e2m3", is_symmetric=True, is_dynamic=True, observer="MinMaxObserver"),
)
_OBSERVERS = ("MinMaxObserver",) * 5 + ("MovingAverageMinMaxObserver",) * 3 + ("HistogramObserver",)  # the last is slow
_FUNCTIONS = (torch.relu, torch.add, torch.cat, torch.matmul, operator.add, operator.mul, nn.functional.relu)
_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU, nn.LayerNorm, nn.Embedding)
_MOST = 3  # entries of one level


@st.composite
def qconfig_mappings(draw: st.DrawFn, model: nn.Module | None = None) -> Any:
    """torch.ao QConfigMappings; the repr of one is the code that builds it.

    Static, dynamic, weight-only, 16-bit and small float qconfigs and None, for everything, by type, and by the names
    and regexes of the model's modules. With `model`, `fxquant.compile(model, mapping, ...)` takes each of them; what no
    engine serves stays float, and the ledger says so. Shrinks to `QConfigMapping()`, which asks for nothing.

    Args:
        model: names are drawn from its modules; None: no names, no regexes.

    Raises:
        FxQuantError: the model cannot be traced.
    """
    layers = layers_of(model)
    everything = draw(asks())
    return MappingSpec(everything, draw(_types(layers)), draw(_regexes(layers)), draw(_names(layers))).build()


def asks(*, has_channels: bool = True) -> st.SearchStrategy[Ask | None]:
    """What a qconfig may ask for; None is float. Without `has_channels` weights are per tensor."""
    weights = _weights(has_channels=has_channels)
    dynamic = TensorAsk("quint8", is_dynamic=True)
    halves = (Ask(TensorAsk("float16", is_dynamic=True), _HALF), Ask(_FLOAT, _HALF), Ask(_FLOAT, TensorAsk("bfloat16")))
    weight_only = weights | st.just(_ROWS) if has_channels else weights
    own = st.sampled_from(_OWN_WEIGHTS)
    return st.one_of(
        st.none(),
        st.builds(Ask, _activations(), weights),
        st.builds(Ask, st.just(dynamic), weights),
        st.builds(Ask, st.just(_FLOAT), weight_only),
        st.sampled_from(halves),
        st.builds(Ask, st.sampled_from((_FLOAT, dynamic, *_SMALL_ACTIVATIONS)), own),
    )


def _activations() -> st.SearchStrategy[TensorAsk]:
    return st.builds(
        lambda observer, is_symmetric, reduce_range: TensorAsk(
            "quint8",
            is_symmetric=is_symmetric,
            observer=observer,
            quant_min=0 if reduce_range else None,
            quant_max=127 if reduce_range else None,
        ),
        st.sampled_from(_OBSERVERS),
        st.booleans(),
        st.booleans(),
    )


def _weights(*, has_channels: bool) -> st.SearchStrategy[TensorAsk]:
    granularities = ("tensor", "channel") if has_channels else ("tensor",)
    observers = {
        "tensor": ("MinMaxObserver", "MovingAverageMinMaxObserver"),
        "channel": ("PerChannelMinMaxObserver", "MovingAveragePerChannelMinMaxObserver"),
    }
    kinds = [(size, observer) for size in granularities for observer in observers[size]]
    return st.builds(
        lambda kind, is_symmetric: TensorAsk("qint8", kind[0], is_symmetric=is_symmetric, observer=kind[1]),
        st.sampled_from(kinds),
        st.sampled_from((True, False)),
    )


@st.composite
def _types(draw: st.DrawFn, layers: Sequence[Layer]) -> tuple[tuple[object, Ask | None], ...]:
    """Types that the model calls and, now and then, others."""
    own = tuple(dict.fromkeys(layer.kind for layer in layers))
    kinds: st.SearchStrategy[Any] = st.sampled_from((*own, *_FUNCTIONS, *_MODULES, "relu", "add"))
    kinds = st.sampled_from(own) | kinds if own else kinds
    flat = {layer.kind for layer in layers if not layer.has_channels}  # asked by type for channels, they are refused
    return tuple((kind, draw(asks(has_channels=kind not in flat))) for kind in draw(_few(kinds)))


@st.composite
def _names(draw: st.DrawFn, layers: Sequence[Layer]) -> tuple[tuple[str, Ask | None], ...]:
    flat = {layer.name for layer in layers if not layer.has_channels}
    names = tuple(dict.fromkeys(name for layer in layers for name in layer.prefixes))
    return tuple((name, draw(asks(has_channels=name not in flat))) for name in draw(_few_of(names)))


@st.composite
def _regexes(draw: st.DrawFn, layers: Sequence[Layer]) -> tuple[tuple[str, Ask | None], ...]:
    """Whole names, their beginnings, and everything."""
    found = [form for layer in layers for form in (f"{re.escape(layer.name)}$", re.escape(layer.name[:2]), ".*")]
    return tuple((pattern, draw(asks())) for pattern in draw(_few_of(tuple(dict.fromkeys(found)))))


def _few(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=_MOST, unique=True)


def _few_of(values: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return _few(st.sampled_from(values)) if values else st.just([])
