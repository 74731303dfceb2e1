"""`fxquant diff`: what differs between two graphs, as text, JSON or a picture. Exit status 1 when they differ."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fxquant.errors import UsageError
from fxquant.tools.drawn import file_of
from fxquant.tools.model_options import CODE_RUNS, Options, ReferenceType, model_options
from fxquant.tools.model_reference import STAGES, Reference
from fxquant.tools.output import STDOUT, check_output, note, put, write

if TYPE_CHECKING:
    from fxquant.graphs.snapshot import GraphSnapshot

FORMATS = ("text", "svg", "dot", "json", "html", "png", "pdf")
SUFFIXES = ("svg", "dot", "json", "html", "png", "pdf", "txt", "diff")
DIFFERENT = 1  # the exit status, as diff's


@click.command(epilog=f"MODEL@STAGE names a stage: {', '.join(STAGES)}. {CODE_RUNS}")
@click.argument("before", metavar="A", type=ReferenceType())
@click.argument("after", metavar="B", type=ReferenceType())
@click.option("--format", "form", type=click.Choice(FORMATS), help="Text unless the suffix of -o says otherwise.")
@click.option("-o", "--output", default=STDOUT, help="File to write. By default stdout.")
@click.option("--depth", type=click.IntRange(0), help="Collapse modules that are nested deeper.")
@click.option("--side-by-side", is_flag=True, help="Draw both graphs, not one of both.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also beside a file of -o.")
@model_options
def diff(
    before: Reference,
    after: Reference,
    form: str | None,
    output: str,
    depth: int | None,
    side_by_side: bool,
    as_json: bool,
    options: Options,
) -> None:
    """Show what differs between two graphs; exit 1 when they do."""
    suffix = check_output(output, SUFFIXES)
    form = form or ("json" if as_json and output == STDOUT else _form_of(suffix))
    if form in ("png", "pdf") and output == STDOUT:
        raise UsageError("FXQ118", f"a {form} is nothing for the terminal", hint=f"-o x.{form}")
    from fxquant.graphs.diffing import diff as difference

    left, right, notes = _snapshots(before, after, options)
    found = difference(left, right)
    drawn: tuple[str, ...] = ()
    if form == "text":
        content: str | bytes = f"{found}\n"
    elif form == "json":
        content = found.to_json()
    else:
        from fxquant.drawing.picture import draw

        title = f"{left.title or before} → {right.title or after}"
        picture = draw((left, right, found), depth=depth, side_by_side=side_by_side, title=title)
        content, drawn = file_of(picture, form, output, title=title, texts=(str(found),)), picture.notes
    if output == STDOUT:
        put(content)
    else:
        write(output, content)
        counts = ", ".join(f"{count} {change}" for change, count in found.counts.items() if count)
        print(f"{counts or 'nothing to compare'} → {output}", file=sys.stderr)
        if as_json:
            put(found.to_json())
    for text in (*notes, *drawn):
        note(text)
    if not found.is_empty:
        raise click.exceptions.Exit(DIFFERENT)


def _form_of(suffix: str) -> str:
    return suffix if suffix in FORMATS else "text"


def _snapshots(before: Reference, after: Reference, options: Options) -> tuple[GraphSnapshot, GraphSnapshot, list[str]]:
    """Both graphs. Two stages of one model come of one compilation: the later one is asked for first."""
    from fxquant.tools.subject import Subject

    left = Subject(before, options)
    is_one = (before.place, before.factory) == (after.place, after.factory)
    right = left if is_one else Subject(after, options)
    found: dict[int, GraphSnapshot] = {}
    asked = [(left, before), (right, after)]
    for index in sorted((0, 1), key=lambda index: -_rank(asked[index][1].stage)):
        subject, reference = asked[index]
        found[index] = subject.snapshot(reference.stage)
    return found[0], found[1], list(dict.fromkeys([*left.notes, *right.notes]))


def _rank(stage: str) -> int:
    return STAGES.index(stage) if stage else 0
