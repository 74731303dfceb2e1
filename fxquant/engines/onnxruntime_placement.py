"""Where ONNX Runtime wants its quantize → dequantize pairs: around convolutions, and on what a linear layer reads.

    linear → q → dq → gelu → q → dq → linear            ⇒        linear → gelu → q → dq → linear
    norm → q → dq → linear, and → add(·, skip)          ⇒        norm → q → dq → linear, and norm → add(·, skip)

Rules, from its optimized graphs and per-op profiles (1.32, VNNI); each pair that goes is one rounding less:

1. A convolution has an int8 kernel only between codes: pairs that it reads or writes stay, and with them those of the
   sums and pools of a convolutional net, which run on codes.
2. A linear layer reads codes, and its kernel for batches of matrices gives floats as cheaply as codes: that result is
   not rounded for its own sake. Its kernel for one matrix (two dimensions) has to give codes, so there it is.
3. Gelu, norms, softmax and attention's products run in float either way, and would each pay for two crossings.
4. Those that do not want codes read the value from before the rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant import qdq
from fxquant.engines.moves import moved
from fxquant.engines.unrounding import put_back
from fxquant.graphmodule import copied, drop_unused_modules
from fxquant.graphs.snapshot import TensorInfo
from fxquant.grids import grid_of
from fxquant.values import known_value

_CONVOLUTIONS = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip
_RELUS = (F.relu, torch.relu, F.relu6, F.hardtanh)


def placed(canonical: fx.GraphModule) -> fx.GraphModule:
    """A copy with its pairs where ONNX Runtime wants them; weights and the given graph stay as they are."""
    made = copied(canonical)
    for quantize in [node for node in made.graph.nodes if grid_of(node) is not None]:
        _place(made.graph, quantize)
    made.graph.eliminate_dead_code()
    drop_unused_modules(made)
    made.recompile()
    return made


def _place(graph: fx.Graph, quantize: Any) -> None:
    pairs = [user for user in quantize.users if user.target is qdq.dequantize_per_tensor]
    readers = [user for pair in pairs for user in pair.users]
    if len(pairs) != len(quantize.users) or _is_convolved(quantize.args[0]) or _is_of_matrix(quantize.args[0]):
        return
    if any(_reads(reader, _CONVOLUTIONS) or _meets_codes(reader, pairs) for reader in readers):
        return
    source: Any = None
    for pair in pairs:
        for reader in list(pair.users):
            if not _reads(reader, (F.linear,)):
                source = source or put_back(graph, quantize)
                reader.replace_input_with(pair, source)


def _is_convolved(value: Any) -> bool:
    """A convolution's result, also behind a relu and ops that only move values."""
    if value.op == "call_function" and value.target in _CONVOLUTIONS:
        return True
    is_relu = value.target in _RELUS or type(_module(value)) in (torch.nn.ReLU, torch.nn.ReLU6, torch.nn.Hardtanh)
    source = value.args[0] if is_relu else moved(value)
    return isinstance(source, fx.Node) and _is_convolved(source)


def _is_of_matrix(value: Any) -> bool:
    """A linear layer's result of two dimensions, or of a number that is not known; or the relu of one."""
    if value.op == "call_function" and value.target is F.linear:
        info = known_value(value)
        return not isinstance(info, TensorInfo) or len(info.shape) == 2
    return value.target in _RELUS and _is_of_matrix(value.args[0])


def _reads(reader: Any, layers: tuple[Any, ...]) -> bool:
    """A layer of these, or an op that moves values to one."""
    if reader.op == "call_function" and reader.target in layers:
        return True
    return moved(reader) is not None and any(_reads(user, layers) for user in reader.users)


def _meets_codes(reader: Any, pairs: list[Any]) -> bool:
    """An op whose other inputs are codes of a convolution: a residual sum, a concatenation."""
    others = [source for source in reader.all_input_nodes if source not in pairs and source.args]
    quantizes: list[Any] = [other.args[0] for other in others if grid_of(other.args[0]) is not None]
    return any(_is_convolved(quantize.args[0]) for quantize in quantizes)


def _module(node: Any) -> Any:
    return node.graph.owning_module.get_submodule(str(node.target)) if node.op == "call_module" else None
