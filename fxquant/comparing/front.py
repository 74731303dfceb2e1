"""compare(): make every candidate, run them all on the same batches, time them in turns, and tell it in one table."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fxquant import targets as engines
from fxquant.comparing.candidates import Candidate, make, read_candidates
from fxquant.comparing.clock import timed
from fxquant.comparing.comparison import Comparison
from fxquant.comparing.data import MAX_BATCHES, EvaluationData, ForwardFn, read_data
from fxquant.comparing.measured import Bench, measured_row
from fxquant.comparing.metrics import read_metric
from fxquant.comparing.rows import FLOAT_NAME, ComparedRow, Failure
from fxquant.comparing.running import float_outputs, ready
from fxquant.comparing.settings import SECONDS, check_choices, read_settings
from fxquant.errors import ComparisonError, FxQuantError
from fxquant.ledger import Ledger
from fxquant.preflight import unwrapped
from fxquant.sandbox import untouched_world


def compare(
    model: nn.Module,
    candidates: Mapping[str, Any] | Sequence[tuple[str, Any]],
    data: Any,
    metric: Any = None,
    *,
    calibration_data: Any = None,
    targets: str | Sequence[str] | None = None,
    batch_sizes: Sequence[int] = (1, 16),
    threads: Sequence[int] | None = None,
    seconds: float = SECONDS,
    max_batches: int = MAX_BATCHES,
    is_higher_better: bool | None = None,
    forward_fn: ForwardFn | None = None,
    compile_options: Mapping[str, Any] | None = None,
) -> Comparison:
    """Candidates side by side, the float model first: accuracy, SQNR, size, latency, memory. Nothing given is changed.

    Args:
        model: the trained float model.
        candidates: by name, in the order of the rows. A preset, a QConfigMapping, a recipe or its path is compiled; so
            is a dict of options of `fxquant.compile` with 'qconfig_mapping' among them. A compiled model, a trainable
            one or any `nn.Module` is taken as it is; a function is called with a copy of the model and gives one.
        data: test batches, as `fxquant.evaluate` takes them. They are read once and kept, so that every candidate
            gets the same ones, from a shuffled loader too.
        metric: as in `fxquant.evaluate`.
        calibration_data: for static candidates. None: they are calibrated on the test data, and notice FXQ318 says so.
        targets: engines; what is compiled here makes one row for each of them: 'int8 on onednn'.
        batch_sizes: of the timing. Where the data has fewer rows they are repeated, with a notice.
        threads: torch's threads for the timing. None: as many as torch has now.
        seconds: how long to time, in all. Candidates take turns, and the order is reversed every round. 0: no timing.
        max_batches: how many batches are read at most; FXQ319 says that there may be more.
        is_higher_better: of a function as metric.
        forward_fn: `forward_fn(model, batch)` calls the model on a batch of a shape of its own.
        compile_options: for all candidates that are compiled here, such as `leaf_modules`.

    Returns:
        A Comparison. A candidate that fails has a row that says why, and the others go on.

    Raises:
        ComparisonError: FXQ136 for names that do not tell candidates apart, FXQ140 when all of them failed.
        MetricError: FXQ137, FXQ138, FXQ139 when the metric fails on the float model.
        CalibrationError: FXQ304 where the float model fails on the data, FXQ312 where the data fails, FXQ317 where it
            is empty.
        UsageError: FXQ111 for an option that means nothing.
    """
    settings = read_settings(batch_sizes, threads, seconds)
    check_choices(targets=targets, is_higher_better=is_higher_better, compile_options=compile_options)
    chosen = read_candidates(candidates, targets, compile_options)
    plain = unwrapped(model, Ledger())
    ledger = Ledger()
    with untouched_world():
        floating = ready(model, ledger)
        reading = partial(read_data, plain, ledger=ledger, max_batches=max_batches, forward_fn=forward_fn)
        read = reading(data)
        calibration = read if calibration_data is None else reading(calibration_data, name="calibration_data")
        reference = float_outputs(floating, read, ledger, "the float model")
        asked = read_metric(metric, read, reference[0], ledger, is_higher_better=is_higher_better)
        bench = Bench(floating, read, reference, asked, settings, ledger)
        rows = {FLOAT_NAME: measured_row(FLOAT_NAME, floating, bench)}
        modules: dict[str, nn.Module] = {FLOAT_NAME: floating}
        _measure(chosen, model, calibration, bench, rows, modules)
        for name, (latencies, notes) in timed(modules, read, settings, ledger).items():
            rows[name] = replace(rows[name], latencies=latencies, notes=(*rows[name].notes, *notes))
    return Comparison(
        rows=tuple(rows.values()),
        metric=asked.name,
        is_higher_better=asked.is_higher_better,
        model_name=type(plain).__name__,
        machine=_machine(),
        notices=ledger.notices,
    )


def _measure(
    chosen: Sequence[Candidate],
    model: nn.Module,
    calibration: EvaluationData,
    bench: Bench,
    rows: dict[str, ComparedRow],
    modules: dict[str, nn.Module],
) -> None:
    """A row for each candidate, and its module where there is one. FXQ140 when all of them failed."""
    errors: list[Exception] = []
    for candidate in chosen:
        try:
            with untouched_world():  # what one does to it, the next does not meet
                modules[candidate.name], rows[candidate.name] = _row(candidate, model, calibration, bench)
        except Exception as error:  # whatever it is, it is this candidate's own, and the others go on
            rows[candidate.name] = _failed(candidate, error)
            errors.append(error)
    if len(errors) == len(chosen):
        raise _all_failed(rows, errors[0]) from errors[0]


def _row(
    candidate: Candidate, model: nn.Module, calibration: EvaluationData, bench: Bench
) -> tuple[nn.Module, ComparedRow]:
    own = Ledger()
    made = make(candidate, model, calibration, own)
    row = measured_row(candidate.name, made.module, bench)
    notes = tuple(f"{notice.code} {notice.reason}" for notice in own.notices)
    return made.module, replace(row, compile_seconds=made.seconds, notes=(*notes, *row.notes))


def _failed(candidate: Candidate, error: Exception) -> ComparedRow:
    if isinstance(error, FxQuantError):
        failure = Failure(error.code, error.message, error.hint)
    else:
        failure = Failure("FXQ140", f"it raised {type(error).__name__}: {error}")
    return ComparedRow(candidate.name, "failed", failure=failure)


def _all_failed(rows: Mapping[str, ComparedRow], first: Exception) -> ComparisonError:
    told = "; ".join(f"'{row.name}': {row.failure}" for row in rows.values() if row.failure is not None)
    hint = getattr(first, "hint", "") or "the first one's error is chained"
    return ComparisonError("FXQ140", f"every candidate failed: {told}", hint=hint)


def _machine() -> str:
    cpu = engines.isa()
    vnni = {True: " with VNNI", False: " without VNNI", None: ""}[cpu.vnni]
    return f"torch {torch.__version__} on {platform.system()} {cpu.machine}{vnni}, {os.cpu_count()} cores"
