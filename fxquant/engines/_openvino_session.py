"""One compiled OpenVINO graph, and what it costs to call: inputs are lent, outputs are copied out.

A request is taken from a pool for the time of a call, so calls from several threads do not meet. Copying a result out
costs 1 µs and another for each 20 kB, less than lending the engine new memory for each call (12 µs). An input that lies
where the last one lay is not bound again (5 µs), and the wrapper around `infer`, which looks through its inputs and
names its outputs (2 µs), is left out.
"""

from __future__ import annotations

import re
from typing import Any

import openvino as ov
import torch
from openvino._pyopenvino import InferRequest
from torch import Tensor

_FLOAT_TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_PRECISIONS = {"I8": "int8", "U8": "int8", "BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_NO_KERNELS = ("Const", "Input", "Output", "Reshape", "Reorder", "Convert")  # they compute nothing
_NO_INPUTS: dict[int, Any] = {}  # to `infer`: those that are bound
_infer, _from_numpy = InferRequest.infer, torch.from_numpy


class Session:
    """Inputs in, a tuple of outputs that own their memory out. Inputs have the graph's dtypes."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self.model = model
        self._is_static = all(port.get_partial_shape().is_static for port in model.inputs)
        self._idle = [_Request(model)]

    def __call__(self, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs for inputs of the graph's sizes and dtypes. RuntimeError where the engine fails."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = _Request(self.model)
        try:
            places = request.places
            for index, leaf in enumerate(leaves):
                if leaf.data_ptr() != places[index] or not leaf.is_contiguous() or leaf.is_neg():
                    request.bind(index, leaf)
            found = _infer(request.own, _NO_INPUTS, True, True)
            return tuple([_from_numpy(values.copy()) for values in found.values()])
        finally:
            if not self._is_static:
                request.forget()
            self._idle.append(request)

    def kernel_seconds(self, leaves: tuple[Tensor, ...]) -> dict[str, float]:
        """Seconds of each kernel in one call, by its name; for a model compiled with PERF_COUNT."""
        self(leaves)
        return {part.node_name: part.real_time.total_seconds() for part in self._idle[-1].own.get_profiling_info()}

    def takes(self, shapes: tuple[tuple[int, ...], ...]) -> bool:
        """Are these shapes within what the graph leaves open?"""
        ports = zip(self.model.inputs, shapes, strict=True)
        return all(port.get_partial_shape().compatible(ov.PartialShape(list(shape))) for port, shape in ports)

    @property
    def float_type(self) -> str:
        """What float layers compute in."""
        found = str(self.model.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        return _FLOAT_TYPES.get(found, found)

    def precisions(self) -> dict[str, str]:
        """Canonical node → what it computes in. A fused node has what the kernel that it went into has."""
        found: dict[str, str] = {}
        for op in self.model.get_runtime_model().get_ordered_ops():
            about = op.get_rt_info()
            precision = _PRECISIONS.get(about["runtimePrecision"].astype(str).upper())
            if precision is None or about["layerType"].astype(str) in _NO_KERNELS:
                continue
            for name in canonical_names(about["originalLayersNames"].astype(str)):
                found.setdefault(name, precision)
        return found


class _Request:
    """An infer request, and where its inputs lie."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self.own = model.create_infer_request()
        self.places: list[int | None] = [None] * len(model.inputs)
        self._lent: list[Any] = [None] * len(model.inputs)

    def bind(self, index: int, leaf: Tensor) -> None:
        """Lend an input. The engine does not hold it, so it is held here: nothing else comes to lie there."""
        self.places[index] = None
        lent = leaf.detach().resolve_neg().contiguous()
        self._lent[index] = ov.Tensor(lent.numpy(), shared_memory=True)
        self.own.set_input_tensor(index, self._lent[index])
        self.places[index] = lent.data_ptr()

    def forget(self) -> None:
        """Bind all of them at the next call: the same place may hold other sizes."""
        self.places = [None] * len(self.places)


def canonical_names(names: str) -> list[str]:
    """The canonical nodes in a list of OpenVINO's names, in its order."""
    return list(dict.fromkeys(re.findall(r"\[(\w+)\]", names)))
