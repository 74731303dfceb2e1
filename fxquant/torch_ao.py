"""The one door to torch.ao: nothing else in the package imports it, so the rest survives its removal.

torch.ao.quantization is deprecated and still ships; its known warnings are filtered here by message, nowhere else.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import torch
from torch import fx, nn
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.quantization import QConfig, QConfigMapping, float_qparams_weight_only_qconfig
from torch.ao.quantization.fake_quantize import FakeQuantizeBase
from torch.ao.quantization.fx.prepare import prepare as _prepare
from torch.ao.quantization.observer import ObserverBase

from fxquant.errors import QConfigError, RecipeError, did_you_mean
from fxquant.observers import observer_options, own_factory
from fxquant.qconfigs import PRESETS, Ask, TensorAsk

KNOWN_WARNINGS = (
    "torch.ao.quantization is deprecated",
    ".*quantized dtypes? (is|are) deprecated.*",
    "Please use quant_min and quant_max to specify the range for observers",
    "must run observer before calling calculate_qparams",
    "torch.quantize_per_(tensor|channel).* (is|are) deprecated",
    "torch.quantize_per_tensor, torch.quantize_per_channel and other quantized tensor creation functions",
    "QConfig must specify a FixedQParamsObserver",  # the ledger says it, with the layer's name
    "torch.inf detected in input tensor",  # an error of ours, with the layer's name
    "TypedStorage is deprecated",
    "Currently, qnnpack incorrectly ignores reduce_range",
)

Observer = ObserverBase  # for observers of ours
_ENGINE_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """torch.ao's known deprecation warnings are silent inside the block; all others pass."""
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def _ao() -> ModuleType:
    with quiet():
        import torch.ao.quantization as ao
    return ao


@contextmanager
def engine(name: str) -> Iterator[None]:
    """The process-global quantized engine is `name` inside the block, and as before after it; one thread at a time."""
    with _ENGINE_LOCK:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = name
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


# Policy: QConfig and QConfigMapping ---------------------------------------------------------------------------------

_LEVELS = ("object_type", "module_name_regex", "module_name", "module_name_object_type_order")


@dataclass(frozen=True, slots=True)
class MappingLevels:
    """The levels of a QConfigMapping as plain pairs, in the order they were set. A None qconfig is 'float'."""

    everything: object | None
    object_type: tuple[tuple[object, object | None], ...]
    module_name_regex: tuple[tuple[object, object | None], ...]
    module_name: tuple[tuple[object, object | None], ...]
    module_name_object_type_order: tuple[tuple[tuple[object, object, object], object | None], ...]


def is_mapping(value: object) -> bool:
    """Is this a QConfigMapping?"""
    return isinstance(value, _ao().QConfigMapping)


class _ToldMapping(QConfigMapping):
    """A QConfigMapping whose repr is the code that builds it."""

    told = "QConfigMapping()"

    def __repr__(self) -> str:
        return self.told


def make_mapping(levels: MappingLevels, told: str) -> Any:
    """The QConfigMapping of these levels (all but the last); `told` is its repr."""
    mapping: Any = _ToldMapping()
    mapping.told = told
    mapping.set_global(levels.everything)
    for kind, qconfig in levels.object_type:
        mapping.set_object_type(kind, qconfig)
    for pattern, qconfig in levels.module_name_regex:
        mapping.set_module_name_regex(pattern, qconfig)
    for name, qconfig in levels.module_name:
        mapping.set_module_name(name, qconfig)
    return mapping


def read_mapping(value: Any) -> MappingLevels:
    """The levels of a QConfigMapping, or of its dict form. FXQ103 for an unknown level, FXQ102 for a bad entry."""
    given = value.to_dict() if is_mapping(value) else value
    for key in given:
        if key not in ("", *_LEVELS):
            hint = did_you_mean(str(key), ("", *_LEVELS))
            raise RecipeError("FXQ103", f"a QConfigMapping has no level {key!r}", hint=hint)
    return MappingLevels(given.get(""), *(_pairs(given.get(level) or (), level) for level in _LEVELS))


def _pairs(entries: Any, level: str) -> tuple[Any, ...]:
    """(key, qconfig) of each entry; of two entries with one key the later counts, as in torch.ao."""
    size = 4 if level == _LEVELS[3] else 2
    try:
        found = [tuple(entry) for entry in (entries.items() if isinstance(entries, dict) else entries)]
        wrong = [entry for entry in found if len(entry) != size]
        if wrong:
            raise QConfigError("FXQ102", f"level '{level}' has {wrong[0]!r}, which is not a tuple of {size}")
        return tuple({entry[0] if size == 2 else entry[:-1]: entry[-1] for entry in found}.items())
    except TypeError as error:
        raise QConfigError("FXQ102", f"level '{level}' is not a list of tuples of {size}: {entries!r}") from error


