"""What a QConfig asks for, as plain data: its mode, its words, and which layers an engine can serve it on.

Plain data only, no torch.ao: `torch_ao.read_qconfig` fills it, `recipe` and `presets` write it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.errors import QConfigError
from fxquant.ledger import FLOAT
from fxquant.plan import Mode

PRESETS = ("int8", "int8-dynamic", "int8-weight-only", "float16", "hybrid")
ENGINES = ("x86", "onednn", "fbgemm", "qnnpack")

LINEAR = frozenset({"Linear", "linear"})
CONV = frozenset(f"{name}{d}d" for name in ("Conv", "conv") for d in (1, 2, 3))
CONV_TRANSPOSE = frozenset(f"{name}{d}d" for name in ("ConvTranspose", "conv_transpose") for d in (1, 2, 3))
EMBEDDING = frozenset({"Embedding", "EmbeddingBag", "embedding", "embedding_bag"})
RECURRENT = frozenset({"LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell"})
WEIGHTED = LINEAR | CONV | CONV_TRANSPOSE | EMBEDDING | RECURRENT | {"PReLU", "prelu"}

ATTENTION = frozenset({"MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder"})  # written out as Linears

SERVED: dict[Mode, frozenset[str]] = {  # the layers that have a form in each mode; STATIC is every other layer's affair
    Mode.DYNAMIC: LINEAR | RECURRENT | ATTENTION,
    Mode.WEIGHT_ONLY: LINEAR | CONV | CONV_TRANSPOSE | EMBEDDING | ATTENTION,
    Mode.FLOAT16: LINEAR | ATTENTION | {"LSTM"},
}


@dataclass(frozen=True, slots=True)
class TensorAsk:
    """What one half of a QConfig asks for its tensor. `dtype` is torch's name without 'torch.'."""

    dtype: str = FLOAT
    granularity: str = "tensor"  # or 'channel'
    axis: int = 0  # of 'channel'
    is_dynamic: bool = False
    is_symmetric: bool = False
    is_float_qparams: bool = False  # scale and zero point are floats: the form that embeddings take
    is_fixed: bool = False  # the range is that of the op, not of the data
    quant_min: int | None = None
    quant_max: int | None = None
    observer: str = ""  # class name

    @property
    def is_float(self) -> bool:
        """Nothing is asked."""
        return self.dtype == FLOAT

    def __str__(self) -> str:
        return f"{self.dtype} in a fixed range" if self.is_fixed else self.dtype


@dataclass(frozen=True, slots=True)
class Ask:
    """What a QConfig asks for a layer: `activation` × `weight`."""

    activation: TensorAsk
    weight: TensorAsk
    is_reuse: bool = False  # the output is quantized as the input is (reshape and its kin)

    @property
    def mode(self) -> Mode:
        """How a layer with this qconfig is quantized."""
        if self.is_reuse:
            return Mode.STATIC
        if "float16" in (self.activation.dtype, self.weight.dtype):
            return Mode.FLOAT16
        if self.activation.is_dynamic:
            return Mode.DYNAMIC
        if self.activation.is_float:
            return Mode.FLOAT if self.weight.is_float else Mode.WEIGHT_ONLY
        return Mode.STATIC

    def words(self, *, has_weight: bool = True) -> str:
        """'static quint8 × qint8 per channel'; without the weight for a layer that has none."""
        if self.is_reuse:
            return "static, as its input"
        weight = f"{self.weight} per {self.weight.granularity}"
        match self.mode:
            case Mode.FLOAT:
                return FLOAT
            case Mode.FLOAT16:
                return "float16" if self.activation.is_dynamic or self.activation.is_float else "static float16"
            case Mode.WEIGHT_ONLY:
                return f"weight-only {weight}"
            case mode if self.weight.is_float or not has_weight:
                return f"{mode} {self.activation}"
            case mode:
                return f"{mode} {self.activation} × {weight}"


def refusal(ask: Ask, op: str, target: str) -> str | None:
    """Why this engine cannot serve this qconfig on this kind of layer; None when it can, as far as dtypes decide."""
    if target not in ENGINES or ask.is_reuse or ask.mode is Mode.FLOAT:
        return None
    served = SERVED.get(ask.mode)
    if served is not None and op not in served:
        return f"'{op}' has no {ask.mode} form (those that have one: {', '.join(_classes(served))})"
    return _REFUSALS[ask.mode](ask, op, target)


def _classes(ops: frozenset[str]) -> list[str]:
    return sorted(op for op in ops if op[0].isupper())


