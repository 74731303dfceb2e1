"""QATLayer: a float layer, the batch norms behind it, and the fake quantizer of its weight, as one module that trains.

    s = Π gamma / sqrt(running_var + eps)                 over the batch norms behind the layer; 1 where there is none
    training:     y = bn(layer(x; fq(w · s) / s, b))      (Jacob et al., 2018; s from the running statistics)
    frozen, eval: y = layer(x; fq(w · s), fold(b))        what the converted layer computes

A layer is linear in its weight, so the division by s is done there and not on the output; and rounding w · s with steps
of Δ is rounding w with steps of Δ / s, so neither product nor quotient is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import qdq
from fxquant.training.fake_quantizer import FakeQuantizer

_TRANSPOSED: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


class DynamicInput(nn.Module):
    """Fake quantization with the scale of each batch, as a dynamic layer has it."""

    def __init__(self, *, is_reduced: bool) -> None:
        super().__init__()
        self.is_reduced = is_reduced  # 7 bits, for engines whose sums could saturate

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid of its own range."""
        if x.numel() == 0:
            return x
        scale, zero_point = qdq.choose_qparams(x.detach(), self.is_reduced)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)


class QATLayer(nn.Module):
    """Stands at a layer's name, with its `weight` and `bias`; `norms` are live batch norms until they are frozen."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        layer: nn.Module,
        norms: Sequence[nn.Module],
        weight_fake_quant: FakeQuantizer | None,
        *,
        has_relu: bool = False,
        input_fake_quant: DynamicInput | None = None,
        norm_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.register_parameter("weight", layer.weight)  # type: ignore[arg-type]  # weighted layers have one
        self.register_parameter("bias", getattr(layer, "bias", None))
        self.norms = nn.ModuleList(norms)
        self.weight_fake_quant, self.input_fake_quant = weight_fake_quant, input_fake_quant
        self.has_relu, self.is_norm_frozen, self.norm_names = has_relu, False, tuple(norm_names)
        self._options = (without_tensors(layer),)  # in a tuple: no submodule, since it holds no tensors
        self._forward = _forward_of(layer)

    @property
    def kind(self) -> Any:
        """The layer's type and options, less its tensors."""
        return self._options[0]

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, its batch norms and its ReLU, with the weight on its grid."""
        if self.input_fake_quant is not None:
            x = self.input_fake_quant(x)
        y = self._normed(x) if self.training and self.norms and not self.is_norm_frozen else self._folded(x)
        return torch.relu(y) if self.has_relu else y

    def _folded(self, x: Tensor) -> Tensor:
        weight, bias = self.folded()
        return self._forward(self.kind, x, self._quantized(weight), bias)

    def _normed(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale, _ = scale_and_shift(self.norms)
            scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        y = self._forward(self.kind, x, self._before_norm(scale), self.bias)
        for norm in self.norms:
            y = norm(y)
        return y

    def _before_norm(self, scale: Tensor) -> Tensor:
        if self.weight_fake_quant is None:
            return self.weight
        if type(self.kind) not in _TRANSPOSED and self.weight_fake_quant.grid.axis in (None, 0):
            return self.weight_fake_quant.before_norm(self.weight, scale)
        over = over_outputs(scale, self.kind, self.weight)
        return self._quantized(self.weight * over) / over

    def _quantized(self, weight: Tensor) -> Tensor:
        found: Tensor = weight if self.weight_fake_quant is None else self.weight_fake_quant(weight)
        return found

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the batch norms' running statistics worked in; gradients flow."""
        if not self.norms:
            return self.weight, self.bias
        scale, shift = scale_and_shift(self.norms)
        weight = self.weight * over_outputs(scale, self.kind, self.weight)
        return weight, shift if self.bias is None else self.bias * scale + shift

    def extra_repr(self) -> str:
        frozen = ", batch norm frozen" if self.norms and self.is_norm_frozen else ""
        return f"{type(self.kind).__name__}({self.kind.extra_repr()}){' + ReLU' if self.has_relu else ''}{frozen}"


class QATEmbedding(nn.Module):
    """A table whose rows are on their grids, each with its own scale."""

    weight: nn.Parameter

    def __init__(self, table: nn.Embedding, weight_fake_quant: FakeQuantizer) -> None:
        super().__init__()
        self.register_parameter("weight", table.weight)  # type: ignore[arg-type]  # a Parameter, as tables have it
        self.weight_fake_quant, self._options = weight_fake_quant, (without_tensors(table),)

    @property
    def kind(self) -> Any:
        """The table's type and options, less its tensor."""
        return self._options[0]

    def forward(self, indices: Tensor) -> Tensor:
        """The rows of these indices."""
        return F.embedding(indices, self.weight_fake_quant(self.weight), self.kind.padding_idx)


def without_tensors(layer: nn.Module) -> nn.Module:
    """A module of the same type and options that holds no tensor."""
    made = type(layer).__new__(type(layer))
    made.__dict__ = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(layer).items()}
    made._parameters = dict.fromkeys(layer._parameters)
    return made


def _forward_of(layer: nn.Module) -> Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]:
    if isinstance(layer, nn.Linear):
        return _linear
    return _transposed if type(layer) in _TRANSPOSED else _conv


def _linear(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _conv(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = layer._conv_forward(x, weight, bias)
    return found


def _transposed(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    options = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
    return _TRANSPOSED[type(layer)](x, weight, bias, *options)


def scale_and_shift(norms: Sequence[nn.Module] | nn.ModuleList) -> tuple[Tensor, Tensor]:
    """What a run of batch norms with running statistics does: y · scale + shift, per channel."""
    scale = shift = None
    for norm in norms:
        own: Any = norm
        gain = torch.rsqrt(own.running_var + own.eps)
        gain = gain if own.weight is None else own.weight * gain
        start = -own.running_mean * gain
        start = start if own.bias is None else start + own.bias
        scale, shift = (gain, start) if scale is None or shift is None else (scale * gain, shift * gain + start)
    assert scale is not None and shift is not None
    return scale, shift


def over_outputs(scale: Tensor, layer: Any, weight: Tensor) -> Tensor:
    """The scale of each output channel, shaped to multiply the weight: dimension 0, but (in, out/G, ...) transposed."""
    if type(layer) not in _TRANSPOSED:
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    per_group = scale.reshape(layer.groups, -1)
    rows = per_group.repeat_interleave(weight.shape[0] // layer.groups, dim=0)
    return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))
