"""Why one OpenVINO graph is faster than another: what each op takes, ours beside NNCF's, by kernel and by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fxquant.tools.bench.peers.job import Job

CALLS = 40


@dataclass(frozen=True, slots=True)
class Op:
    """One op of a compiled graph. `microseconds` is the least of all calls."""

    name: str
    kind: str  # 'Convolution'
    kernel: str  # 'brgconv_avx512_amx_I8'
    microseconds: float

    @property
    def is_layer(self) -> bool:
        """Does it have weights, so that the other graph has it too?"""
        return "Convolution" in self.kind or self.kind.startswith(("FullyConnected", "RNN", "LSTM", "GRU"))


def profiled(model: Any, job: Job) -> list[Op]:
    """The ops that run, in order, one row of input at a time."""
    from fxquant.tools.bench.peers.by_openvino import compiled, openvino

    example = job.rows(1)
    request = compiled(model, example, job.threads, PERF_COUNT=True).create_infer_request()
    for index, tensor in enumerate(example):
        request.set_input_tensor(index, openvino.Tensor(tensor.numpy(), shared_memory=True))
    found: dict[str, Any] = {}
    least: dict[str, float] = defaultdict(lambda: float("inf"))
    for _ in range(CALLS):
        request.infer()
        for each in request.get_profiling_info():
            found[each.node_name] = each
            least[each.node_name] = min(least[each.node_name], each.real_time.total_seconds() * 1e6)
    ops = [Op(name, each.node_type, each.exec_type, least[name]) for name, each in found.items()]
    return [op for op in ops if op.microseconds > 0]


def ours(job: Job) -> Any:
    """The OpenVINO model that fxquant runs. ValueError where torch runs a part of it."""
    import fxquant
    from fxquant.engines.engine import EngineModule

    made = fxquant.compile(
        job.model, "int8", calibration_data=job.batches, example_inputs=job.rows(1), target="openvino"
    )
    engines = [module for module in made.graph_module.modules() if isinstance(module, EngineModule)]
    if len(engines) != 1 or engines[0].engine != "openvino":
        raise ValueError(f"{job.name} runs as {len(engines)} pieces on {made.target}, not as one OpenVINO graph")
    return import_module("fxquant.engines.openvino").to_model(engines[0].__dict__["_canonical"], job.rows(1))


def by_kernel(ops: Iterable[Op]) -> dict[str, tuple[int, float]]:
    """'Convolution brgconv_avx512_amx_I8' → how many, microseconds in all."""
    found: dict[str, tuple[int, float]] = {}
    for op in ops:
        key = f"{op.kind} {op.kernel}"
        count, total = found.get(key, (0, 0.0))
        found[key] = count + 1, total + op.microseconds
    return found


def pairs(own: Iterable[Op], theirs: Iterable[Op]) -> list[tuple[Op, Op]]:
    """The layers of both graphs, which both run in the model's order; none where one graph has more of them."""
    left, right = ([op for op in ops if op.is_layer] for ops in (own, theirs))
    return list(zip(left, right, strict=True)) if len(left) == len(right) else []


def show(name: str, own: list[Op], theirs: list[Op], peer: str) -> None:
    """Two tables: kernels, and the twenty layers that differ most."""
    from rich.table import Table

    from fxquant.tools.terminal import console

    kernels, others_kernels = by_kernel(own), by_kernel(theirs)
    table = Table(title=f"{name}: microseconds by kernel, fxquant {_total(own)}, {peer} {_total(theirs)}")
    for heading in ("kernel", "fxquant", peer, "difference"):
        table.add_column(heading, overflow="fold", justify="left" if heading == "kernel" else "right")
    for key in sorted(
        {**kernels, **others_kernels}, key=lambda key: -abs(_at(kernels, key)[1] - _at(others_kernels, key)[1])
    ):
        (count, total), (others, spent) = _at(kernels, key), _at(others_kernels, key)
        table.add_row(key, f"{total:.0f} ({count})", f"{spent:.0f} ({others})", f"{total - spent:+.0f}")
    console().print(table)
    both = pairs(own, theirs)
    if not both:
        return
    table = Table(title=f"{name}: the layers that differ most, of {len(both)}")
    for heading in ("layer", "fxquant", "its kernel", peer, "its kernel", "difference"):
        table.add_column(heading, overflow="fold")
    for ours, other in sorted(both, key=lambda pair: -abs(pair[0].microseconds - pair[1].microseconds))[:20]:
        apart = ours.microseconds - other.microseconds
        times = (f"{ours.microseconds:.0f}", f"{other.microseconds:.0f}")
        table.add_row(ours.name, times[0], ours.kernel, times[1], other.kernel, f"{apart:+.0f}")
    console().print(table)


def _at(kernels: dict[str, tuple[int, float]], key: str) -> tuple[int, float]:
    return kernels.get(key, (0, 0.0))


def _total(ops: list[Op]) -> str:
    return f"{sum(op.microseconds for op in ops):.0f}"


def profile(name: str, case: Any, peer: str, *, full: bool, threads: int) -> None:
    """Build both graphs in this process, and print what each op takes. `peer` is a side of OpenVINO's."""
    from fxquant.tools.bench.peers import by_openvino
    from fxquant.tools.bench.peers.sides import SIDES

    job = Job.of(name, case, full=full, threads=threads)
    source = by_openvino.converted(job)
    if SIDES[peer].group == "openvino":
        source = by_openvino.by_nncf(job, source, **SIDES[peer].options)
    show(name, profiled(ours(job), job), profiled(source, job), peer)
