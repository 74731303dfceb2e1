"""The report: one self-contained HTML file that shows a colleague what quantization did to a model, and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import torch
from markupsafe import Markup

import fxquant
from fxquant.drawing.overlays import Overlay
from fxquant.drawing.picture import draw as draw_picture
from fxquant.errors import FxQuantError
from fxquant.files import write_whole
from fxquant.graphs.analysis import analyse
from fxquant.graphs.islands import outlines
from fxquant.graphs.remedies import reasons_of
from fxquant.measuring import measure
from fxquant.reporting import charts
from fxquant.reporting.facts import facts_of, rows_of_data, tiles, verdict
from fxquant.reporting.figures import Draw, Figure, figure_of
from fxquant.reporting.layer_cards import cards_of, overview, worst
from fxquant.reporting.ledger_lines import code_pages, lines_of
from fxquant.reporting.policy import content_policy, inert_json
from fxquant.reporting.stage_diffs import StageDiff, diffs_of, stages_of
from fxquant.reporting.step_lines import step_lines
from fxquant.reporting.wording import duration, short

if TYPE_CHECKING:
    from torch import nn

    from fxquant.graphs.snapshot import GraphSnapshot
    from fxquant.measuring import Measurements
    from fxquant.model import CompiledModel
    from fxquant.pipeline import PassRecord

DRAWN = (("traced", "lowered"), ("traced", "converted"), ("prepared", "converted"), ("converted", "lowered"))
MOST_LINE = 600  # characters of one line of the analysis


def write_report(compiled: CompiledModel, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write the report of `compiled` to `path`, whole or not at all, and return that. Options are `render_report`'s.

    Raises UsageError FXQ118 when it cannot be written.
    """
    return write_whole(path, render_report(compiled, **options).encode("utf-8", "backslashreplace"))


def render_report(
    compiled: CompiledModel,
    *,
    model: nn.Module | None = None,
    inputs: Any = None,
    rows: int = 4,
    is_timed: bool = False,
    draw: Draw = draw_picture,
) -> str:
    """The report as one HTML text without links to anything outside of it: the same compiled model, the same text.

    Args:
        compiled: at any stage. What cannot be shown of it says why in the report.
        model: the float model to measure against, where the one that was compiled is gone.
        inputs: one call's arguments to measure on; None: the first calibration rows.
        rows: how many rows of them at most.
        is_timed: also time each kernel; the numbers differ from run to run, and so does the text.
        draw: how pictures are made of snapshots and diffs.
    """
    measured, why = _measured(compiled, model=model, inputs=inputs, rows=rows, is_timed=is_timed)
    style, script = _text("style.css"), _text("page.js")
    return _template().render(
        style=Markup(style),
        script=Markup(script),
        policy=content_policy(style, script),
        versions={"fxquant": fxquant.__version__, "torch": torch.__version__},
        name=short(_name_of(compiled)),
        target=compiled.target,
        stage=compiled.stage.name.lower(),
        **_about_layers(compiled, measured, why),
        **_about_graphs(compiled, measured, draw),
        **_about_passes(compiled),
    )


def _measured(compiled: CompiledModel, **options: Any) -> tuple[Measurements | None, str]:
    try:
        return measure(compiled, **options), ""
    except FxQuantError as error:
        hint = f"\nTry: {error.hint}" if error.hint else ""
        return None, f"Nothing was measured. {error.code} {error.message}{hint}"


def _about_layers(compiled: CompiledModel, measured: Measurements | None, why: str) -> dict[str, Any]:
    """Summary, ledger, measurements, notices and the pages of the codes that they name."""
    lines = lines_of(compiled.ledger, compiled.snapshot(compiled.first_stage))
    facts, layers = facts_of(compiled, lines), () if measured is None else measured.layers
    cards = cards_of(layers)
    notices = compiled.ledger.notices
    codes = code_pages({line.code for line in lines} | {notice.code for notice in notices})
    whole = len(lines) or 1
    return {
        "facts": facts,
        "steps": step_lines(compiled, facts),
        "verdict": verdict(facts, compiled, measured),
        "tiles": tiles(facts, measured),
        "kinds": [(kind, count, f"{100 * count / whole:.0f} %") for kind, count in facts.kinds],
        "kinds_bar": charts.stacked([(kind.css, count, f"{count} {kind.label}") for kind, count in facts.kinds]),
        "lines": lines,
        "floats": sum(line.is_float for line in lines),
        "code_counts": sorted(Counter(line.code for line in lines if line.code).items()),
        "measured": measured is not None,
        "why_unmeasured": why,
        "rows": "" if measured is None else rows_of_data(measured.rows),
        "timed": any(card.seconds for card in cards),
        "cards": cards,
        "cards_by_site": {layer.site: card for layer, card in zip(layers, cards, strict=True)},
        "overview": overview(layers),
        "worst": worst(layers),
        "layer_data": Markup(inert_json([card.as_data() for card in cards])),
        "notices": [
            {"code": row.code, "module": short(row.module), "reason": short(row.reason, 600), "hint": short(row.hint)}
            for row in notices
        ],
        "codes": codes,
        "titles": {page.code: page.title for page in codes},
    }


