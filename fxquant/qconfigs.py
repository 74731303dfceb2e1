"""What a QConfig asks for, as plain data: its mode, its words, and which layers an engine can serve it on.

Plain data only, no torch.ao: `torch_ao.read_qconfig` fills it, `recipe` and `presets` write it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.errors import QConfigError
from fxquant.float_formats import read_format
from fxquant.ledger import FLOAT
from fxquant.plan import Mode

PRESETS = ("int8", "int8-dynamic", "int8-weight-only", "int4-weight-only", "float16", "bfloat16", "float8", "hybrid")
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
    Mode.WEIGHT_ONLY: LINEAR | CONV | CONV_TRANSPOSE | EMBEDDING | RECURRENT | ATTENTION,
    Mode.FLOAT16: LINEAR | CONV | CONV_TRANSPOSE | EMBEDDING | RECURRENT | ATTENTION,
    Mode.BFLOAT16: LINEAR | CONV | CONV_TRANSPOSE | EMBEDDING | RECURRENT | ATTENTION,
}
HELD = WEIGHTED - {"PReLU", "prelu"} | ATTENTION  # whose weights can be held in groups or in a small float format


@dataclass(frozen=True, slots=True)
class TensorAsk:
    """What one half of a QConfig asks for its tensor. `dtype` is torch's name without 'torch.'."""

    dtype: str = FLOAT
    granularity: str = "tensor"  # or 'channel', or 'group'
    axis: int = 0  # of 'channel'
    group_size: int = 0  # values in one group of a row
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

    @property
    def is_simulated(self) -> bool:
        """A small floating-point format, which no engine runs."""
        return read_format(self.dtype) is not None

    @property
    def is_own(self) -> bool:
        """A format of weights that torch.ao has no words for."""
        return self.granularity == "group" or self.is_simulated

    @property
    def num_bits(self) -> int:
        """Bits of one code of an integer dtype: 8, or fewer where the range is narrower. 7-bit ranges count as 8."""
        if self.quant_min is None or self.quant_max is None or self.dtype not in ("qint8", "quint8", "int4"):
            return 8
        bits = (self.quant_max - self.quant_min).bit_length()
        return 8 if bits == 7 and self.dtype != "int4" else bits  # kernels of 8 bits run those: a larger scale is all

    def __str__(self) -> str:
        few = f"{self.num_bits}-bit " if self.num_bits < (4 if self.dtype == "int4" else 8) else ""
        return f"{self.dtype} in a fixed range" if self.is_fixed else f"{few}{self.dtype}"

    @property
    def spread(self) -> str:
        """Which values share a scale, in words."""
        return f"in groups of {self.group_size}" if self.granularity == "group" else f"per {self.granularity}"


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
        for dtype, mode in (("float16", Mode.FLOAT16), ("bfloat16", Mode.BFLOAT16)):
            if dtype in (self.activation.dtype, self.weight.dtype):
                return mode
        if self.activation.is_dynamic:
            return Mode.DYNAMIC
        if self.activation.is_float:
            return Mode.FLOAT if self.weight.is_float else Mode.WEIGHT_ONLY
        return Mode.STATIC

    def words(self, *, has_weight: bool = True) -> str:
        """'static quint8 × qint8 per channel'; without the weight for a layer that has none."""
        if self.is_reuse:
            return "static, as its input"
        weight = f"{self.weight} {self.weight.spread}"
        match self.mode:
            case Mode.FLOAT:
                return FLOAT
            case Mode.FLOAT16 | Mode.BFLOAT16 as mode:
                return f"{mode}" if self.activation.is_dynamic or self.activation.is_float else f"static {mode}"
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
        return f"'{op}' has no {ask.mode} form (those that have one: {_list(served)})"
    return _REFUSALS[ask.mode](ask, op, target)


def _list(ops: frozenset[str]) -> str:
    return ", ".join(sorted(op for op in ops if op[0].isupper()))


def _refuse_static(ask: Ask, op: str, target: str) -> str | None:
    activation = ask.activation
    if activation.dtype != "quint8" and not activation.is_simulated:
        return f"the qconfig asks for {activation.dtype} activations, target '{target}' serves quint8"
    if activation.granularity != "tensor":
        return f"the qconfig asks for activations per channel, target '{target}' serves them per tensor"
    if activation.observer == "RecordingObserver":
        return "RecordingObserver keeps the values it sees and computes no range"
    if op in EMBEDDING | RECURRENT:
        return None  # the custom-modules pass gives them the form that they have, and says so
    return _refuse_weight(ask.weight, op, target) if op in WEIGHTED else None


def _refuse_dynamic(ask: Ask, op: str, target: str) -> str | None:
    if ask.activation.dtype not in ("quint8", "qint8") and not ask.activation.is_simulated:
        return f"the qconfig asks for {ask.activation.dtype} activations, target '{target}' serves quint8"
    return _refuse_weight(ask.weight, op, target)


def _refuse_weight_only(ask: Ask, op: str, target: str) -> str | None:
    weight = ask.weight
    if op not in EMBEDDING or weight.is_own:
        return _refuse_weight(weight, op, target)
    if weight.dtype != "quint8" or not weight.is_float_qparams or weight.axis != 0:
        asked = f"{weight} {weight.spread}"
        return f"'{op}' takes quint8 weights with float qparams, one scale for each row; the qconfig asks for {asked}"
    return None


def _refuse_half(ask: Ask, op: str, target: str) -> str | None:
    half = ask.mode.value
    if ask.activation.dtype == half and not ask.activation.is_dynamic:
        return f"the qconfig asks for {half} activations, target '{target}' computes them in float32"
    if ask.weight.dtype != half or not (ask.activation.is_float or ask.activation.dtype == half):
        other = ask.weight.dtype if ask.weight.dtype != half else f"{ask.weight.dtype} × {ask.activation.dtype}"
        return f"the qconfig mixes {half} with {other} weights"
    return None


def _refuse_weight(weight: TensorAsk, op: str, target: str) -> str | None:
    if weight.is_own:
        return None if op in HELD else f"'{op}' has no form with {weight} weights (those that have: {_list(HELD)})"
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
    Mode.FLOAT16: _refuse_half,
    Mode.BFLOAT16: _refuse_half,
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
