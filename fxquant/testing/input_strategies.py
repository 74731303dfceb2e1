"""Strategies for the inputs of a compiled model: inside the calibrated ranges, at their ends, and just outside."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fxquant.batches import Call
from fxquant.model import CompiledModel
from fxquant.testing.ranges import Argument, arguments_of

_FEW = 16  # elements of a tensor that are drawn one by one


def inputs(compiled: CompiledModel, *, outside: float = 0.1) -> st.SearchStrategy[Call]:
    """Calls of a compiled model, any of yours: `compiled(*call.args, **call.kwargs)`.

    Floats lie in the calibrated range of their argument and up to `outside` of its width beyond either end, whole
    numbers in the range that calibration saw. Leading sizes from 0 to 4 are drawn where the model takes them. Shrinks
    to one row of equal values near zero.

    Raises:
        UnmeasurableError: FXQ313 where the shapes of the arguments are not known, or while the model is calibrating.
    """
    known = arguments_of(compiled)
    batches = st.sampled_from(known.batches) if known.batches else st.none()
    signature = compiled.program.signature

    def call(leaves: tuple[Tensor, ...]) -> Call:
        args, kwargs = signature.call(leaves)
        return Call(args, kwargs)

    def leaves(batch: int | None) -> st.SearchStrategy[tuple[Tensor, ...]]:
        return st.tuples(*(_tensors(argument, batch, outside) for argument in known.tensors))

    return batches.flatmap(leaves).map(call)


def _tensors(argument: Argument, batch: int | None, outside: float) -> st.SearchStrategy[Tensor]:
    shape = argument.shape if batch is None else (batch, *argument.shape[1:])
    numbers = _floats(argument, outside) if argument.dtype.is_floating_point else _whole(argument)
    same = numbers.map(lambda value: torch.full(shape, value, dtype=argument.dtype))
    if not math.prod(shape):
        return same  # as many draws as one row of equal values takes, so that an empty batch is no smaller than it
    seeded = st.tuples(st.integers(0, 2**16), st.just(shape), st.just(argument)).map(lambda found: _uniform(*found))
    if math.prod(shape) > _FEW:
        return same | seeded | st.tuples(seeded, numbers, st.integers(0, math.prod(shape) - 1)).map(_with_one)
    listed = st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape))
    return same | listed.map(lambda values: torch.tensor(values, dtype=argument.dtype).reshape(shape)) | seeded


def _floats(argument: Argument, outside: float) -> st.SearchStrategy[float]:
    """Numbers near zero first, then any in the range, then its ends and what lies beyond."""
    low, high = argument.low, argument.high
    beyond = outside * max(high - low, 1e-6)
    ends = st.sampled_from([low, high, low - beyond, high + beyond, (low + high) / 2, 0.0])
    inside = st.floats(_narrow(low - beyond), _narrow(high + beyond), width=32, allow_subnormal=False)
    return (inside | ends).map(_narrow)


def _narrow(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def _whole(argument: Argument) -> st.SearchStrategy[Any]:
    if argument.dtype is torch.bool:
        return st.booleans()
    return st.integers(math.ceil(argument.low), math.floor(argument.high))


def _uniform(seed: int, shape: tuple[int, ...], argument: Argument) -> Tensor:
    """Every element of its own, anywhere in the range."""
    source = torch.Generator().manual_seed(seed)
    drawn = torch.rand(shape, generator=source, dtype=torch.float64) * (argument.high - argument.low) + argument.low
    if argument.dtype.is_floating_point:
        return drawn.to(argument.dtype)
    return drawn.round().clamp(argument.low, argument.high).to(argument.dtype)


def _with_one(found: tuple[Tensor, Any, int]) -> Tensor:
    """One element of a large tensor is another number: the outlier that a range was not made for."""
    tensor, value, index = found
    made = tensor.clone()
    made.view(-1)[index] = value
    return made
