"""Multiply-accumulates of one node, from the shapes of its values and weights. None where they do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fxquant.graphs.kernels import operation
from fxquant.graphs.snapshot import REFERENCE, GraphSnapshot, NodeRecord, TensorInfo

_DIMS = (1, 2, 3)
_CONVS = frozenset(f"{start}{dims}d" for start in ("conv", "Conv", "ConvReLU") for dims in _DIMS)
_CONVS |= frozenset(name for d in _DIMS for name in (f"conv{d}d_relu", f"conv{d}d_bf16", f"qconv{d}d_pointwise"))
_TRANSPOSED = frozenset(f"{start}{dims}d" for start in ("conv_transpose", "ConvTranspose") for dims in _DIMS)
_LINEARS = frozenset(
    {"linear", "Linear", "LinearReLU", "linear_relu", "linear_dynamic", "linear_relu_dynamic"}
    | {"linear_dynamic_fp16", "linear_relu_dynamic_fp16", "linear_bf16", "qlinear_pointwise"}
)
_PRODUCTS = {"matmul": 0, "__matmul__": 0, "bmm": 0, "mm": 0, "mv": 0, "addmm": 1, "baddbmm": 1}
_RECURRENT = frozenset(
    {"lstm", "gru", "LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell", "quantized_lstm", "quantized_gru"}
    | {"lstm_on_widened_weights", "gru_on_widened_weights"}
)
_UNKNOWN = frozenset(
    {"einsum", "tensordot", "bilinear", "Bilinear", "MultiheadAttention", "multi_head_attention_forward"}
)
_FREE = frozenset({"Embedding", "EmbeddingBag", "PReLU"})  # have matrices, and look up or scale with them

Shapes = Sequence[TensorInfo]


def macs(node: NodeRecord, snapshot: GraphSnapshot, weights: Shapes) -> int | None:
    """Multiply-accumulates for the example that the graph was captured with: its batch counts.

    Args:
        node: one that computes; `weights` are the tensors that it holds or reads as constants.

    Returns:
        0 for what only adds, compares or moves; None for what multiplies by an amount that shapes do not tell.
    """
    name = operation(node)
    if name in _CONVS:
        return _of_conv(node.values, weights or _input(node, snapshot, 1))
    if name in _TRANSPOSED:
        return _of_conv(_input(node, snapshot), weights or _input(node, snapshot, 1))
    if name in _LINEARS:
        return _of_product(node.values, _input(node, snapshot))
    if name in _RECURRENT:
        return _of_recurrent(_input(node, snapshot), weights)
    if name in _PRODUCTS:
        return _of_product(node.values, _input(node, snapshot, _PRODUCTS[name]))
    if name == "scaled_dot_product_attention":
        return _of_attention(*(_input(node, snapshot, index) for index in range(3)))
    return None if name in _UNKNOWN or _is_opaque(node) else 0


def _input(node: NodeRecord, snapshot: GraphSnapshot, index: int = 0) -> Shapes:
    """Values of the node that stands at this place among the arguments."""
    named = [found for found in REFERENCE.findall(node.args) if found]
    return snapshot[named[index]].values if index < len(named) and named[index] in snapshot else ()


def _of_conv(values: Shapes, weights: Shapes) -> int | None:
    """Each element (of the output; transposed: of the input) meets one filter: weight.shape[1:]."""
    filters = next((weight.shape for weight in weights if len(weight.shape) > 2), None)
    return None if filters is None or not values else prod(values[0].shape) * prod(filters[1:])


def _of_product(values: Shapes, left: Shapes) -> int | None:
    """(…, k) times (k, …): each element of the result sums k products."""
    if not values or not left or not left[0].shape:
        return None
    return prod(values[0].shape) * left[0].shape[-1]


def _of_recurrent(x: Shapes, weights: Shapes) -> int | None:
    """Each step of each sequence meets each weight once. `x` is (…, features)."""
    matrices = [weight.shape for weight in weights if len(weight.shape) == 2]
    return prod(x[0].shape[:-1]) * sum(map(prod, matrices)) if x and matrices else None


def _of_attention(query: Shapes, key: Shapes, value: Shapes) -> int | None:
    """query · keyᵀ, then the weights times value."""
    if not (query and key and value):
        return None
    return prod(query[0].shape[:-1]) * key[0].shape[-2] * (query[0].shape[-1] + value[0].shape[-1])


def _is_opaque(node: NodeRecord) -> bool:
    """A called module of another class, with matrices: what it does with them is its own affair."""
    if node.op != "call_module" or node.kind in _FREE or "Norm" in node.kind or "Observer" in node.kind:
        return False
    return any(text.count("×") for name, text in node.attributes if name != "options")
