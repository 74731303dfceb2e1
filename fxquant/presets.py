"""Preset names → rules, for each engine. `int8` is torch's own default mapping, with what it lacks put right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import nn

from fxquant import torch_ao
from fxquant.chains import HYBRID, USUAL, told
from fxquant.errors import EngineUnavailableError, QConfigError, did_you_mean
from fxquant.observers import MSE, FloatWeights, GroupedWeights
from fxquant.qconfigs import ENGINES, PRESETS, Ask, TensorAsk
from fxquant.rules import EVERYTHING, Link, Rule, RuleSet, Target
from fxquant.targets import has_saturation_risk, isa

F = nn.functional

LINEAR = (nn.Linear, F.linear)
CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
EMBEDDING = (nn.Embedding, nn.EmbeddingBag)
ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
RECURRENT = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
FLOAT_ONLY = (F.embedding, F.embedding_bag, nn.RNN)  # no engine has a quantized form of them

WEIGHT_PER_CHANNEL = TensorAsk("qint8", granularity="channel", is_symmetric=True, observer="PerChannelMinMaxObserver")
WEIGHT_PER_TENSOR = TensorAsk("qint8", is_symmetric=True, observer="MinMaxObserver")

Pairs = list[tuple[object, object | None]]  # object type → qconfig


def preset_rules(name: str, target: str) -> RuleSet:
    """The rules of a preset on an engine. FXQ102 for a name that is none, FXQ502 for an engine that is none."""
    if name not in PRESETS:
        raise QConfigError(
            "FXQ102",
            f"no preset is called {name!r}",
            hint=did_you_mean(name, PRESETS) + "; a recipe's path ends in .toml",
        )
    if target not in ENGINES:
        raise EngineUnavailableError(
            "FXQ502", f"preset '{name}' knows no target {target!r}", hint=f"known: {', '.join(ENGINES)}"
        )
    if name == HYBRID:
        return chain_rules(USUAL, f"preset '{HYBRID}', chain {told(USUAL)}", target)
    pairs, rest = _PRESETS[name](target)
    own: dict[int, object | None] = {}  # one for each of torch's, which many kinds of layers share
    for qconfig in (*(qconfig for _, qconfig in pairs), rest):
        own.setdefault(id(qconfig), _with_our_observers(qconfig))
    return _ruleset(name, [(kind, own[id(qconfig)]) for kind, qconfig in pairs], own[id(rest)])


def _with_our_observers(qconfig: object | None) -> object | None:
    """One of torch's qconfigs, whose scales are not floored at 1.2e-7 (`floors`), with MSEObserver for histograms."""
    ask = None if qconfig is None else torch_ao.read_qconfig(qconfig, "a preset")
    if ask is None or ask.is_reuse or ask.activation.is_fixed:
        return qconfig
    if ask.activation.observer == "HistogramObserver":
        ask = replace(ask, activation=replace(ask.activation, observer=MSE))
    return _made(ask)


@functools.cache
def _made(ask: Ask) -> object:
    """One object for one ask, whichever preset asks: a chain sees by it that a link asks the same again."""
    return torch_ao.make_qconfig(ask)


def links_of(names: Iterable[str], target: str) -> tuple[Link, ...]:
    """The links of a chain that was checked, each with its preset's rules."""
    return tuple(Link(name, preset_rules(name, target) if name in PRESETS else None) for name in names)


def chain_rules(names: Iterable[str], label: str, target: str) -> RuleSet:
    """One rule: for every call the first of these links that runs."""
    return RuleSet((Rule(label, (Target("*", (EVERYTHING,)),), chain=links_of(names, target)),))


def _ruleset(preset: str, pairs: Pairs, rest: object | None) -> RuleSet:
    asks: dict[int, Ask] = {}
    rules = []
    entries = [(type_name(kind), Target(type_name(kind), (("type", kind),)), qconfig) for kind, qconfig in pairs]
    if rest is not None:
        entries.append(("everything else", Target("*", (EVERYTHING,)), rest))
    for number, (text, target, qconfig) in enumerate(entries, start=1):
        label = f"rule {number}, '{text}' of preset '{preset}'"
        if qconfig is not None and id(qconfig) not in asks:
            asks[id(qconfig)] = torch_ao.read_qconfig(qconfig, label)
        rules.append(Rule(label, (target,), qconfig, asks.get(id(qconfig))))
    return RuleSet(tuple(rules))


