"""`fxquant compile`: compile a model, print what became of each layer; save it, and write a report, where asked."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from fxquant.errors import UsageError
from fxquant.steps import Step, steps_of
from fxquant.tools.model_options import CODE_RUNS, Options, ReferenceType, model_options
from fxquant.tools.model_reference import Reference
from fxquant.tools.output import STDOUT, check_output, note, write

if TYPE_CHECKING:
    from fxquant.model import CompiledModel


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the float model's state and of the compiled one's."""

    before: int | None  # None: the float model is not known
    after: int


@click.command("compile", epilog=CODE_RUNS)
@click.argument("model", type=ReferenceType())
@click.option("-o", "--output", metavar="m.fxq.safetensors", help="Save the compiled model as one file.")
@click.option("--report", metavar="r.html", help="Write a report as one self-contained HTML file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@model_options
def compile_(model: Reference, output: str | None, report: str | None, as_json: bool, options: Options) -> None:
    """Compile a model; print what became of each layer."""
    if output is not None:
        _check_file(output)
    if report is not None:
        check_output(report, ("html",))
    from fxquant.sizes import size_bytes
    from fxquant.tools.subject import Subject

    subject = Subject(model, options)
    started = time.perf_counter()
    compiled = subject.compiled()
    seconds = time.perf_counter() - started
    sizes = Sizes(None if subject.model is None else size_bytes(subject.model), compiled.size_bytes())
    if report is not None:
        from fxquant.reporting.report import render_report

        write(report, render_report(compiled, model=subject.model, inputs=subject.inputs))
    if output is not None:
        compiled.save(output)
    if as_json:
        print(json.dumps(_facts(compiled, sizes, report, subject.notes) | {"output": output}, indent=2))
        return
    _show(compiled, sizes, seconds)
    if output is not None:
        print(f"model → {output}", file=sys.stderr)
    if report is not None:
        print(f"report → {report}", file=sys.stderr)
    for text in subject.notes:
        note(text)


def _check_file(output: str) -> None:
    """FXQ118 before any work: a model goes into a file, not to stdout."""
    if output == STDOUT:
        raise UsageError("FXQ118", "a model is not written to stdout", hint="-o m.fxq.safetensors")
    check_output(output, ("safetensors",))


def _facts(compiled: CompiledModel, sizes: Sizes, report: str | None, notes: list[str]) -> dict[str, object]:
    """What --json prints."""
    return {
        "model": repr(compiled),
        "stage": compiled.stage.name.lower(),
        "target": compiled.target,
        "size_bytes": {"float32": sizes.before, "compiled": sizes.after},
        "ledger": compiled.ledger.as_dicts(),
        "steps": [step.as_dict() for step in steps_of(compiled.history)],
        "passes": [{"name": record.name, "seconds": record.seconds} for record in compiled.history],
        "report": report,
        "notes": notes,
    }


def _show(compiled: CompiledModel, sizes: Sizes, seconds: float) -> None:
    from fxquant.table import notice_line
    from fxquant.tools.ledger_table import ledger_table
    from fxquant.tools.terminal import console

    print(compiled)
    console().print(ledger_table(compiled.ledger.as_dicts()))
    for row in compiled.ledger.notices:
        print(notice_line(row))
    _show_steps(steps_of(compiled.history))
    was = "" if sizes.before is None else f" of {sizes.before:,} ({sizes.after / max(1, sizes.before):.3f})"
    print(f"{sizes.after:,} bytes{was}; compiled in {seconds:.1f} s")


def _show_steps(steps: tuple[Step, ...]) -> None:
    """What compressing passes did before the model was quantized; nothing where there were none."""
    if not steps:
        return
    from rich.table import Table

    from fxquant.tools.terminal import console

    table = Table("step", "parameters", "not zero", "MACs", "bytes", "layers")
    for step in steps:
        pairs = zip(step.before.numbers, step.after.numbers, strict=True)
        table.add_row(step.name, *(_change(before, after) for before, after in pairs), str(len(step.layers)))
    console().print(table)


def _change(before: int | None, after: int | None) -> str:
    told = ["–" if count is None else f"{count:,}" for count in (before, after)]
    return told[0] if before == after else " → ".join(told)
