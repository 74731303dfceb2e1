"""What a compiled model may be called with: for each tensor argument its shape, dtype and calibrated range."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.errors import FxQuantError, UnmeasurableError
from fxquant.graphs.snapshot import TensorInfo
from fxquant.model import CompiledModel
from fxquant.program import Stage
from fxquant.qdq import quantize_per_tensor
from fxquant.torch_ao import quiet

_BATCHES = (1, 2, 3, 4, 0)
_UNKNOWN = (-1.0, 1.0)  # of a float argument that nothing quantizes and no example shows


@dataclass(frozen=True, slots=True)
class Argument:
    """One tensor argument: `low` and `high` are what calibration saw, or what its codes can hold."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Arguments:
    """All of one call. `batches` are the leading sizes that the model takes; () where the first size is no batch."""

    tensors: tuple[Argument, ...]
    batches: tuple[int, ...]


_KNOWN: weakref.WeakKeyDictionary[CompiledModel, Arguments] = weakref.WeakKeyDictionary()


def arguments_of(compiled: CompiledModel) -> Arguments:
    """Looked up once for each model. FXQ313 where shapes are unknown, or while the model is calibrating."""
    if compiled not in _KNOWN:
        _KNOWN[compiled] = _arguments(compiled)
    return _KNOWN[compiled]


def _arguments(compiled: CompiledModel) -> Arguments:
    if compiled.stage < Stage.CONVERTED:
        raise UnmeasurableError("FXQ313", f"the model is {compiled.stage.name}", hint="call convert() first")
    program, example = compiled.program, compiled.program.example_leaves
    placeholders = [node for node in compiled.canonical.graph.nodes if node.op == "placeholder"]
    seen: list[Tensor | None] = [None] * len(placeholders) if example is None else list(example)
    found = []
    for leaf, node, tensor in zip(program.signature.tensor_leaves, placeholders, seen, strict=True):
        info = program.values.get(node.name)
        if tensor is None and not isinstance(info, TensorInfo):
            told = f"the shape of the argument '{leaf.path}' is not known"
            raise UnmeasurableError("FXQ313", told, hint="compile with example_inputs or data, or save with probe=True")
        shape = tuple(tensor.shape) if tensor is not None else info.shape  # type: ignore[union-attr]
        dtype = tensor.dtype if tensor is not None else getattr(torch, info.dtype)  # type: ignore[union-attr]
        found.append(Argument(leaf.path, shape, dtype, *_range(node, dtype, tensor)))
    tensors = tuple(found)
    return Arguments(tensors, tuple(_batches(compiled, tensors)))


def _range(node: fx.Node, dtype: torch.dtype, tensor: Tensor | None) -> tuple[float, float]:
    """What the codes of a float argument can hold; of any other what the example shows."""
    quantizes = [user for user in node.users if user.target is quantize_per_tensor and isinstance(user.args[1], float)]
    if quantizes and dtype.is_floating_point:
        ranges = [((low - zero) * scale, (high - zero) * scale) for scale, zero, low, high in map(_codes, quantizes)]
        return max(low for low, _ in ranges), min(high for _, high in ranges)
    if tensor is None or not tensor.numel():
        return _UNKNOWN if dtype.is_floating_point else (0.0, 0.0)
    finite = tensor.double()
    finite = finite[finite.isfinite()]
    return (float(finite.min()), float(finite.max())) if finite.numel() else _UNKNOWN


def _codes(quantize: fx.Node) -> tuple[float, int, int, int]:
    _, scale, zero, low, high, _ = quantize.args
    return scale, zero, low, high  # type: ignore[return-value]


def _batches(compiled: CompiledModel, tensors: tuple[Argument, ...]) -> Iterator[int]:
    """Leading sizes with which the model runs, where all arguments share one."""
    leading = {argument.shape[:1] for argument in tensors}
    if len(leading) != 1 or leading == {()}:
        return
    for size in _BATCHES:
        leaves = [torch.zeros((size, *a.shape[1:]), dtype=a.dtype) + _middle(a) for a in tensors]
        if _runs(compiled, [leaf.to(a.dtype) for leaf, a in zip(leaves, tensors, strict=True)]):
            yield size


def _middle(argument: Argument) -> float:
    middle = (argument.low + argument.high) / 2
    return middle if argument.dtype.is_floating_point else float(int(middle))


def _runs(compiled: CompiledModel, leaves: list[Tensor]) -> bool:
    args, kwargs = compiled.program.signature.call(leaves)
    saved = saved_buffers(compiled.graph_module)
    try:
        with quiet(), torch.no_grad():
            compiled(*args, **kwargs)
    except FxQuantError:
        return False
    finally:
        restore_buffers(compiled.graph_module, saved)
    return True
