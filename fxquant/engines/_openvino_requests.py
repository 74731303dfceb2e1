"""An infer request and the memory that it works on: inputs are lent by the caller, results are lent to the caller.

    results   The engine writes into buffers that are handed out as tensors and not copied. A buffer is used again when
              the last tensor that lies in it is gone: torch holds the array that memory was taken from, so the count of
              references to that array tells. New memory for each call would cost its page faults: 30 µs for 128 kB.
    inputs    One that lies where the last one lay is not bound again (5 µs); the engine does not hold what is bound,
              so it is held here, and nothing else can come to lie there.

The wrapper around `infer`, which looks through its inputs and names its outputs (2 µs), is left out.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any

import openvino as ov
import torch
from openvino._pyopenvino import InferRequest
from torch import Tensor

MOST_BYTES = 4 * 2**20  # of results for which a second buffer is kept: a caller often holds the last result still
BOUND: dict[int, Any] = {}  # inputs to `infer`: those that are bound
infer, _from_numpy = InferRequest.infer, torch.from_numpy


class Request:
    """What one call works on. `places`: where the bound inputs lie. `buffers`: for results, the bound one first."""

    __slots__ = ("_lent", "buffers", "own", "places")

    def __init__(self, model: ov.CompiledModel) -> None:
        self.own = model.create_infer_request()
        self.places: list[int | None] = [None] * len(model.inputs)
        self.buffers: list[Buffer] = []
        self._lent: list[Any] = [None] * len(model.inputs)

    def bind(self, index: int, leaf: Tensor) -> None:
        """Lend an input to the engine."""
        self.places[index] = None
        lent = leaf.detach().resolve_neg().contiguous()
        self._lent[index] = ov.Tensor(lent.numpy(), shared_memory=True)
        self.own.set_input_tensor(index, self._lent[index])
        self.places[index] = lent.data_ptr()

    def infer_anew(self, *, is_static: bool) -> tuple[Tensor, ...]:
        """A call whose results have no buffer yet. Open sizes never get one, and inputs are forgotten there."""
        results = list(infer(self.own, BOUND, True, True).values())
        if is_static:
            self._use(Buffer(results))
        else:
            self.places = [None] * len(self.places)  # the same place may hold other sizes
        return tuple([_from_numpy(values.copy()) for values in results])

    def take_another(self) -> None:
        """Bind a buffer that no tensor lies in."""
        for buffer in self.buffers[1:]:
            if buffer.is_free:
                self.buffers.remove(buffer)
                self._use(buffer)
                return
        first = self.buffers[0]
        self._use(Buffer(first.arrays))
        del self.buffers[2 if first.size <= MOST_BYTES else 1 :]

    def _use(self, buffer: Buffer) -> None:
        for index, tensor in enumerate(buffer.tensors):
            self.own.set_output_tensor(index, tensor)
        self.buffers.insert(0, buffer)


class Buffer:
    """Memory for the results of one call."""

    __slots__ = ("_unlent", "arrays", "size", "tensors")

    def __init__(self, like: list[Any]) -> None:
        own = [torch.empty(values.shape, dtype=_from_numpy(values).dtype) for values in like]
        self.arrays = [values.numpy() for values in own]
        self.tensors = [ov.Tensor(array, shared_memory=True) for array in self.arrays]
        self.size = sum(array.nbytes for array in self.arrays)
        self._unlent = _references(self.arrays)

    @property
    def is_free(self) -> bool:
        """Does no tensor lie in it?"""
        return _references(self.arrays) == self._unlent

    def lend(self) -> tuple[Tensor, ...]:
        """Tensors that lie in it."""
        return tuple([_from_numpy(array) for array in self.arrays])


def _references(arrays: list[Any]) -> list[int]:
    return [getrefcount(array) for array in arrays]
