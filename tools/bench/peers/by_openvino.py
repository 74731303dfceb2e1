"""OpenVINO: the float model in its default precision (bfloat16 where the CPU has it) or float32, and NNCF's int8.

Quantized once with a free batch; each compiled model has the static shape that it runs, and shares memory with its
caller.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from fxquant.tools.bench.peers.job import Bound, Builder, Inputs, Job, Runner, as_tensor

openvino: Any = import_module("openvino")  # an extra, without annotations


def unquantized(job: Job, *, precision: str = "") -> Builder:
    """The float model. `precision` is OpenVINO's own word ('f32'); '' leaves it to OpenVINO."""
    model = converted(job)
    return lambda rows: request(model, job.rows(rows), job.threads, precision)


def quantized(job: Job, *, model_type: str = "") -> Builder:
    """nncf.quantize with its default preset, on the same rows; `model_type` is a name of nncf.ModelType."""
    model = by_nncf(job, converted(job), model_type)
    return lambda rows: request(model, job.rows(rows), job.threads)


def by_nncf(job: Job, model: Any, model_type: str = "") -> Any:
    """The int8 model that NNCF makes."""
    nncf = import_module("nncf")
    rows = job.single_rows()
    data = nncf.Dataset(rows, lambda row: [tensor.numpy() for tensor in row])
    options = {"model_type": nncf.ModelType[model_type]} if model_type else {}
    return nncf.quantize(model, data, subset_size=len(rows), **options)


def converted(job: Job) -> Any:
    """OpenVINO's model, the batch free."""
    shapes = [openvino.PartialShape([-1, *tensor.shape[1:]]) for tensor in job.held_out]
    return openvino.convert_model(job.model, example_input=job.rows(2), input=shapes)


def request(model: Any, example: Inputs, threads: int, precision: str = "", **settings: Any) -> Runner:
    """An infer request for batches of the example's shapes."""
    made = compiled(model, example, threads, precision, **settings)

    def runner(inputs: Inputs) -> Bound:
        own = made.create_infer_request()
        for index, tensor in enumerate(inputs):
            own.set_input_tensor(index, openvino.Tensor(tensor.numpy(), shared_memory=True))
        return Bound(lambda: own.infer(share_outputs=True), lambda result: as_tensor(result[0]))

    return runner


def compiled(model: Any, example: Inputs, threads: int, precision: str = "", **settings: Any) -> Any:
    """OpenVINO's compiled model for the latency of one request."""
    own = model.clone()
    own.reshape({index: list(tensor.shape) for index, tensor in enumerate(example)})
    wanted = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **settings}
    if precision:
        wanted["INFERENCE_PRECISION_HINT"] = precision
    return core().compile_model(own, "CPU", wanted)


@cache
def core() -> Any:
    """One that never ends: see fxquant/engines/openvino.py."""
    return openvino.Core()
