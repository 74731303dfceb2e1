"""Which weights can be pruned: those whose zeros survive quantization to the bit, and why the others cannot.

Weights of linear, convolutional and recurrent layers are quantized around an integer zero point (or kept as floats), so
0.0 has a code of its own. The rows of an embedding have *float* zero points: there it need not have one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fxquant.passes._chosen_layers import Layer
from fxquant.passes._functional_layers import LAYERS
from fxquant.passes._placing import attribute_of
from fxquant.program import Program

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT: tuple[type[nn.Module], ...] = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, NonDynamicallyQuantizableLinear)  # the latter: of an attention
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

ROWS = "the engines' int8 rows have float zero points, in which 0.0 need not have a code: its zeros would not stay zero"


@dataclass(frozen=True, slots=True)
class Prunable:
    """One weight tensor: its name in the model, and the dimension along which inputs lie."""

    name: str
    weight: nn.Parameter
    input_axis: int
    inputs: int  # how many of them one output sums: of a transposed convolution those of a group


def prunable(layer: Layer) -> tuple[Prunable, ...]:
    """The weights of this very layer (not of its parts) that can be pruned."""
    return tuple(
        Prunable(f"{layer.name}.{name}", weight, *_inputs(layer.module, weight))
        for name, weight in _weights(layer.module)
        if isinstance(weight, nn.Parameter)
    )


def _weights(module: nn.Module) -> Iterable[tuple[str, Tensor | None]]:
    kind = type(module)
    if kind in (*_LINEAR, *_CONVOLUTIONS, *_TRANSPOSED):
        return (("weight", module._parameters.get("weight")),)
    if kind in _RECURRENT:
        return ((name, value) for name, value in module.named_parameters(recurse=False) if name.startswith("weight_"))
    if kind is nn.MultiheadAttention:
        return ((name, module._parameters.get(name)) for name in _ATTENTION)
    return ()


def _inputs(module: nn.Module, weight: Tensor) -> tuple[int, int]:
    if isinstance(module, _ConvTransposeNd):
        return 0, weight.shape[0] // module.groups
    return 1, weight.shape[1]


def why_not(layer: Layer, *, is_meant: bool) -> str | None:
    """Why a layer without prunable weights has none; None where there is nothing to be said of it.

    `is_meant`: a target is for it. Else only layers with matrices of their own are spoken of.
    """
    name = type(layer.module).__name__
    if type(layer.module) in _EMBEDDINGS:
        return ROWS
    own = [value for value in layer.module._parameters.values() if value is not None]
    if any(value.dim() > 1 for value in own):
        return f"{name} is not a layer whose weights are known to stay zero when they are quantized"
    has_parts = next(layer.module.children(), None) is not None
    return f"{name} has no weights to prune" if is_meant and not own and not has_parts else None


def tied_rows(graph_module: fx.GraphModule) -> dict[int, str]:
    """id of each parameter that an embedding has → the embedding's name."""
    found = graph_module.named_modules(remove_duplicate=False)
    return {id(part.weight): name for name, part in found if isinstance(part, _EMBEDDINGS)}


def functional(program: Program) -> list[fx.Node]:
    """Calls like F.linear(x, self.weight), whose weight belongs to no layer yet."""
    calls = (node for node in program.graph.nodes if node.op == "call_function" and node.target in LAYERS)
    return [node for node in calls if any(_is_matrix(program, source) for source in node.all_input_nodes)]


def _is_matrix(program: Program, source: fx.Node) -> bool:
    value = attribute_of(program.graph_module, str(source.target)) if source.op == "get_attr" else None
    return isinstance(value, nn.Parameter) and value.dim() > 1
