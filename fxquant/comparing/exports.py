"""A comparison as plain data: dicts, JSON that any reader takes, and CSV with one column for each number."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.comparing.comparison import Comparison
    from fxquant.comparing.rows import ComparedRow

_NUMBERS = ("size_bytes", "peak_bytes", "metric", "sqnr_db", "int8_share", "compile_seconds")


def as_dicts(comparison: Comparison) -> list[dict[str, Any]]:
    """A dict for each row; what JSON has no number for is text."""
    best = comparison.pareto
    return [_plain(asdict(row)) | {"is_pareto": row.name in best} for row in comparison.rows]


def as_json(comparison: Comparison) -> str:
    """One object: what was compared, by what, where, and the rows."""
    whole = {
        "model": comparison.model_name,
        "metric": comparison.metric,
        "is_higher_better": comparison.is_higher_better,
        "machine": comparison.machine,
        "pareto": list(comparison.pareto),
        "rows": as_dicts(comparison),
        "notices": [{"code": row.code, "reason": row.reason, "hint": row.hint} for row in comparison.notices],
    }
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(comparison: Comparison) -> str:
    """A header and a line for each row; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    timed = [
        f"{part}_seconds_batch{batch}_threads{threads}"
        for batch, threads in comparison.settings
        for part in ("median", "low", "high")
    ]
    before, after = ["name", "kind", "target"], ["size_of", *timed, "is_pareto", "code", "failure"]
    writer.writerow([*before, *_named(comparison, {*before, *after, *_NUMBERS}), *after])
    for row in comparison.rows:
        writer.writerow(_cells(row, comparison))
    return text.getvalue()


def _named(comparison: Comparison, taken: set[str]) -> list[str]:
    """The metric under its own name, unless another column has that."""
    name = comparison.metric if comparison.metric not in {*taken, "sqnr"} else "metric"
    return [name if number == "metric" else number for number in _NUMBERS]


def _cells(row: ComparedRow, comparison: Comparison) -> list[Any]:
    numbers = [_text(getattr(row, name)) for name in _NUMBERS]
    timed: list[Any] = []
    for setting in comparison.settings:
        found = row.latency(*setting)
        parts = (found.median_seconds, found.low_seconds, found.high_seconds) if found is not None else ("", "", "")
        timed += [_text(part) for part in parts]
    failure = ("", "") if row.failure is None else (row.failure.code, row.failure.message)
    is_best = row.name in comparison.pareto
    return [row.name, row.kind, row.target, *numbers, row.size_of, *timed, is_best, *failure]


def _text(value: Any) -> Any:
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case float() if not math.isfinite(value):
            return str(value)
    return value
