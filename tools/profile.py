"""`fxquant profile`: distributions and time of each layer, and what to change, as a recipe to be pasted."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from fxquant.errors import UsageError
from fxquant.tools.model_options import CODE_RUNS, Options, ReferenceType, model_options
from fxquant.tools.model_reference import Reference
from fxquant.tools.output import STDOUT, check_output, note, put, write

if TYPE_CHECKING:
    from fxquant.profiling.result import Profile
    from fxquant.tools.subject import Subject

NO_DATA = "profiled on random numbers: times mean something, distributions and advice do not (--data gives it data)"
ONE_CALL = "profiled on the one example that came with the model (--data gives it data)"
FORMATS = ("png", "svg", "pdf")


@click.command(epilog=CODE_RUNS)
@click.argument("model", type=ReferenceType())
@click.option("--objective", type=click.Choice(("sqnr", "latency")), default="sqnr", show_default=True, help="Rank by.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compile and measure each advice.")
@click.option("--seconds", type=click.FloatRange(0), default=20.0, show_default=True, help="For verifying, in all.")
@click.option("--json", "json_path", metavar="p.json", help="Write all numbers as JSON; - for stdout.")
@click.option("--csv", "csv_path", metavar="p.csv", help="Write a line a layer as CSV; - for stdout.")
@click.option("-o", "--output", metavar="recipe.toml", help="Write the recipe; - for stdout.")
@click.option("--plot", "plot_path", metavar="p.png", help="Draw histograms: .png, .svg or .pdf. Takes matplotlib.")
@model_options
def profile(
    model: Reference,
    objective: str,
    verify: bool,
    seconds: float,
    json_path: str | None,
    csv_path: str | None,
    output: str | None,
    plot_path: str | None,
    options: Options,
) -> None:
    """Profile each layer's values, weights and time; advise a recipe.

    `inspect` lists what is in a graph, from shapes alone: it measures nothing. `profile` runs the float and the
    compiled model on data, and tries out what it advises.
    """
    files = {"json": json_path, "csv": csv_path, "toml": output}
    for suffix, path in files.items():
        if path is not None:
            check_output(path, (suffix,))
    _check_plot(plot_path)
    if [*files.values(), plot_path].count(STDOUT) > 1:
        raise UsageError("FXQ118", "two results for one stdout", hint="give all but one a file")
    made, notes = _profiled(model, options, objective=objective, verify=verify, seconds=seconds)
    texts = {"json": made.to_json, "csv": made.to_csv, "toml": made.recipe_text}
    for suffix, path in files.items():
        if path is not None:
            _deliver(path, texts[suffix]())
    if plot_path is not None:
        made.plot(plot_path)
        print(f"plot → {plot_path}", file=sys.stderr)
    if STDOUT not in files.values():
        print(made)
    for text in notes:
        note(text)


def _check_plot(path: str | None) -> None:
    """FXQ118 before any work: a picture goes into a file."""
    if path == STDOUT:
        raise UsageError("FXQ118", "a chart is not written to stdout", hint="--plot p.png")
    if path is not None:
        check_output(path, FORMATS)


def _deliver(path: str, text: str) -> None:
    if path == STDOUT:
        put(text)
        return
    write(path, text)
    print(f"{path.rpartition('.')[2]} → {path}", file=sys.stderr)


def _profiled(model: Reference, options: Options, **how: Any) -> tuple[Profile, list[str]]:
    """The profile, and what the user should know of how it came about."""
    import fxquant
    from fxquant.tools.loading import seeded
    from fxquant.tools.subject import Subject

    subject = Subject(model, options)
    if subject.model is None:
        told = f"'{model}' is compiled already, or a snapshot"
        raise UsageError("FXQ115", told, hint="profile the float model that it was made from")
    data, notes = _data(subject)
    with redirect_stdout(sys.stderr), seeded(options.seed):  # what the user's code prints
        made = fxquant.profile(
            subject.model,
            data,
            qconfig_mapping=options.mapping,
            target=options.target,
            strict=options.is_strict,
            **how,
        )
    return made, [*subject.notes, *notes]


def _data(subject: Subject) -> tuple[Any, list[str]]:
    """--data, else the one call that is known, else nothing: weights only."""
    call = subject.example
    if subject.data is not None:
        return subject.data, []
    if call is None:
        return None, []
    return [(call.args, dict(call.kwargs))], [NO_DATA if subject.options.inputs else ONE_CALL]