def read_qconfig(qconfig: Any, owner: str) -> Ask:
    """What a QConfig asks. FXQ102, naming `owner` (the rule it stands in), when it is none or cannot be built."""
    halves = tuple(getattr(qconfig, half, None) for half in ("activation", "weight"))
    if not isinstance(qconfig, tuple) or None in halves:
        raise QConfigError(
            "FXQ102",
            f"{owner} has {_shown(qconfig)} in the place of a qconfig",
            hint=f"give a torch.ao QConfig, or None for float; for a preset pass its name alone: {', '.join(PRESETS)}",
        )
    activation, weight = (
        _build(factory, half, owner) for half, factory in zip(("activation", "weight"), halves, strict=True)
    )
    is_reuse = isinstance(activation, _ao().ReuseInputObserver)
    return Ask(ask_of(activation), ask_of(weight), is_reuse)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} (a {type(value).__name__})"


def _build(factory: Any, half: str, owner: str) -> Any:
    if isinstance(factory, torch.nn.Module):
        name = type(factory).__name__
        raise QConfigError(
            "FXQ102",
            f"{owner}: {half} is an instance of {name}, which every layer would share",
            hint=f"give the class, or {name}.with_args(...)",
        )
    if not callable(factory):
        raise QConfigError("FXQ102", f"{owner}: {half} is {_shown(factory)}, not an observer class")
    try:
        with quiet():
            return factory()
    except Exception as error:  # whatever a foreign constructor raises is a qconfig that cannot be used
        detail = str(error) or type(error).__name__
        hint = "the range must have quant_min < quant_max and hold 0; see the observer's own documentation"
        raise QConfigError("FXQ102", f"{owner}: the {half} observer cannot be built: {detail}", hint=hint) from error


def ask_of(observer: Any) -> TensorAsk:
    """What an observer asks, a fake quantize by the one inside it; without a dtype (nn.Identity) nothing."""
    if isinstance(told := getattr(observer, "ask", None), TensorAsk):
        return told  # an observer of ours
    inner = getattr(observer, "activation_post_process", observer)
    dtype = getattr(observer, "dtype", getattr(inner, "dtype", None))
    qscheme = getattr(observer, "qscheme", getattr(inner, "qscheme", None))
    is_channel = qscheme in (
        torch.per_channel_affine,
        torch.per_channel_symmetric,
        torch.per_channel_affine_float_qparams,
    )
    low, high = (getattr(observer, name, getattr(inner, name, None)) for name in ("quant_min", "quant_max"))
    return TensorAsk(
        dtype="float32" if dtype is None else str(dtype).removeprefix("torch."),
        granularity="channel" if is_channel else "tensor",
        axis=int(getattr(inner, "ch_axis", 0)) if is_channel else 0,
        is_dynamic=bool(getattr(observer, "is_dynamic", False) or getattr(inner, "is_dynamic", False)),
        is_symmetric=qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric),
        is_float_qparams=qscheme is torch.per_channel_affine_float_qparams,
        is_fixed=isinstance(inner, _ao().FixedQParamsObserver),
        quant_min=None if low is None else int(low),
        quant_max=None if high is None else int(high),
        observer=type(inner).__name__,
    )


def default_mapping(target: str) -> MappingLevels:
    """torch's own default mapping for an engine."""
    return read_mapping(raw_mapping(target))


def per_tensor_weight(qconfig: Any) -> object:
    """The same activation, with torch's default per-tensor weight."""
    return _ao().QConfig(activation=qconfig.activation, weight=_ao().default_weight_observer)


def stock_qconfig(name: str) -> object:
    """One of torch's ready-made qconfigs, such as 'per_channel_dynamic_qconfig'."""
    return cast(object, getattr(_ao(), name))


def make_qconfig(ask: Ask) -> object:
    """The QConfig that asks for this."""
    return _ao().QConfig(activation=_factory(ask.activation), weight=_factory(ask.weight))


def _factory(ask: TensorAsk) -> Any:
    own = own_factory(ask)
    if own is not None:
        return own
    name, options = observer_options(ask)
    return getattr(_ao(), name).with_args(**options)


