"""One compiled OpenVINO graph. A request is taken from a pool for the time of a call: threads do not meet."""

from __future__ import annotations

import re
from collections.abc import Iterator

import openvino as ov
from torch import Tensor

from fxquant.engines._openvino_requests import Request

_FLOAT_TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_PRECISIONS = {"I8": "int8", "U8": "int8", "BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_NO_KERNELS = ("Const", "Input", "Output", "Reshape", "Reorder", "Convert")  # they compute nothing


class Session:
    """Inputs in, a tuple of outputs that own their memory out. Inputs have the graph's sizes and dtypes."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self.model = model
        self._idle = [Request(model)]

    def __call__(self, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs. RuntimeError where the engine fails."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = Request(self.model)
        try:
            return request(leaves)
        finally:
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
        for names, precision in self._kernels():
            for name in canonical_names(names):
                found.setdefault(name, precision)
        return found

    def precisions_of(self, op: str) -> list[str]:
        """What the kernels compute in that the op of this name went into."""
        return [precision for names, precision in self._kernels() if op in names]

    def _kernels(self) -> Iterator[tuple[str, str]]:
        """The names of the ops in each kernel, and what it computes in."""
        for op in self.model.get_runtime_model().get_ordered_ops():
            about = op.get_rt_info()
            precision = _PRECISIONS.get(about["runtimePrecision"].astype(str).upper())
            if precision is not None and about["layerType"].astype(str) not in _NO_KERNELS:
                yield about["originalLayersNames"].astype(str), precision


def canonical_names(names: str) -> list[str]:
    """The canonical nodes in a list of OpenVINO's names, in its order."""
    return list(dict.fromkeys(re.findall(r"\[(\w+)\]", names)))
