"""A comparison as an aligned text table, and as a table in a notebook: the same cells in both."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fxquant.reporting.wording import decibels, duration, size

if TYPE_CHECKING:
    from fxquant.comparing.comparison import Comparison
    from fxquant.comparing.rows import ComparedRow, Latency

NONE = "–"
BEST = "★"  # on the Pareto front
_SHARES = ("accuracy", "top5")


def heads(comparison: Comparison) -> list[str]:
    """The columns: the metric first, then what it costs."""
    named = [] if comparison.metric == "sqnr" else [comparison.metric]
    timed = [f"latency, batch {batch}{_threads(comparison, threads)}" for batch, threads in comparison.settings]
    return ["", "candidate", *named, "SQNR", "size", *timed, "peak memory", "MACs in int8", "compile"]


def cells(row: ComparedRow, comparison: Comparison) -> list[str]:
    """The same for one row, as text; a failed one has its reason elsewhere."""
    best = BEST if row.name in comparison.pareto else ""
    named = [] if comparison.metric == "sqnr" else [metric_text(row.metric, comparison.metric)]
    timed = [latency_text(row.latency(*setting)) for setting in comparison.settings]
    return [
        best,
        row.name,
        *named,
        "reference" if row.is_float else decibels(row.sqnr_db),
        NONE if row.size_bytes is None else size(row.size_bytes),
        *timed,
        NONE if row.peak_bytes is None else size(row.peak_bytes),
        share_text(row.int8_share),
        NONE if row.compile_seconds is None else duration(row.compile_seconds),
    ]


def metric_text(value: float | None, name: str) -> str:
    """'98.89 %' for a share, else four digits."""
    if value is None:
        return NONE
    if name == "sqnr":
        return decibels(value)
    return f"{100 * value:.2f} %" if name in _SHARES else f"{value:.4g}".replace("-", "−")


def latency_text(latency: Latency | None) -> str:
    """'1.25 ms (1.21–1.33)': the median and the quartiles, in one unit."""
    if latency is None:
        return NONE
    middle = duration(latency.median_seconds)
    unit = middle.rpartition(" ")[2]
    scale = {"s": 1.0, "ms": 1e3, "µs": 1e6}[unit]
    low, high = (_three_digits(seconds * scale) for seconds in (latency.low_seconds, latency.high_seconds))
    return f"{middle} ({low}–{high})"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def share_text(share: float | None) -> str:
    """'97 %'; '< 1 %' and '> 99 %' for what would be rounded to nothing or to all."""
    if share is None:
        return NONE
    if 0 < share < 0.005 or 0.995 <= share < 1:
        return "< 1 %" if share < 0.5 else "> 99 %"
    return f"{100 * share:.0f} %"


def text_table(comparison: Comparison) -> str:
    """Aligned columns; then why candidates failed, what is to be known of rows, and the notices."""
    rows = [heads(comparison)]
    for row in comparison.rows:
        made = cells(row, comparison)
        rows.append(made if row.failure is None else [*made[:2], f"failed: {row.failure.code}"])
    return "\n".join([*_aligned(rows), *told(comparison)])


def told(comparison: Comparison) -> list[str]:
    """Everything that is said in sentences, a line each."""
    lines = [f"{row.name} failed: {row.failure}" for row in comparison.rows if row.failure is not None]
    lines += [f"{row.name}: {note}" for row in comparison.rows for note in row.notes]
    lines += [f"note: {' '.join(f'{row.code} {row.reason}'.split())}" for row in comparison.notices]
    if comparison.pareto:
        parts = "metric, size and latency" if comparison.settings else "metric and size"
        lines.append(f"{BEST} no other row is better in one of {parts} without being worse in another")
    timing = "latency: median and quartiles; " if comparison.settings else ""
    return [*lines, timing + comparison.machine]


def _threads(comparison: Comparison, threads: int) -> str:
    several = len({number for _, number in comparison.settings}) > 1
    return f", {threads} thread{'s'[: threads > 1]}" if several else ""


def _aligned(rows: list[list[str]]) -> list[str]:
    """Text to the left, numbers to the right; a row of fewer cells ends where it ends."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    widths[1] = max(len(row[1]) for row in rows)
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: list[str], widths: list[int]) -> list[str]:
    is_whole = len(row) == len(widths)
    pairs = enumerate(zip(row, widths, strict=False))
    return [
        cell.ljust(width) if index < 2 else cell.rjust(width) if is_whole else cell for index, (cell, width) in pairs
    ]


def notebook_table(comparison: Comparison) -> str:
    """One <div> without scripts, styles or links of its own; every text is escaped: names are the user's."""
    body = _line("th", heads(comparison)) + "".join(_html_row(row, comparison) for row in comparison.rows)
    said = "".join(f"<li>{escape(line)}</li>" for line in told(comparison))
    return f"<div><code>{escape(repr(comparison))}</code><table>{body}</table><ul>{said}</ul></div>"


def _html_row(row: ComparedRow, comparison: Comparison) -> str:
    made = cells(row, comparison)
    if row.failure is None:
        return _line("td", made)
    told = f'<td colspan="{len(made) - 2}">{escape(str(row.failure))}</td>'
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in made[:2]) + told + "</tr>"


def _line(tag: str, texts: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"
