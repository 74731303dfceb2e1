"""The ledger as a table for the terminal: what each layer asked for, what it got, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def ledger_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Of `Ledger.as_dicts()`, the layers; notices are no rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="the ledger: what each layer asked for, what it got, and why")
    for heading in ("layer", "op", "asked", "got", "why"):
        table.add_column(heading, overflow="fold")
    layers = [row for row in rows if row["site"]]
    calls = Counter(row["module"] for row in layers)
    for row in layers:
        why = " ".join(part for part in (row["code"], row["reason"]) if part)
        at = f" at {row['site']}" if calls[row["module"]] > 1 else ""  # shared
        cells = (f"{row['module']}{at}" or row["site"], row["op"], row["requested"], row["effective"], why)
        table.add_row(*(Text(cell) for cell in cells))  # names are the user's text, never markup
    return table