def type_name(kind: object) -> str:
    """'Conv2d', 'conv2d', 'add': how people call a class, a function or a method."""
    return str(getattr(kind, "__name__", kind))


def _each(kinds: Iterable[object], qconfig: object | None) -> Pairs:
    return [(kind, qconfig) for kind in kinds]


def _embeddings() -> Pairs:
    return _each(EMBEDDING, torch_ao.stock_qconfig("float_qparams_weight_only_qconfig"))


def _recurrent() -> Pairs:
    return _each(RECURRENT, torch_ao.stock_qconfig("per_channel_dynamic_qconfig"))


def _int8(target: str) -> tuple[Pairs, object | None]:
    """torch's default mapping, with ConvTranspose per tensor, embeddings weight-only and recurrent layers dynamic."""
    levels = torch_ao.default_mapping("x86" if _saturates(target) else target)
    own = [*_each(CONV_TRANSPOSE, torch_ao.per_tensor_weight(levels.everything)), *_embeddings(), *_recurrent()]
    own += _each(FLOAT_ONLY, None)
    taken = {kind for kind, _ in own}
    return [*own, *((kind, qconfig) for kind, qconfig in levels.object_type if kind not in taken)], levels.everything


def _saturates(target: str) -> bool:
    """oneDNN's own default uses all 8 bits, which its sums do not hold without VNNI: there it gets x86's mapping."""
    return target == "onednn" and has_saturation_risk(target, isa())


def _int8_dynamic(target: str) -> tuple[Pairs, object | None]:
    dynamic = torch_ao.stock_qconfig("per_channel_dynamic_qconfig")
    return [*_each((*LINEAR, *ATTENTION), dynamic), *_recurrent(), *_embeddings()], None


def _int8_weight_only(target: str) -> tuple[Pairs, object | None]:
    per_channel, per_tensor = (
        torch_ao.make_qconfig(Ask(TensorAsk(), weight)) for weight in (WEIGHT_PER_CHANNEL, WEIGHT_PER_TENSOR)
    )
    return [*_each((*LINEAR, *CONV, *ATTENTION), per_channel), *_each(CONV_TRANSPOSE, per_tensor), *_embeddings()], None


def _int4_weight_only(target: str) -> tuple[Pairs, object | None]:
    int4 = torch_ao.make_qconfig(Ask(TensorAsk(), GroupedWeights()().ask))
    return _each((*LINEAR, *CONV, *CONV_TRANSPOSE, *ATTENTION, *EMBEDDING, *RECURRENT), int4), None


def _bfloat16(target: str) -> tuple[Pairs, object | None]:
    half = torch_ao.make_qconfig(Ask(TensorAsk(), TensorAsk("bfloat16")))
    return _each((*LINEAR, *CONV, *CONV_TRANSPOSE, *ATTENTION, *EMBEDDING, *RECURRENT), half), None


def _float8(target: str) -> tuple[Pairs, object | None]:
    """e4m3 weights per channel, activations per tensor, simulated; of recurrent layers and tables the weights."""
    activation = TensorAsk("float8_e4m3fn", is_symmetric=True, observer="MinMaxObserver")
    weight = FloatWeights("float8_e4m3fn")().ask
    held, both = (torch_ao.make_qconfig(Ask(asked, weight)) for asked in (TensorAsk(), activation))
    return [*_each((*RECURRENT, *EMBEDDING), held), *_each((*FLOAT_ONLY, nn.PReLU, F.prelu), None)], both


def _float16(target: str) -> tuple[Pairs, object | None]:
    return _each((*LINEAR, *ATTENTION, nn.LSTM), torch_ao.stock_qconfig("float16_dynamic_qconfig")), None


_PRESETS: dict[str, Callable[[str], tuple[Pairs, object | None]]] = {
    "int8": _int8,
    "int8-dynamic": _int8_dynamic,
    "int8-weight-only": _int8_weight_only,
    "int4-weight-only": _int4_weight_only,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "float8": _float8,
}