def _about_graphs(compiled: CompiledModel, measured: Measurements | None, draw: Draw) -> dict[str, Any]:
    """Diffs, pictures and the analysis of the last stage."""
    snapshots = {stage.name.lower(): compiled.snapshot(stage) for stage in stages_of(compiled)}
    diffs = diffs_of(snapshots)
    first, last = next(iter(snapshots)), next(reversed(snapshots))
    found = analyse(snapshots[last], reasons_of(compiled.ledger), like=snapshots[first])
    chosen = next((pair for pair in diffs if (pair.before, pair.after) == (first, last)), None)
    return {
        "stages": list(snapshots),
        "diffs": diffs,
        "chosen": chosen,
        "diff_figures": {figure.id.removeprefix("diff-"): figure for figure in _drawn(diffs, draw)},
        "undrawn": _command,
        "final_figure": figure_of(
            snapshots[last],
            draw,
            id="final",
            title=f"The {last} graph",
            overlay=_overlay(snapshots[last], measured),
            islands=outlines(found.islands),
        ),
        "analysis": _indented(str(found)),
    }


def _overlay(last: GraphSnapshot, measured: Measurements | None) -> Overlay | None:
    """The SQNR of each node; of a kernel that computes several sites, what was measured of any of them."""
    if measured is None:
        return None
    known = measured.by_site("sqnr_db")
    return Overlay.sqnr({node.name: known[site] for node in last for site in node.origins if site in known})


def _indented(text: str) -> list[tuple[int, str]]:
    """(depth, line): two spaces are one step to the right, three steps at most."""
    depths = ((min(3, (len(line) - len(line.lstrip())) // 2), line) for line in text.split("\n"))
    return [(depth, short(line, MOST_LINE)) for depth, line in depths]


def _drawn(diffs: tuple[StageDiff, ...], draw: Draw) -> Iterator[Figure]:
    for pair in diffs:
        if (pair.before, pair.after) in DRAWN and not pair.is_empty:
            title = f"{pair.before} → {pair.after}"
            yield figure_of(pair.graph, draw, id=f"diff-{pair.id}", title=title)


def _command(pair: StageDiff) -> str:
    return f'fxquant.draw(compiled.diff("{pair.before}", "{pair.after}")).save("diff.svg")'


@dataclass(frozen=True, slots=True)
class PassLine:
    """One pass in the table of passes."""

    number: int
    name: str
    stage: str
    stage_number: int
    nodes_before: int
    nodes: int
    is_changed: bool
    seconds: float
    time: str
    bar: Markup


def _about_passes(compiled: CompiledModel) -> dict[str, Any]:
    longest = max((record.seconds for record in compiled.history), default=0.0) or 1.0
    return {
        "passes": [_pass_line(number, record, longest) for number, record in enumerate(compiled.history, start=1)],
        "total_time": duration(sum(record.seconds for record in compiled.history)),
    }


def _pass_line(number: int, record: PassRecord, longest: float) -> PassLine:
    return PassLine(
        number=number,
        name=short(record.name),
        stage=record.stage.name.lower(),
        stage_number=int(record.stage),
        nodes_before=len(record.before),
        nodes=len(record.after),
        is_changed=record.is_changed,
        seconds=record.seconds,
        time=duration(record.seconds),
        bar=charts.bar(record.seconds / longest, "time"),
    )


def _name_of(compiled: CompiledModel) -> str:
    return compiled.program.model_name


def _text(name: str) -> str:
    return (files("fxquant.reporting") / name).read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_text("report.html.j2"))
