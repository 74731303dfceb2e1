"""`fxquant compare`: candidates of one model side by side, as a table; as CSV, JSON, charts and HTML where asked."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from fxquant.errors import UsageError, did_you_mean
from fxquant.tools.model_options import CODE_RUNS, RandomInput, ReferenceType, ShapeType
from fxquant.tools.model_reference import Reference, parse
from fxquant.tools.output import STDOUT, check_output, note, put, write
from fxquant.tools.users_code import users_code, value_of

if TYPE_CHECKING:
    from fxquant.comparing.comparison import Comparison

CHARTS = ("latency", "size", "bars", "layers")  # a test compares it with the library's
RANDOM = "compared on random numbers: SQNR, size and latency only (--data gives it data)"
ONE_CALL = "compared on one example: SQNR, size and latency only (--data gives it data)"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the comparison goes besides stdout."""

    csv: str | None
    html: str | None
    charts: tuple[tuple[str, str], ...]  # (kind, path)

    def check(self) -> None:
        """FXQ118 before any work where one of them cannot be written."""
        for path, suffixes in ((self.csv, ("csv",)), (self.html, ("html",))):
            if path is not None:
                check_output(path, suffixes)
        for _, path in self.charts:
            if path == STDOUT:
                raise UsageError("FXQ118", "a chart is not written to stdout", hint="--chart latency=x.png")
            check_output(path, ("png", "svg", "pdf"))

    def write(self, comparison: Comparison) -> None:
        """All of them, each whole or not at all."""
        from fxquant.comparing.exports import as_csv
        from fxquant.comparing.report import render

        for what, path, render_it in (("table", self.csv, as_csv), ("report", self.html, render)):
            if path == STDOUT:
                put(render_it(comparison))
            elif path is not None:
                write(path, render_it(comparison))
                print(f"{what} → {path}", file=sys.stderr)
        for kind, path in self.charts:
            comparison.plot(path, kind=kind)
            print(f"chart → {path}", file=sys.stderr)


@click.command(epilog=CODE_RUNS)
@click.argument("model", type=ReferenceType())
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="NAME=WHAT",
    help="A preset, a recipe.toml, a saved model, or file.py:name; once for each row.",
)
@click.option("--data", type=ReferenceType(), help="Test batches with labels: file.py:name, a function or a list.")
@click.option("--calibration", type=ReferenceType(), help="Calibration data; without it the test batches.")
@click.option("--metric", default=None, help="accuracy, top5, sqnr, mse or file.py:function(outputs, labels).")
@click.option("--lower-is-better", is_flag=True, help="Of a function as metric, such as a loss.")
@click.option("--batch-size", "batch_sizes", type=click.IntRange(1), multiple=True, help="Of the timing; 1 and 16.")
@click.option("--threads", type=click.IntRange(1, 1024), multiple=True, help="Of the timing; torch's number now.")
@click.option("--target", "targets", multiple=True, help="A target; several make a row for each.")
@click.option("--seconds", type=click.FloatRange(0), default=5.0, show_default=True, help="Of the timing, in all.")
@click.option("--shape", "inputs", type=ShapeType(), multiple=True, help="Random input in the place of --data.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default="0", help="Of factory and inputs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.option("--csv", metavar="t.csv", help="Write the table as CSV; - prints it instead of the table.")
@click.option("--html", metavar="c.html", help="Write the table and the charts as one self-contained HTML file.")
@click.option("--chart", "charts", multiple=True, metavar="[KIND=]x.png", help=f"Draw {', '.join(CHARTS)}.")
def compare(
    model: Reference,
    candidates: tuple[str, ...],
    data: Reference | None,
    calibration: Reference | None,
    metric: str | None,
    lower_is_better: bool,
    batch_sizes: tuple[int, ...],
    threads: tuple[int, ...],
    targets: tuple[str, ...],
    seconds: float,
    inputs: tuple[RandomInput, ...],
    seed: int,
    as_json: bool,
    csv: str | None,
    html: str | None,
    charts: tuple[str, ...],
) -> None:
    """Compare quantized candidates: accuracy, SQNR, size, latency."""
    outputs = Outputs(csv, html, tuple(_chart(text) for text in charts))
    outputs.check()
    named = [_named(text) for text in candidates]
    from fxquant.tools.loading import load_data, seeded

    with users_code():
        subject, batches, told = _subject(model, data, inputs, seed)
        with seeded(seed), redirect_stdout(sys.stderr):  # what the user's code prints is no result of ours
            import fxquant

            found = fxquant.compare(
                subject,
                [(name, _candidate(what)) for name, what in named],
                batches,
                _metric(metric),
                calibration_data=None if calibration is None else load_data(calibration, seed=seed),
                targets=targets or None,
                batch_sizes=batch_sizes or (1, 16),
                threads=threads or None,
                seconds=seconds,
                is_higher_better=False if lower_is_better else None,
            )
    outputs.write(found)
    if as_json:
        from fxquant.comparing.exports import as_json as to_json

        put(to_json(found))
    elif csv != STDOUT and html != STDOUT:
        put(str(found))
    for text in told:
        note(text)


def _chart(text: str) -> tuple[str, str]:
    """(kind, path) of 'bars=x.png'; the first kind where none is named. FXQ111."""
    kind, equals, path = text.partition("=")
    if not equals:
        return CHARTS[0], text
    if kind not in CHARTS:
        raise UsageError("FXQ111", f"--chart {text!r}: no chart is called {kind!r}", hint=did_you_mean(kind, CHARTS))
    return kind, path


def _named(text: str) -> tuple[str, str]:
    """(name, what) of 'name=what'; a preset or file by itself is its own name. FXQ136."""
    name, equals, what = text.partition("=")
    if equals and not what:
        raise UsageError("FXQ136", f"--candidate {text!r} says nothing after its '='", hint="--candidate small=int8")
    return (name, what) if equals else (text, text)


def _subject(
    model: Reference, data: Reference | None, inputs: tuple[RandomInput, ...], seed: int
) -> tuple[Any, Any, list[str]]:
    """The model, the batches to compare on, and what the user should know of them. FXQ301 where there are none."""
    from fxquant.errors import EmptyCalibrationError
    from fxquant.graphs.snapshot import GraphSnapshot
    from fxquant.tools.loading import load, load_data, random_call

    loaded = load(model, seed=seed)
    if isinstance(loaded.source, GraphSnapshot):
        raise UsageError("FXQ115", f"'{model}' is a snapshot, which cannot run", hint="give the model's factory")
    if data is not None:
        return loaded.source, load_data(data, seed=seed), []
    call = random_call(inputs, seed=seed) if inputs else loaded.example
    if call is None:
        raise EmptyCalibrationError(
            "FXQ301",
            f"there is nothing to compare the candidates of '{model}' on",
            hint="--data file.py:batches, or --shape 1,3,224,224 for random numbers",
        )
    return loaded.source, [(call.args, dict(call.kwargs))], [RANDOM if inputs else ONE_CALL]


def _candidate(what: str) -> Any:
    """What a candidate's text names: a saved model, something in the user's code, or a policy as `compile` takes it."""
    if what.endswith(".safetensors"):
        import fxquant

        return fxquant.load(what)
    if ":" in what:
        from torch import nn

        return value_of(parse(what), is_value=lambda found: isinstance(found, nn.Module) or not callable(found))
    return what


def _metric(text: str | None) -> Any:
    """A metric's name as it is, and a function of the user's."""
    if text is None or ":" not in text:
        return text
    return value_of(parse(text), is_value=callable)
