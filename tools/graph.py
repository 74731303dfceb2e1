"""`fxquant graph`: draw the graph of a model at one stage, and say where its float islands are."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.model_options import CODE_RUNS, Options, ReferenceType, model_options
from fxquant.tools.model_reference import STAGES, Reference
from fxquant.tools.output import STDOUT, check_output, note, put, write
from fxquant.tools.overlays import OVERLAYS, overlay_of

if TYPE_CHECKING:
    from fxquant.drawing.picture import Picture
    from fxquant.graphs.snapshot import GraphSnapshot

SUFFIXES = ("svg", "png", "pdf", "dot", "json", "html")


@click.command(epilog=CODE_RUNS)
@click.argument("model", type=ReferenceType())
@click.option("-o", "--output", help=f"File to write: .{', .'.join(SUFFIXES)}. Without it, DOT text on stdout.")
@click.option("--stage", type=click.Choice(STAGES), help="Which graph; for a float model, traced unless said.")
@click.option("--depth", type=click.IntRange(0), help="Collapse modules below this depth.")
@click.option("--overlay", type=click.Choice(OVERLAYS), default="none", help="What to write beside each node.")
@click.option("--constants", is_flag=True, help="Draw scales, zero points and weights too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@model_options
def graph(
    model: Reference,
    output: str | None,
    stage: str | None,
    depth: int | None,
    overlay: str,
    constants: bool,
    as_json: bool,
    options: Options,
) -> None:
    """Draw a model's graph at any stage, and list its float islands."""
    suffix = "dot" if output in (None, STDOUT) else check_output(str(output), SUFFIXES)
    from fxquant.drawing.picture import draw
    from fxquant.graphs.analysis import analyse
    from fxquant.tools.subject import Subject

    subject = Subject(model, options)
    snapshot = subject.snapshot(stage or model.stage)
