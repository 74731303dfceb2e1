"""ONNX Runtime: the QDQ model in a session of its own, fed from torch's memory."""

from __future__ import annotations

from typing import Any

import onnxruntime
import torch
from onnxruntime import InferenceSession, OrtValue, SessionOptions
from torch import Tensor, fx
from torch.utils.dlpack import from_dlpack

from fxquant.engines.engine import EngineModule, EngineRefusal
from fxquant.engines.onnx import to_onnx


def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
    """The graph in a session on so many threads; sizes that it leaves open stay open. EngineRefusal."""
    model = to_onnx(canonical, leaves)
    try:
        return OnnxRuntimeModule(model.SerializeToString(), threads)
    except Exception as error:  # of any kind: every status of the runtime is an exception class of its own
        raise EngineRefusal(f"ONNX Runtime does not take it: {error}".splitlines()[0]) from error


class OnnxRuntimeModule(EngineModule):
    """A session; inputs are read where torch has them, outputs are new tensors of torch's."""

    engine = "onnxruntime"

    def __init__(self, model: bytes, threads: int) -> None:
        super().__init__()
        self._session = InferenceSession(model, _options(threads), providers=["CPUExecutionProvider"])
        self._inputs = [(given.name, _DTYPES[given.type]) for given in self._session.get_inputs()]
        self._outputs = [given.name for given in self._session.get_outputs()]

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """See EngineModule."""
        given = {name: _value(leaf, dtype) for (name, dtype), leaf in zip(self._inputs, leaves, strict=True)}
        results = self._session.run_with_ort_values(self._outputs, given)
        return tuple(from_dlpack(result._ortvalue.to_dlpack()) for result in results)


def _options(threads: int) -> SessionOptions:
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # torch's own threads need the cores next
    return options


_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
}


def _value(leaf: Tensor, dtype: torch.dtype) -> Any:
    if leaf.dtype is not dtype:
        raise RuntimeError(f"the model takes {dtype}, not {leaf.dtype}")
    return OrtValue.ortvalue_from_numpy(leaf.detach().contiguous().numpy())
