"""One compiled OpenVINO graph. A request is taken from a pool for the time of a call: threads do not meet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import openvino as ov
from torch import Tensor

from fxquant.engines._openvino_requests import BOUND, Request, infer

_FLOAT_TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_PRECISIONS = {"I8": "int8", "U8": "int8", "BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_NO_KERNELS = ("Const", "Input", "Output", "Reshape", "Reorder", "Convert")  # they compute nothing


class Session:
    """Inputs of the graph's sizes and dtypes in, a tuple of outputs that own their memory out."""

    def __init__(self, model: ov.CompiledModel, leaves: tuple[Tensor, ...]) -> None:
        """`leaves`: inputs for it; where the graph leaves no size open, other sizes are not for it."""
        self.model = model
        self._is_static = all(port.get_partial_shape().is_static for port in (*model.inputs, *model.outputs))
        self._kinds = tuple((leaf.shape if self._is_static else None, leaf.dtype) for leaf in leaves)
        self._idle = [Request(model)]

    def __call__(self, args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
        """The outputs, or None where an argument is no plain tensor of the kind; RuntimeError where the engine fails.

        All in one function: after a large graph the caches are cold, and each call of another takes a microsecond.
        """
        if len(args) != len(self._kinds):
            return None
        try:
            request = self._idle.pop()
        except IndexError:
            request = Request(self.model)
        try:
            places = request.places
            for index, leaf in enumerate(args):
                shape, dtype = self._kinds[index]
                if type(leaf) is not Tensor or leaf.dtype is not dtype:
                    return None
                if shape is not None and leaf.shape != shape:
                    return None
                if leaf.data_ptr() != places[index] or not leaf.is_contiguous() or leaf.is_neg():
                    if not leaf.is_cpu:
                        return None
                    request.bind(index, leaf)
            if not request.buffers:
                return request.infer_anew(is_static=self._is_static)
            if not request.buffers[0].is_free:
                request.take_another()
            infer(request.own, BOUND, True, True)
            return request.buffers[0].lend()
        finally:
            self._idle.append(request)

    def kernel_seconds(self, leaves: tuple[Tensor, ...]) -> dict[str, float]:
        """Seconds of each kernel in one call, by its name; for a model compiled with PERF_COUNT."""
        self(plain(leaves))
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


def plain(leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same memory as tensors of no class of their own (nn.Parameter, a subclass), as a session takes them."""
    return tuple([leaf.detach().as_subclass(Tensor) for leaf in leaves])


def canonical_names(names: str) -> list[str]:
    """The canonical nodes in a list of OpenVINO's names, in its order."""
    return list(dict.fromkeys(re.findall(r"\[(\w+)\]", names)))