def rows_qconfig() -> object:
    """Weights only, uint8, one float scale and zero point for each row: what tables of embeddings take."""
    return float_qparams_weight_only_qconfig


# Fusing: the module types that prepare knows as one unit -------------------------------------------------------------


def fused_with_relu(layer: nn.Module) -> nn.Module | None:
    """The layer and a ReLU as the one unit that prepare and convert know; None for a layer that has no such unit.

    The unit holds the layer itself. Subclasses of these types are not fused: convert would not know them.
    """
    with quiet():
        from torch.ao.nn import intrinsic
    units: dict[type[nn.Module], type[nn.Module]] = {
        nn.Conv1d: intrinsic.ConvReLU1d,
        nn.Conv2d: intrinsic.ConvReLU2d,
        nn.Conv3d: intrinsic.ConvReLU3d,
        nn.Linear: intrinsic.LinearReLU,
    }
    unit = units.get(type(layer))
    return None if unit is None else unit(layer, nn.ReLU().train(layer.training)).train(layer.training)


# Preparing: observers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """What torch.ao's prepare gave: the graph with observer calls, and which nodes it took to be quantized."""

    graph_module: fx.GraphModule
    observed: frozenset[str]  # node names
    is_configured: frozenset[str]  # names of the nodes that had a qconfig


def prepare(graph_module: fx.GraphModule, qconfigs: Mapping[str, QConfig]) -> Prepared:
    """Insert observers for exactly these nodes (name → qconfig); all others have none.

    This is the step under `prepare_fx` that follows tracing and fusing. It is called directly because `prepare_fx`
    traces the graph again, which loses the origin of each node. Nodes are addressed by a scope of their own, so no rule
    can hit two.
    """
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    mapping, scopes = QConfigMapping(), {}
    for node in graph_module.graph.nodes:
        key = str(node.target) if node.op == "call_module" else f"__site__{node.name}"
        scopes[node.name] = (key, type(modules[key]) if node.op == "call_module" else nn.Module)
        if node.name in qconfigs:
            mapping.set_module_name(key, qconfigs[node.name])
    with quiet():
        prepared = _prepare(graph_module, mapping, False, scopes, example_inputs=())
    type(prepared).__name__ = type(graph_module).__name__  # each GraphModule has a class of its own
    state = prepared.meta.pop("_observed_graph_module_attrs")
    configured = frozenset(name for name, qconfig in state.node_name_to_qconfig.items() if qconfig is not None)
    return Prepared(prepared, frozenset(state.observed_node_names), configured)


def is_observer(module: nn.Module | None) -> bool:
    """Is this an observer or a fake quantize, ours included?"""
    return isinstance(module, (ObserverBase, FakeQuantizeBase)) or hasattr(module, "is_fake_quantize")


def split_fused(module: nn.Module) -> tuple[nn.Module, bool]:
    """(the layer, is a relu fused after it) of one of torch.ao's fused modules, or of a plain module."""
    if isinstance(module, _FusedModule):
        return module[0], True
    return module, False


# The oracle: raw prepare_fx / convert_fx -----------------------------------------------------------------------------


def raw_quantize(
    model: nn.Module,
    qconfig_mapping: Any,
    example_inputs: tuple[Any, ...],
    batches: Iterable[tuple[Any, ...]],
    *,
    in_place: bool = False,
) -> fx.GraphModule:
    """What torch alone makes of a model, the engine being set: the oracle. `in_place`: the model itself is marked."""
    with quiet(), torch.no_grad():
        own = model if in_place else copy.deepcopy(model)
        prepared = raw_fx("prepare_fx")(own.eval(), qconfig_mapping, example_inputs)
        for batch in batches:
            prepared(*batch)
        converted: fx.GraphModule = raw_fx("convert_fx")(prepared)
    return converted


def raw_fx(name: str) -> Any:
    """A function of FX mode ('prepare_qat_fx'), or any other of torch.ao's ('quantize_dynamic')."""
    from torch.ao.quantization import quantize_fx

    return getattr(quantize_fx, name, None) or getattr(_ao(), name)


def decomposed_ops() -> Any:
    """The namespace of torch's own quantize and dequantize ops on plain integer tensors, which torch.ao registers."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def raw_mapping(engine_name: str) -> Any:
    """torch's own default static QConfigMapping for an engine."""
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Default qconfig of oneDNN backend")
        return _ao().get_default_qconfig_mapping(engine_name)
