"""ONNX Runtime: the float model, its static quantizer (QDQ) and its dynamic one.

The model is exported once with a free batch, and each session is told the batch that it runs, so that its shapes are
static. Inputs and outputs are bound ahead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from fxquant.tools.bench.peers.job import Bound, Builder, Inputs, Job, Runner, as_tensor

onnx: Any = import_module("onnx")  # extras, and half of them without annotations
onnxruntime: Any = import_module("onnxruntime")
quantization: Any = import_module("onnxruntime.quantization")


def unquantized(job: Job) -> Builder:
    """float32, with all of its graph optimizations."""
    return _through_files(job, lambda source, target: source)


def static(job: Job) -> Builder:
    """QDQ with per-channel int8 weights and uint8 activations, ranges from the same batches, preprocessed first."""

    def quantize(source: Path, target: Path) -> Path:
        quantization.quantize_static(
            _preprocessed(source),
            target,
            _Reader(job),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return target

    return _through_files(job, quantize)


def dynamic(job: Job) -> Builder:
    """int8 weights, activations quantized at each call."""

    def quantize(source: Path, target: Path) -> Path:
        weights = quantization.QuantType.QInt8
        quantization.quantize_dynamic(_preprocessed(source), target, per_channel=True, weight_type=weights)
        return target

    return _through_files(job, quantize)


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # no annotations there
    """The calibration batches, one after the other."""

    def __init__(self, job: Job) -> None:
        names = _input_names(job)
        self._left = iter([dict(zip(names, map(_array, batch), strict=True)) for batch in job.batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def _preprocessed(source: Path) -> Path:
    ready = source.with_name("preprocessed.onnx")
    quantization.quant_pre_process(source, ready)
    return ready


def _through_files(job: Job, quantize: Callable[[Path, Path], Path]) -> Builder:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        export(job, source)
        made = quantize(source, Path(folder) / "quantized.onnx").read_bytes()
    return lambda rows: session(made, rows, job.threads)


def export(job: Job, path: Path) -> None:
    """torch.onnx's exporter, the batch free."""
    free = tuple({0: torch.export.Dim("batch", min=1, max=1024)} for _ in job.held_out)
    torch.onnx.export(
        job.model,
        job.rows(2),
        path,
        dynamo=True,
        input_names=_input_names(job),
        dynamic_shapes=free,
        external_data=False,
        verbose=False,
    )


def session(model: bytes, rows: int, threads: int) -> Runner:
    """A session for batches of `rows`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    for free in _free_dimensions(model):
        options.add_free_dimension_override_by_name(free, rows)
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in made.get_inputs()]
    result = made.get_outputs()[0].name

    def runner(inputs: Inputs) -> Bound:
        binding = made.io_binding()
        for name, tensor in zip(names, inputs, strict=True):
            binding.bind_cpu_input(name, _array(tensor))
        binding.bind_output(result)
        return Bound(lambda: made.run_with_iobinding(binding), lambda _: as_tensor(binding.get_outputs()[0].numpy()))

    return runner


def _free_dimensions(model: bytes) -> set[str]:
    given = onnx.load_from_string(model).graph.input
    return {size.dim_param for each in given for size in each.type.tensor_type.shape.dim if size.dim_param}


def _input_names(job: Job) -> list[str]:
    return [f"input_{index}" for index in range(len(job.held_out))]


def _array(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().numpy()
