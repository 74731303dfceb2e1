"""QATRecurrent: an LSTM, GRU or cell as its dynamic kernel computes it, on fake-quantized weights, with gradients.

It runs the canonical op itself (`fxquant.recurrent`) step by step: what trains is what will run. That is slower than
torch's fused float kernel, the more so the longer the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fxquant.training.fake_quantizer import FakeQuantizer


class QATRecurrent(nn.Module):
    """Stands at a recurrent layer's name with its parameters; `weight_fake_quants` holds one for each weight matrix."""

    def __init__(
        self,
        layer: nn.Module,
        op: Callable[..., Any],
        options: Sequence[Any],
        cells: Sequence[str],
        fake_quants: dict[str, FakeQuantizer],
        *,
        is_reduced: bool,
    ) -> None:
        super().__init__()
        for name, parameter in layer.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.weight_fake_quants = nn.ModuleDict(fake_quants)
        self.op, self.options, self.cells, self.is_reduced = op, tuple(options), tuple(cells), is_reduced
        self._options = (_empty(layer),)  # in a tuple: no submodule

    @property
    def kind(self) -> Any:
        """A layer of the same type and options, on the meta device."""
        return self._options[0]

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As the layer: (output, (h, c)) of an LSTM, (output, h) of a GRU, the state of a cell."""
        weights = tuple(part for cell in self.cells for part in self._of(cell))
        found = self.op(input, hx, weights, *self.options, True, self.is_reduced)
        return (found[0], (found[1], found[2])) if isinstance(self.kind, nn.LSTM) else found

    def _of(self, cell: str) -> tuple[Tensor | None, ...]:
        """(w_ih, w_hh, b_ih, b_hh) of one cell."""
        names = [f"weight_{half}{cell}" for half in ("ih", "hh")]
        weights = (self.weight_fake_quants[name](getattr(self, name)) for name in names)
        return (*weights, *(getattr(self, f"bias_{half}{cell}", None) for half in ("ih", "hh")))

    def extra_repr(self) -> str:
        return f"{type(self.kind).__name__}({self.kind.extra_repr()})"


def _empty(layer: Any) -> nn.Module:
    """A layer of the same options without memory of its own. Making it draws no random numbers."""
    sizes = layer.input_size, layer.hidden_size
    if not isinstance(layer, nn.RNNBase):
        more = {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNNCell) else {}
        cell: nn.Module = type(layer)(*sizes, bias=layer.bias, device="meta", **more)
        return cell
    options = {name: getattr(layer, name) for name in ("num_layers", "bias", "batch_first", "bidirectional")}
    made: nn.Module = type(layer)(*sizes, device="meta", **options)
    return made


def plain(module: QATRecurrent) -> nn.Module:
    """The float layer with the trained parameters."""
    made = _empty(module.kind)
    for name, parameter in module.named_parameters(recurse=False):
        setattr(made, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    return made
