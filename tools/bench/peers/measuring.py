"""The run: for each model the sides are built one after the other, then take turns."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from fxquant.tools.bench.peers.job import Job
from fxquant.tools.bench.peers.measured import ModelResult, Result, SideResult
from fxquant.tools.bench.peers.sides import Side
from fxquant.tools.bench.peers.turns import SideFailed, Worker, ended, in_turns

_PACKAGES = ("torch", "onnxruntime", "openvino", "nncf", "torchao")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is made."""

    batches: tuple[int, ...] = (1, 16)
    rounds: int = 15
    threads: int = 2
    is_full: bool = True
    tests: str | None = None
    most_seconds: float = 600.0  # that a side may take to build


def measure(
    cases: Mapping[str, Any],
    sides: Sequence[Side],
    settings: Settings,
    told: Callable[[str], object] = lambda text: None,
) -> Result:
    """All sides on all models. A side that fails is a row with its reason."""
    models = [_one(name, case, sides, settings, _prefixed(name, told)) for name, case in cases.items()]
    about = {
        "machine": _machine(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "batches": list(settings.batches),
        "rounds": settings.rounds,
        "threads": settings.threads,
        "is_full": settings.is_full,
    }
    return Result(about, tuple(models))


def _prefixed(name: str, told: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: told(f"{name}: {text}")


def _one(name: str, case: Any, sides: Sequence[Side], settings: Settings, told: Callable[[str], object]) -> ModelResult:
    told("the float model")
    job = Job.of(name, case, full=settings.is_full, threads=settings.threads)
    with tempfile.TemporaryDirectory() as folder, ended([]) as workers:
        path = Path(folder) / "job.pt"
        job.save(path)
        found = {side.name: _built(side, path, workers, settings, told) for side in sides if side.suits(job.kind)}
        for rows in settings.batches:
            ready = [worker for worker in workers if rows in found[worker.side].sqnr_db]
            for side, seconds in in_turns(ready, rows, rounds=settings.rounds, told=told).items():
                found[side] = replace(found[side], seconds={**found[side].seconds, rows: seconds})
    return ModelResult(name, tuple(found.values()))


def _built(
    side: Side, path: Path, workers: list[Worker], settings: Settings, told: Callable[[str], object]
) -> SideResult:
    """Built for each batch size; a failure keeps what was built before it."""
    told(f"building {side.name}")
    worker = Worker(path, side.name, tests=settings.tests, threads=settings.threads, most_seconds=settings.most_seconds)
    workers.append(worker)
    result = SideResult(side.name)
    for rows in settings.batches:
        try:
            reply = worker.ask("build", rows=rows)
        except SideFailed as failed:
            return replace(result, failure=f"batch {rows}: {failed}" if result.sqnr_db else str(failed))
        result = replace(
            result,
            build_seconds=result.build_seconds if result.sqnr_db else reply["seconds"],
            sqnr_db={**result.sqnr_db, rows: reply["sqnr_db"]},
            note=result.note or reply["note"],
        )
    return result


def _machine() -> str:
    from fxquant.targets import isa

    cpu = isa()
    parts = [name for name in ("avx2", "avx512", "vnni", "amx", "bf16") if getattr(cpu, name)]
    return f"{platform.machine()}, {', '.join(parts)}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
