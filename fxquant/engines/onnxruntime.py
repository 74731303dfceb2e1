"""ONNX Runtime: the QDQ model in a session of its own, which reads torch's memory and gives its own to torch."""

from __future__ import annotations

import onnxruntime
import torch
from onnxruntime import InferenceSession, SessionOptions
from torch import Tensor, fx

from fxquant.engines.engine import EngineModule, EngineRefusal
from fxquant.engines.onnx import to_onnx
from fxquant.errors import first_line


def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
    """The graph in a session on so many threads; sizes that it leaves open stay open. EngineRefusal."""
    return OnnxRuntimeModule(session_of(to_onnx(canonical, leaves).SerializeToString(), options_for(threads)))


def session_of(model: bytes, options: SessionOptions) -> InferenceSession:
    """The model in a session on the CPU. EngineRefusal where the runtime does not take it."""
    try:
        return InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of any kind: each status of the runtime is an exception class of its own
        raise EngineRefusal(f"ONNX Runtime does not take it: {first_line(error)}") from error


class OnnxRuntimeModule(EngineModule):
    """A session. It may be called from several threads at once."""

    engine = "onnxruntime"

    def __init__(self, session: InferenceSession) -> None:
        super().__init__()
        self._session = session
        self._inputs = [(given.name, _DTYPES.get(given.type)) for given in session.get_inputs()]
        self._outputs = [given.name for given in session.get_outputs()]

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """See EngineModule."""
        given = {}
        for (name, dtype), leaf in zip(self._inputs, leaves, strict=True):
            if leaf.dtype is not dtype:
                raise RuntimeError(f"input '{name}' takes {dtype}, not {leaf.dtype}")
            given[name] = leaf.detach().resolve_neg().contiguous().numpy()
        try:
            results = self._session.run(self._outputs, given)
        except Exception as error:  # of any kind, as in session_of
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        return tuple(torch.from_numpy(result) for result in results)


def options_for(threads: int) -> SessionOptions:
    """So many threads, all optimizations, and nothing on stderr."""
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # errors come as exceptions
    options.add_session_config_entry("session.force_spinning_stop", "1")  # torch's threads need the cores after a run
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # weight-only: float activations
    return options


_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}
