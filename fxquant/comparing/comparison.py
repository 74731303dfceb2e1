"""Comparison: the rows of all candidates, as a table, as CSV, JSON, charts and one HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxquant.comparing.exports import as_csv, as_dicts, as_json
from fxquant.comparing.pareto import front
from fxquant.comparing.rows import ComparedRow
from fxquant.comparing.tables import notebook_table, text_table
from fxquant.errors import UsageError, did_you_mean
from fxquant.files import write_whole
from fxquant.row import Row


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `fxquant.compare` found. Iterate it for its rows: the float model, then each candidate as it was given."""

    rows: tuple[ComparedRow, ...]
    metric: str  # its name
    is_higher_better: bool
    model_name: str
    machine: str  # torch, CPU and threads, in words
    notices: tuple[Row, ...] = ()

    def __iter__(self) -> Iterator[ComparedRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> ComparedRow:
        """The row of a candidate by its name. FXQ136 with the nearest names."""
        names = [row.name for row in self.rows]
        if name not in names:
            raise UsageError("FXQ136", f"no candidate is called {name!r}", hint=did_you_mean(str(name), names))
        return self.rows[names.index(name)]

    @property
    def settings(self) -> tuple[tuple[int, int], ...]:
        """(batch size, threads) of each timing, in the order that was asked for."""
        return tuple(dict.fromkeys(latency.setting for row in self.rows for latency in row.latencies))

    @property
    def pareto(self) -> tuple[str, ...]:
        """Names of the rows that no other one beats: in the metric, the latency of the first setting and the size.

        Where nothing was timed, in metric and size.
        """
        points: dict[str, tuple[float, ...]] = {}
        for row in self.rows:
            latency = row.latency(*self.settings[0]) if self.settings else None
            found = (self.cost(row), row.size_bytes, *((latency and latency.median_seconds,) if self.settings else ()))
            known = tuple(value for value in found if value is not None)
            if len(known) == len(found):
                points[row.name] = known
        return front(points)

    def cost(self, row: ComparedRow) -> float | None:
        """The metric of a row, turned so that lower is better."""
        if row.metric is None:
            return None
        return -row.metric if self.is_higher_better else row.metric

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dict for each row, of numbers, text, lists and dicts. Infinities are 'inf' and '-inf'."""
        return as_dicts(self)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as one JSON object, whole or not at all. FXQ118 when it cannot be written."""
        return write_whole(path, as_json(self).encode())

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as CSV, one line a row, whole or not at all. FXQ118 when it cannot be written."""
        return write_whole(path, as_csv(self).encode())

    def plot(self, path: str | os.PathLike[str], *, kind: str = "latency") -> Path:
        """Draw one chart with matplotlib, as the path's suffix says (.png, .svg, .pdf).

        Args:
            path: where to. Written whole or not at all.
            kind: 'latency' or 'size', with the metric against it and the Pareto front marked; 'bars', the latency of
                each setting with its spread; 'layers', the SQNR that each layer alone costs in each candidate.

        Raises:
            UsageError: FXQ111 for no such kind or nothing to draw, FXQ112 without matplotlib, FXQ118.
        """
        from fxquant.comparing.plotting import plot

        return plot(self, path, kind)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML file: the table, the charts, and what the layers got in each candidate.

        Written whole or not at all. FXQ118 when it cannot be written.
        """
        from fxquant.comparing.report import render

        return write_whole(path, render(self).encode("utf-8", "backslashreplace"))

    def __str__(self) -> str:
        return text_table(self)

    def __repr__(self) -> str:
        failed = sum(row.failure is not None for row in self.rows)
        told = f", {failed} failed" if failed else ""
        return f"Comparison({self.model_name}, {len(self.rows)} rows by {self.metric}{told})"

    def _repr_html_(self) -> str:
        return notebook_table(self)
