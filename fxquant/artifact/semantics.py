"""What a graph of a file must mean: scales that are scales, axes that exist, weights whose shapes fit their layers.

Kernels trust their arguments; a number that they would divide by or index with is checked here, before they see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from fxquant.artifact import formats
from fxquant.artifact.specs import NodeSpec, Ref
from fxquant.errors import UnsafeError

_SMALLEST, _LARGEST = formats.SMALLEST, formats.LARGEST
_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int32: (-(2**31), 2**31 - 1)}


class Checker:
    """Checks the nodes in order; of each it knows the constant tensor that it gives, where it gives one."""

    def __init__(self, specs: Sequence[NodeSpec], tensors: Mapping[str, Tensor]) -> None:
        self.specs, self.tensors = specs, tensors

    def check(self) -> None:
        """FXQ605 at the first node that means nothing."""
        for spec in self.specs:
            if spec.kind == "get" and spec.target not in self.tensors:
                raise UnsafeError("FXQ605", f"{spec.what} reads the tensor '{spec.target}', which the file has not")
            if spec.kind == "fn" and spec.target.startswith("fxq.") and spec.kwargs:
                self.wrong(spec, "it takes no keywords")
            if spec.kind == "fn" and spec.target in _CHECKS:
                _CHECKS[spec.target](self, spec)

    def constant(self, value: Any) -> Tensor | None:
        """The tensor of a `get` node; None for anything else."""
        spec = self.specs[value.index] if isinstance(value, Ref) else None
        return self.tensors[spec.target] if spec is not None and spec.kind == "get" else None

    def weight(self, value: Any) -> Tensor | None:
        """The constant behind a weight: itself, or the codes that a node dequantizes or widens."""
        found = self.constant(value)
        if found is not None or not isinstance(value, Ref):
            return found
        spec = self.specs[value.index]
        if spec.kind == "fn" and spec.target == "fxq.dequantize_groups":  # checked when it was its turn
            return torch.empty(spec.args[4], dtype=torch.uint8, device="meta")
        is_made = (spec.kind == "fn" and spec.target.startswith("fxq.dequantize")) or spec.target == "to"
        return self.constant(spec.args[0]) if is_made else None

    def is_empty(self, weight: Tensor) -> bool:
        """Has a weight that an engine would pack no elements? qnnpack packs it, and dies of it when it is called."""
        return not weight.numel() and weight.dtype is not torch.float32

    def wrong(self, spec: NodeSpec, why: str) -> NoReturn:
        raise UnsafeError("FXQ605", f"{spec.what} ({spec.target}): {why}")

    # Quantize and dequantize ------------------------------------------------------------------------------------------

    def quantize(self, spec: NodeSpec) -> None:
        *_, low, high, dtype = spec.args
        limits = _RANGES.get(dtype) if isinstance(dtype, torch.dtype) else None
        if limits is None or type(low) is not int or type(high) is not int or not limits[0] <= low < high <= limits[1]:
            self.wrong(spec, f"its codes are from {low!r:.40} to {high!r:.40} of {dtype!r:.40}")
        if spec.target == "fxq.quantize_per_tensor":
            self.literals(spec, low, high)
        else:
            self.channels(spec, self.constant(spec.args[0]))

    def dequantize(self, spec: NodeSpec) -> None:
        codes = self.constant(spec.args[0])
        low, high = _RANGES.get(codes.dtype, (0, 0)) if codes is not None else (-(2**31), 2**31 - 1)
        if codes is not None and codes.dtype not in _RANGES:
            self.wrong(spec, f"its codes are {codes.dtype}")
        self.literals(spec, low, high)

    def literals(self, spec: NodeSpec, low: int, high: int) -> None:
        """Scale and zero point as numbers, or as nodes that compute them."""
        scale, zero_point = spec.args[1:3]
        if not isinstance(scale, Ref) and not _is_scale(scale):
            self.wrong(spec, f"its scale is {scale!r:.40}")
        if not isinstance(zero_point, Ref) and (type(zero_point) is not int or not low <= zero_point <= high):
            self.wrong(spec, f"its zero point is {zero_point!r:.40}, not from {low} to {high}")

    def channels(self, spec: NodeSpec, codes: Tensor | None) -> None:
        scale, zero_point = (self.constant(argument) for argument in spec.args[1:3])
        if codes is None or scale is None or zero_point is None:
            self.wrong(spec, "its codes, scale and zero point are no tensors of the file")
        axis = spec.args[3] if len(spec.args) > 3 else 0
        if type(axis) is not int or not 0 <= axis < codes.dim():
            self.wrong(spec, f"its axis is {axis!r:.40}, its tensor has {codes.dim()} dimensions")
        self.check_scales(spec, codes, scale, zero_point, codes.shape[axis])

    def dequantize_channels(self, spec: NodeSpec) -> None:
        self.channels(spec, self.constant(spec.args[0]))

    def rows(self, spec: NodeSpec) -> None:
        codes, scale, zero_point = (self.constant(argument) for argument in spec.args)
        if codes is None or scale is None or zero_point is None or codes.dim() != 2:
            self.wrong(spec, "its rows, scale and zero point are no tensors of the file")
        self.check_scales(spec, codes, scale, zero_point, codes.shape[0])

    def check_scales(self, spec: NodeSpec, codes: Tensor, scale: Tensor, zero_point: Tensor, count: int) -> None:
        if codes.dtype not in _RANGES or scale.shape != (count,) or zero_point.shape != (count,):
            told = f"{codes.dtype} codes {list(codes.shape)}, scales {list(scale.shape)}, zero points "
            self.wrong(spec, f"{told}{list(zero_point.shape)} do not belong together")
        if not bool(((scale >= _SMALLEST) & (scale <= _LARGEST)).all()):
            self.wrong(spec, f"a scale is not from {_SMALLEST:g} to {_LARGEST:g}")
        low, high = _RANGES[codes.dtype]
        if zero_point.is_floating_point():
            if spec.target != "fxq.dequantize_rows" or not bool(zero_point.isfinite().all()):
                self.wrong(spec, "a zero point is no whole number")
        elif not bool(((zero_point >= low) & (zero_point <= high)).all()):
            self.wrong(spec, f"a zero point is not from {low} to {high}")

    # Layers -----------------------------------------------------------------------------------------------------------

    def linear(self, spec: NodeSpec) -> None:
        weight = self.weight(spec.args[1]) if len(spec.args) > 1 else None
        if weight is not None:
            if weight.dim() != 2 or self.is_empty(weight):
                self.wrong(spec, f"its weight has the shape {list(weight.shape)}")
            self.bias(spec, spec.args[2] if len(spec.args) > 2 else None, weight.shape[0])

    def conv(self, spec: NodeSpec) -> None:
        dims, is_transposed = int(spec.target[-2]), "transpose" in spec.target
        weight = self.weight(spec.args[1]) if len(spec.args) > 1 else None
        options = dict(zip(_TRANSPOSED if is_transposed else _PLAIN, spec.args[3:], strict=False)) | dict(spec.kwargs)
        for name, least in (("stride", 1), ("dilation", 1), ("padding", 0), ("output_padding", 0)):
            self.sizes(spec, name, options.get(name, least), dims, least)
        groups = options.get("groups", 1)
        if type(groups) is not int or groups < 1:
            self.wrong(spec, f"its groups are {groups!r:.40}")
        if weight is not None:
            if weight.dim() != dims + 2 or 0 in weight.shape or weight.shape[0] % groups:
                self.wrong(spec, f"its weight has the shape {list(weight.shape)}, in {groups} groups")
            outputs = weight.shape[1] * groups if is_transposed else weight.shape[0]
            self.bias(spec, spec.args[2] if len(spec.args) > 2 else None, outputs)

    def sizes(self, spec: NodeSpec, name: str, value: Any, dims: int, least: int) -> None:
        if name == "padding" and value in ("same", "valid"):
            return
        items = list(value) if isinstance(value, tuple | list) else [value]
        if len(items) not in (1, dims) or not all(type(item) is int and least <= item < 2**31 for item in items):
            self.wrong(spec, f"its {name} is {value!r:.40}")

    def bias(self, spec: NodeSpec, value: Any, count: int) -> None:
        bias = self.constant(value)
        if bias is not None and (bias.shape != (count,) or not bias.is_floating_point()):
            self.wrong(spec, f"its bias has the shape {list(bias.shape)}, its outputs are {count}")

    def embedding(self, spec: NodeSpec) -> None:
        weight = self.weight(spec.args[1]) if len(spec.args) > 1 else None
        if weight is not None and (weight.dim() != 2 or self.is_empty(weight)):
            self.wrong(spec, f"its table has the shape {list(weight.shape)}")

    def store(self, spec: NodeSpec) -> None:
        if self.constant(spec.args[0]) is None:
            self.wrong(spec, "it writes to what is no tensor of the file")

    def recurrent(self, spec: NodeSpec) -> None:
        weights = spec.args[2]
        if not isinstance(weights, tuple | list) or not weights or len(weights) % 4:
            self.wrong(spec, "its weights are not four for each cell")
        gates = {"fxq.lstm": 4, "fxq.gru": 3, "fxq.lstm_cell": 4, "fxq.gru_cell": 3}.get(spec.target, 1)
        cells = [weights[start : start + 4] for start in range(0, len(weights), 4)]
        if spec.target in ("fxq.lstm", "fxq.gru"):
            layers, is_both = spec.args[3:5]
            if type(layers) is not int or len(cells) != layers * (2 if is_both else 1):
                self.wrong(spec, f"it has {len(cells)} cells for {layers!r:.20} layers")
        width = None
        for cell in cells:
            w_ih, w_hh = (self.weight(value) for value in cell[:2])
            if w_ih is None or w_hh is None or w_ih.dim() != 2 or w_hh.dim() != 2 or 0 in (*w_ih.shape, *w_hh.shape):
                self.wrong(spec, "a weight of it is no matrix of the file, or an empty one")
            width = w_hh.shape[1] if width is None else width
            if w_hh.shape != (gates * width, width) or w_ih.shape[0] != gates * width:
                self.wrong(spec, f"weights {list(w_ih.shape)} and {list(w_hh.shape)} make no cell of width {width}")
            for bias in cell[2:]:
                self.bias(spec, bias, gates * width)


def _is_scale(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and _SMALLEST <= value <= _LARGEST


_PLAIN = ("stride", "padding", "dilation", "groups")
_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")
_CHECKS: dict[str, Callable[[Checker, NodeSpec], None]] = {
    "fxq.quantize_per_tensor": Checker.quantize,
    "fxq.quantize_per_channel": Checker.quantize,
    "fxq.dequantize_per_tensor": Checker.dequantize,
    "fxq.dequantize_per_channel": Checker.dequantize_channels,
    "fxq.dequantize_rows": Checker.rows,
    "fxq.dequantize_groups": formats.dequantize_groups,
    "fxq.dequantize_floats": formats.dequantize_floats,
    "fxq.simulate_float": formats.simulate_float,
    "fxq.choose_qparams": formats.choose_qparams,
    "fxq.choose_float_scale": formats.choose_float_scale,
    "fxq.store": Checker.store,
    "nn.linear": Checker.linear,
    "nn.embedding": Checker.embedding,
    "nn.embedding_bag": Checker.embedding,
    **{f"conv{dims}d": Checker.conv for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": Checker.conv for dims in (1, 2, 3)},
    **{
        f"fxq.{name}": Checker.recurrent
        for name in ("lstm", "gru", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
    },
}
