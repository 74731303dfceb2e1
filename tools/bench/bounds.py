"""How tight error bounds are: bound over measured error and estimate over measured, on every model of the zoo."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click
import torch
from torch import Tensor

from fxquant.qconfigs import ENGINES, PRESETS
from fxquant.tools.bench import options

ROWS = 16


@dataclass(frozen=True, slots=True)
class Tightness:
    """Of one model and preset, over all output elements of `ROWS` rows that were not calibrated on."""

    model: str
    preset: str
    error: float  # the largest that was measured
    bound: float  # the largest
    largest_over_largest: float
    median_ratio: float  # of bound over error, element by element, where there is an error
    max_ratio: float
    estimate_ratio: float  # root mean squares
    violations: int
    unbounded: int
    unexplained: int


@click.command()
@click.option("--models", default="", help="Comma-separated; all by default.")
@click.option("--presets", default=",".join(PRESETS), show_default=True)
@click.option("--engine", "engine_name", default="x86", show_default=True, type=click.Choice(ENGINES))
@options.tests
@options.as_json
def main(models: str, presets: str, engine_name: str, tests: str | None, as_json: bool) -> None:
    """Bound and estimate against what is measured. A violated bound is an error: the exit status is 1."""
    from fxquant.tools.bench.zoo import load_zoo, pick

    zoo = load_zoo(tests)
    chosen = pick(zoo, models) if models else {name: case for name, case in zoo.items() if case.is_traceable}
    found = [
        tightness(name, case, preset, engine_name) for name, case in chosen.items() for preset in presets.split(",")
    ]
    if as_json:
        click.echo(json.dumps({"bench": "bounds", "engine": engine_name, "rows": list(map(asdict, found))}, indent=2))
    else:
        _show(f"bounds, {engine_name}, {ROWS} rows", found)
    if any(row.violations for row in found):
        raise SystemExit(1)


def tightness(name: str, case: Any, preset: str, engine_name: str) -> Tightness:
    """Compile, bound and compare."""
    import fxquant
    from fxquant.bounds import error_bound
    from fxquant.torch_ao import engine

    model, args, kwargs = case.make(), case.inputs(0, ROWS), case.arguments(0, ROWS)
    batches = [(given, case.arguments(1000 + index, 16)) for index, given in enumerate(case.batches(2, 16))]
    compiled = fxquant.compile(model, preset, calibration_data=batches, target=engine_name)
    names = list(compiled.program.signature.parameters.parameters)
    bound = error_bound(compiled, {**dict(zip(names, args, strict=False)), **kwargs})
    with engine(engine_name), torch.no_grad():
        actual = compiled(*case.inputs(0, ROWS), **case.arguments(0, ROWS))
        expected = model(*case.inputs(0, ROWS), **case.arguments(0, ROWS))
    errors, bounds, estimates = (torch.cat(parts) for parts in zip(*_elements(bound, actual, expected), strict=True))
    ratios = (bounds / errors)[errors > 0]
    return Tightness(
        model=name,
        preset=preset,
        error=float(errors.max()),
        bound=float(bounds.max()),
        largest_over_largest=_ratio(float(bounds.max()), float(errors.max())),
        median_ratio=float(ratios.median()) if ratios.numel() else math.nan,
        max_ratio=float(ratios.max()) if ratios.numel() else math.nan,
        estimate_ratio=_ratio(_rms(estimates), _rms(errors)),
        violations=int((~(errors <= bounds)).sum()),
        unbounded=len(bound.unbounded),
        unexplained=len(bound.unexplained),
    )


def _elements(bound: Any, actual: Any, expected: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(errors, bounds, estimates) of each output tensor, flat."""
    errors = bound.errors(actual, expected)
    for leaf, error in zip(bound.leaves, errors, strict=True):
        yield error.flatten(), leaf.bound.flatten(), leaf.estimate.flatten()


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _ratio(above: float, below: float) -> float:
    """NaN where nothing was measured: float models have no error to compare with."""
    return above / below if below else math.nan


def _show(title: str, rows: list[Tightness]) -> None:
    from rich.table import Table

    from fxquant.tools.terminal import console

    table = Table(title=title)
    headings = ("model", "preset", "error", "bound", "largest/largest", "median", "max", "estimate/measured", "told")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        numbers = (row.largest_over_largest, row.median_ratio, row.max_ratio, row.estimate_ratio)
        counts = {"violated": row.violations, "unbounded": row.unbounded, "unexplained": row.unexplained}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        table.add_row(row.model, row.preset, f"{row.error:.3g}", f"{row.bound:.3g}", *map(_told, numbers), told)
    console().print(table)
    for preset in dict.fromkeys(row.preset for row in rows):
        medians = [row.median_ratio for row in rows if row.preset == preset and not math.isnan(row.median_ratio)]
        if medians:
            middle = float(torch.tensor(medians).median())
            console().print(
                f"{preset}: median ratio {_told(middle)} over {len(medians)} models, worst {_told(max(medians))}"
            )


def _told(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.3g}"


if __name__ == "__main__":
    main()
