"""A compiled model in a notebook: its repr, and the ledger as a table. Every text is escaped: names are the user's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from fxquant.ledger import Ledger
from fxquant.table import HEADS, cells, notice_line

MOST_ROWS = 200  # a notebook is no place for thousands


def page(title: str, ledger: Ledger) -> str:
    """One <div> without scripts, styles or links of its own."""
    layers, notices = ledger.layers, ledger.notices
    rows = "".join(_row("td", cells(row)) for row in layers[:MOST_ROWS])
    more = f"<p>and {len(layers) - MOST_ROWS} more layers</p>" if len(layers) > MOST_ROWS else ""
    told = "".join(f"<li>{escape(notice_line(row))}</li>" for row in notices)
    listed = f"<ul>{told}</ul>" if told else ""
    return f"<div><code>{escape(title)}</code><table>{_row('th', HEADS)}{rows}</table>{more}{listed}</div>"


def _row(tag: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"
