"""`fxquant graph`: draw the graph of a model at one stage, and say where its float islands are."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from fxquant.tools.drawn import file_of
from fxquant.tools.model_options import CODE_RUNS, Options, ReferenceType, model_options
from fxquant.tools.model_reference import STAGES, Reference
from fxquant.tools.output import STDOUT, check_output, note, put, write
from fxquant.tools.overlays import OVERLAYS, overlay_of

if TYPE_CHECKING:
    from fxquant.graphs.snapshot import GraphSnapshot

FORMATS = ("svg", "png", "pdf", "dot", "json", "html")


@click.command(epilog=CODE_RUNS)
@click.argument("model", type=ReferenceType())
@click.option("-o", "--output", default=STDOUT, help=f"File: .{', .'.join(FORMATS)}. By default DOT text on stdout.")
@click.option("--stage", type=click.Choice(STAGES), help="Which graph. A float model's is traced unless this is said.")
@click.option("--depth", type=click.IntRange(0), help="Collapse modules that are nested deeper.")
@click.option("--overlay", type=click.Choice(OVERLAYS), default="none", help="A number to draw with each node.")
@click.option("--constants", is_flag=True, help="Draw weights, scales and zero points as nodes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: what was drawn, the analysis, notes.")
@model_options
def graph(
    model: Reference,
    output: str,
    stage: str | None,
    depth: int | None,
    overlay: str,
    constants: bool,
    as_json: bool,
    options: Options,
) -> None:
    """Draw a model's graph at any stage, and list its float islands."""
    form = check_output(output, FORMATS) or "dot"
    from fxquant.graphs.analysis import analyse
    from fxquant.graphs.islands import outlines
    from fxquant.graphs.remedies import reasons_of
    from fxquant.tools.subject import Subject

    subject = Subject(model, options)
    snapshot = subject.snapshot(stage or model.stage)
    found = analyse(snapshot, reasons_of(subject.ledger), like=subject.like)
    drawn: tuple[str, ...] = ()
    if form == "json":
        content: str | bytes = snapshot.to_json() + "\n"
    else:
        from fxquant.drawing.picture import draw

        picture = draw(
            snapshot,
            depth=depth,
            overlay=overlay_of(overlay, subject, snapshot),
            constants=constants,
            islands=outlines(found.islands),
        )
        content = file_of(picture, form, output, title=snapshot.title or "graph", texts=(str(found),))
        drawn = picture.notes
    notes = [*subject.notes, *drawn]
    if output != STDOUT:
        write(output, content)
    elif not as_json:
        put(content)
    if as_json:
        written = {"output": None, "dot": content} if output == STDOUT else {"output": output}
        counts = {"title": snapshot.title, "nodes": len(snapshot), "edges": len(snapshot.edges)}
        print(json.dumps({**written, **counts, "analysis": found.as_dict(), "notes": notes}, indent=2))
        return
    print(found, file=sys.stderr if output == STDOUT else sys.stdout)
    _tell(snapshot, output, notes)


def _tell(snapshot: GraphSnapshot, output: str, notes: list[str]) -> None:
    to = "" if output == STDOUT else f" → {output}"
    print(f"{snapshot.title or 'graph'}: {len(snapshot)} nodes, {len(snapshot.edges)} edges{to}", file=sys.stderr)
    for text in notes:
        note(text)
