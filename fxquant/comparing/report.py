"""The comparison as one self-contained HTML file: the table, the charts, and what the layers got in each candidate."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import torch
from markupsafe import Markup

import fxquant
from fxquant.comparing import svg_charts
from fxquant.comparing.differences import differences, ledgers
from fxquant.comparing.points import against_latency, against_size, layer_lines, metric_label, setting_label, undrawn
from fxquant.comparing.tables import BEST, cells, heads
from fxquant.reporting.policy import content_policy
from fxquant.reporting.wording import short

if TYPE_CHECKING:
    from fxquant.comparing.comparison import Comparison

MOST_DIFFERENCES = 400  # layers that are listed
_UNITS = ((1.0, "s"), (1e3, "ms"), (1e6, "µs"))


def render(comparison: Comparison) -> str:
    """The page as one text without links to anything outside of it: the same comparison, the same text."""
    style = _text("fxquant.reporting", "style.css") + _text("fxquant.comparing", "comparison.css")
    found = differences(comparison)
    return _template().render(
        style=Markup(style),
        policy=content_policy(style, ""),
        versions={"fxquant": fxquant.__version__, "torch": torch.__version__},
        name=short(comparison.model_name),
        verdict=verdict(comparison),
        machine=comparison.machine,
        best=BEST,
        heads=["#", *heads(comparison)],
        rows=[_row(number, row, comparison) for number, row in enumerate(comparison.rows, start=1)],
        charts=_charts(comparison),
        bars=[(setting_label(setting), _bars(comparison, setting)) for setting in comparison.settings],
        layers=svg_charts.layers(layer_lines(comparison), ledgers(comparison)),
        ledgers=[(svg_charts.mark(index), short(name, 40)) for index, name in enumerate(ledgers(comparison))],
        differing=[line for line in found if not line.is_same][:MOST_DIFFERENCES],
        alike=sum(line.is_same for line in found),
        left_out=max(0, sum(not line.is_same for line in found) - MOST_DIFFERENCES),
        undrawn=[short(name, 60) for name in undrawn(comparison)],
        notices=[
            {"code": row.code, "reason": short(row.reason, 600), "hint": short(row.hint)} for row in comparison.notices
        ],
    )


def verdict(comparison: Comparison) -> str:
    """The comparison in one sentence."""
    failed = [row.name for row in comparison.rows if row.failure is not None]
    best = ", ".join(f"'{short(name, 40)}'" for name in comparison.pareto)
    told = (
        f"{best} {'is' if len(comparison.pareto) == 1 else 'are'} on the Pareto front"
        if best
        else "No row has all numbers"
    )
    lost = f"; {', '.join(short(name, 40) for name in failed)} failed" if failed else ""
    return f"{told} of {len(comparison.rows)} rows{lost}."


def _row(number: int, row: Any, comparison: Comparison) -> dict[str, Any]:
    made = cells(row, comparison)
    return {
        "number": number,
        "best": made[0],
        "name": short(row.name, 60),
        "cells": made[2:],
        "is_float": row.is_float,
        "failure": None
        if row.failure is None
        else {"code": row.failure.code, "text": short(row.failure.message, 600), "hint": short(row.failure.hint)},
        "notes": [short(note, 400) for note in row.notes],
    }


def _charts(comparison: Comparison) -> list[tuple[str, Markup]]:
    """(title, picture) of the metric against each latency, and against size."""
    numbers = {row.name: number for number, row in enumerate(comparison.rows, start=1)}
    metric = metric_label(comparison)
    pairs = [
        (f"Against latency, {setting_label(setting)}", against_latency(comparison, setting), "latency, ms")
        for setting in comparison.settings
    ]
    pairs.append(("Against size on disk", against_size(comparison), "size on disk, kB"))
    drawn = ((title, svg_charts.scatter(points, numbers, cost=cost, metric=metric)) for title, points, cost in pairs)
    return [(title, picture) for title, picture in drawn if picture]


def _bars(comparison: Comparison, setting: tuple[int, int]) -> Markup:
    found = [(row, row.latency(*setting)) for row in comparison.rows]
    known = [(row, latency) for row, latency in found if latency is not None]
    fastest = min(latency.median_seconds for _, latency in known)
    scale, unit = next((pair for pair in _UNITS if fastest * pair[0] >= 0.1), _UNITS[-1])
    return svg_charts.bars(
        [
            (
                row.name,
                latency.median_seconds * scale,
                latency.low_seconds * scale,
                latency.high_seconds * scale,
                row.is_float,
            )
            for row, latency in known
        ],
        unit,
    )


def _text(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_text("fxquant.comparing", "comparison.html.j2"))
