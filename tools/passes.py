"""`fxquant passes`: the registry as a table, each pass with its stages and the first line of its docstring."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import click

from fxquant.pipeline import Pass
from fxquant.program import Stage
from fxquant.registry import find, names
from fxquant.tools.terminal import console


@dataclass(frozen=True, slots=True)
class PassRow:
    """One pass, as it is listed."""

    name: str
    accepts: str
    yields: str
    does: str  # the first line of its docstring, or why it cannot be imported
    is_broken: bool = False


def rows() -> tuple[PassRow, ...]:
    """Every pass of the registry, in its order."""
    return tuple(_row(name) for name in names())


def _row(name: str) -> PassRow:
    try:
        kind = find(name)
    except (ImportError, AttributeError) as error:  # a third party's broken package must not hide the others
        return PassRow(name, "", "", f"cannot be imported: {error}", is_broken=True)
    return PassRow(name, _accepted(kind), kind.yields.name if kind.yields else "same", one_line(kind))


def _accepted(kind: type[Pass]) -> str:
    return "any" if kind.accepts == frozenset(Stage) else ", ".join(stage.name for stage in sorted(kind.accepts))


def one_line(kind: type[Pass]) -> str:
    """The first line of a pass's docstring: before → after."""
    return (kind.__doc__ or "").strip().partition("\n")[0]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def passes(as_json: bool) -> None:
    """List the passes, with the stages they accept and yield."""
    listed = rows()
    if as_json:
        print(json.dumps([asdict(row) for row in listed], indent=2))
    else:
        _draw(listed)
    if any(row.is_broken for row in listed):
        raise click.exceptions.Exit(1)


def _draw(listed: tuple[PassRow, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("pass", "accepts", "yields", "what it does")
    for row in listed:
        style = "red" if row.is_broken else ""
        table.add_row(row.name, row.accepts, row.yields, Text(row.does, style=style))  # Text: no markup in a docstring
    console().print(table)
