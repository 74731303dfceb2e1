"""Seconds and bytes of a report, part by part. `python -m fxquant.tools.bench.reports` takes ResNet-50 at 224 × 224.

The model comes from the test zoo, so this runs from a checkout.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show
from fxquant.tools.bench.zoo import load_zoo, pick

MOST_SECONDS, MOST_MEGABYTES = 15.0, 5.0


@click.command()
@click.argument("name", default="resnet50")
@click.option("--small", is_flag=True, help="The model as the tests have it, not at its field's size.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the report.")
@options.as_json
def main(name: str, small: bool, output: Path | None, as_json: bool) -> None:
    """Write the report of a zoo model and say what it took."""
    model, compiled = _compiled(name, full=not small)
    text, whole, parts = _timed_report(compiled, model)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    size = len(text.encode()) / 1e6
    checks = [
        Check("seconds", "at most", MOST_SECONDS, whole, " s", _listed(parts, "s")),
        Check("size", "at most", MOST_MEGABYTES, size, " MB", _listed(_sizes(text), "kB")),
    ]
    show(f"report of {name}{' (small)' if small else ''}", checks, as_json=as_json)
    sys.exit(0 if all(check.is_met for check in checks) else 1)


def _compiled(name: str, *, full: bool) -> tuple[Any, Any]:
    import torch

    import fxquant

    torch.set_num_threads(1)  # two that wait for each other on a busy machine take ten times as long
    case = pick(load_zoo(), name)[name]
    model = case.make(full=full)
    return model, fxquant.compile(model, "int8", calibration_data=case.batches(2, 4, full=full))


def _timed_report(compiled: Any, model: Any) -> tuple[str, float, dict[str, float]]:
    """The report, its seconds, and those of measuring (done once more) and drawing among them."""
    from fxquant.drawing.picture import draw
    from fxquant.measuring import measure
    from fxquant.reporting.report import render_report

    parts: dict[str, float] = {}
    started = time.perf_counter()
    text = render_report(compiled, model=model, draw=lambda x, **options: _Clocked(draw, x, options, parts))
    whole = time.perf_counter() - started
    drawn = sum(parts.values())
    _clocked(measure, "measuring", parts)(compiled, model=model, is_timed=False)
    return text, whole, parts | {"the rest": max(0.0, whole - drawn - parts["measuring"])}


def _clocked(function: Callable[..., Any], name: str, parts: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - started

    return call


class _Clocked:
    """A picture whose making and rendering are timed."""

    def __init__(self, draw: Callable[..., Any], x: Any, options: dict[str, Any], parts: dict[str, float]) -> None:
        picture = _clocked(draw, "drawing", parts)(x, **options)
        self.dot, self.notes = picture.dot, picture.notes
        self.svg = _clocked(picture.svg, "rendering", parts)


def _sizes(text: str) -> dict[str, float]:
    """Kilobytes of each section."""
    sections = re.findall(r'<section id="(\w+)".*?</section>', text, re.DOTALL)
    found = (re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL) for name in sections)
    return {name: len(part[0].encode()) / 1e3 for name, part in zip(sections, found, strict=True) if part}


def _listed(parts: dict[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:.3g} {unit}" for name, value in parts.items())


if __name__ == "__main__":
    main()
