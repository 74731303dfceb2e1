"""The ledger as an aligned text table: each layer's asked, got and why, then the notices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fxquant.row import Row

HEADS = ("layer", "op", "asked", "got", "why")


def cells(row: Row) -> tuple[str, ...]:
    """The five cells of a layer's row, each on one line; a code stands before its reason."""
    why = f"{row.code} {row.reason}".strip()
    return tuple(" ".join(text.split()) for text in (row.module or row.site, row.op, row.requested, row.effective, why))


def notice_line(row: Row) -> str:
    """A notice on one line: its code, the module where it has one, what it says."""
    return " ".join(f"{row.code} {row.module} {row.reason}".split())


def table(layers: Iterable[Row], notices: Iterable[Row]) -> str:
    """Aligned columns, the reason last, then the notices; no line has trailing spaces."""
    lines = aligned((HEADS, *(cells(row) for row in layers)))
    return "\n".join([*lines, *(f"note: {notice_line(row)}" for row in notices)])


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows as lines: each column as wide as its widest cell, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
