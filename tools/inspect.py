"""`fxquant inspect`: the nodes of a graph as a table, with what each costs and what was decided of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from fxquant.tools.model_options import CODE_RUNS, Options, ReferenceType, model_options
from fxquant.tools.model_reference import STAGES, Reference
from fxquant.tools.output import note

if TYPE_CHECKING:
    from rich.table import Table

    from fxquant.graphs.inspection import InspectRow
    from fxquant.row import Row

MOST_WIDTH = 10_000  # columns
ORDERS = ("graph", "macs", "parameters", "bytes")
_COLUMNS = {"macs": "macs", "parameters": "parameters", "bytes": "weight_bytes"}


@click.command(epilog=CODE_RUNS)
@click.argument("model", type=ReferenceType())
@click.option("--stage", type=click.Choice(STAGES), help="Which graph. A float model's is traced unless this is said.")
@click.option("--sort", type=click.Choice(ORDERS), default="graph", show_default=True, help="Largest first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: rows, totals, the analysis, notes.")
@model_options
def inspect(model: Reference, stage: str | None, sort: str, as_json: bool, options: Options) -> None:
    """List a graph's nodes: shapes, parameters, MACs, decisions.

    Nothing is measured: `profile` runs the model on data, for distributions, times and advice.
    """
    from fxquant.graphs.analysis import analyse
    from fxquant.graphs.inspection import as_dicts, inspect_rows, total_row
    from fxquant.graphs.remedies import reasons_of
    from fxquant.tools.subject import Subject

    subject = Subject(model, options)
    subject.decide()
    snapshot = subject.snapshot(stage or model.stage)
    rows = _sorted(inspect_rows(snapshot, _decided(subject.ledger), like=subject.like), sort)
    whole = total_row(snapshot, like=subject.like)
    found = analyse(snapshot, reasons_of(subject.ledger), like=subject.like)
    if as_json:
        told = {"title": snapshot.title, "rows": as_dicts(rows), "total": as_dicts([whole])[0]}
        print(json.dumps({**told, "analysis": found.as_dict(), "notes": subject.notes}, indent=2))
        return
    _print(_table(snapshot.title, rows, whole))
    print(found)
    for text in subject.notes:
        note(text)


def _decided(ledger: tuple[Row, ...]) -> tuple[Row, ...]:
    """What was asked stands for what a model that still calibrates will get."""
    return tuple(row if row.effective else replace(row, effective=f"asked: {row.requested}") for row in ledger)


def _sorted(rows: tuple[InspectRow, ...], order: str) -> tuple[InspectRow, ...]:
    if order not in _COLUMNS:
        return rows
    return tuple(sorted(rows, key=lambda row: -(getattr(row, _COLUMNS[order]) or 0)))


def _table(title: str, rows: tuple[InspectRow, ...], whole: InspectRow) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_footer=True)
    for heading, foot in (("node", "total"), ("module", ""), ("op", whole.op), ("shape", ""), ("dtype", "")):
        table.add_column(heading, footer=foot, overflow="fold")
    table.add_column("parameters", footer=_number(whole.parameters), justify="right")
    table.add_column("MACs", footer=_number(whole.macs), justify="right")
    table.add_column("decision", footer=whole.region, overflow="fold")
    for row in rows:
        numbers = (_number(row.parameters), _number(row.macs))
        cells = (row.node, row.module, row.op, row.shape, row.dtype, *numbers, row.decision)
        table.add_row(*(Text(cell) for cell in cells))  # names are the user's text, never markup
    return table


def _print(table: Table) -> None:
    """As wide as a terminal is; in a file or pipe as wide as it takes, a line a node."""
    from fxquant.tools.terminal import console

    shown = console()
    if not shown.is_terminal:
        shown.width = MOST_WIDTH
        shown.width = shown.measure(table).maximum
    shown.print(table)


def _number(value: int | None) -> str:
    """Nothing for 0, which most nodes have; ? where nobody can tell."""
    return "?" if value is None else f"{value:,}" if value else ""