def _refuse_static(ask: Ask, op: str, target: str) -> str | None:
    activation = ask.activation
    if activation.dtype != "quint8":
        return f"the qconfig asks for {activation.dtype} activations, target '{target}' serves quint8"
    if activation.granularity != "tensor":
        return f"the qconfig asks for activations per channel, target '{target}' serves them per tensor"
    if activation.observer == "RecordingObserver":
        return "RecordingObserver keeps the values it sees and computes no range"
    if op in EMBEDDING | RECURRENT:
        return None  # the custom-modules pass gives them the form that they have, and says so
    return _refuse_weight(ask.weight, op, target) if op in WEIGHTED else None


def _refuse_dynamic(ask: Ask, op: str, target: str) -> str | None:
    if ask.activation.dtype not in ("quint8", "qint8"):
        return f"the qconfig asks for {ask.activation.dtype} activations, target '{target}' serves quint8"
    return _refuse_weight(ask.weight, op, target)


def _refuse_weight_only(ask: Ask, op: str, target: str) -> str | None:
    weight = ask.weight
    if op not in EMBEDDING:
        return _refuse_weight(weight, op, target)
    if weight.dtype != "quint8" or not weight.is_float_qparams or weight.axis != 0:
        asked = f"{weight} per {weight.granularity}"
        return f"'{op}' takes quint8 weights with float qparams, one scale for each row; the qconfig asks for {asked}"
    return None


def _refuse_float16(ask: Ask, op: str, target: str) -> str | None:
    if ask.activation.dtype == "float16" and not ask.activation.is_dynamic:
        return f"the qconfig asks for float16 activations, target '{target}' computes them in float32"
    if ask.weight.dtype != "float16":
        return f"the qconfig mixes float16 with {ask.weight.dtype} weights"
    return None


def _refuse_weight(weight: TensorAsk, op: str, target: str) -> str | None:
    is_prelu = op in ("PReLU", "prelu")
    served = "quint8" if is_prelu else "qint8"
    if weight.dtype != served:
        return f"the qconfig asks for {weight.dtype} weights, target '{target}' serves {served} on '{op}'"
    if weight.granularity == "channel":
        if op in CONV_TRANSPOSE:
            return f"'{op}' has weights per tensor only (pytorch #47535)"
        if is_prelu:
            return f"'{op}' has weights per tensor only"
        if weight.axis != 0:
            return f"the qconfig puts the channels on axis {weight.axis}, target '{target}' serves axis 0"
    if target == "onednn" and not weight.is_symmetric and not is_prelu:
        return "target 'onednn' serves symmetric weights only, the qconfig asks for affine ones"
    return None


_REFUSALS = {
    Mode.STATIC: _refuse_static,
    Mode.DYNAMIC: _refuse_dynamic,
    Mode.WEIGHT_ONLY: _refuse_weight_only,
    Mode.FLOAT16: _refuse_float16,
}


def check_ask(ask: Ask, owner: str) -> None:
    """FXQ102 for a range that means nothing, naming the rule that has it."""
    for half, tensor in (("activation", ask.activation), ("weight", ask.weight)):
        low, high = tensor.quant_min, tensor.quant_max
        if low is None or high is None:
            continue
        if low > high:
            raise QConfigError(
                "FXQ102", f"{owner}: {half} has quant_min {low} above quant_max {high}", hint="swap them"
            )
        if not low <= 0 <= high:
            raise QConfigError(
                "FXQ102",
                f"{owner}: the range {low}..{high} of {half} leaves out 0",
                hint="zero must be exact (padding depends on it): use a range with quant_min <= 0 <= quant_max",
            )
        if low == high:
            raise QConfigError("FXQ102", f"{owner}: the range {low}..{high} of {half} has one value", hint="widen it")


def check_shape(ask: Ask, shape: tuple[int, ...], layer: str, owner: str, *, is_meant: bool) -> None:
    """FXQ102 for a per-channel axis that the weight does not have; `is_meant`: the rule is about this very layer."""
    if ask.weight.granularity != "channel" or ask.weight.is_float:
        return
    axis, rank = ask.weight.axis, len(shape)
    if rank < 2 and is_meant:
        raise QConfigError(
            "FXQ102",
            f"{owner} asks for weights per channel, but the weight of '{layer}' has shape {shape}",
            hint="a one-dimensional weight takes a per-tensor qconfig",
            module=layer,
        )
    if rank >= 2 and not -rank <= axis < rank:
        raise QConfigError(
            "FXQ102",
            f"{owner} puts the channels on axis {axis}, but the weight of '{layer}' has shape {shape}",
            hint=f"use an axis from 0 to {rank - 1}; the engines serve axis 0",
            module=layer,
        )
