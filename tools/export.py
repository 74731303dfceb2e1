"""`fxquant export`: write a compiled model as ONNX, OpenVINO or torch.export has it, for other programs to run."""

from __future__ import annotations

from pathlib import Path

import click

from fxquant.errors import UsageError
from fxquant.tools.model_options import CODE_RUNS, Options, ReferenceType, model_options
from fxquant.tools.model_reference import Reference
from fxquant.tools.output import STDOUT, check_output, note

SUFFIXES = {"onnx": "onnx", "openvino": "xml", "pt2": "pt2"}
_RUNS_CODE = "output only: loading a .pt2 runs code that is in it, so load none that you did not make"


@click.command("export", epilog=CODE_RUNS)
@click.argument("model", type=ReferenceType())
@click.option("-o", "--output", metavar="m.onnx", required=True, help="The file; its suffix says the format.")
@click.option("--format", "format_", metavar="onnx|openvino|pt2", help="The format, to be held against the suffix.")
@model_options
def export(model: Reference, output: str, format_: str | None, options: Options) -> None:
    """Write a model as ONNX, OpenVINO or torch.export has it."""
    _check(output, format_)
    from fxquant.tools.subject import Subject

    subject = Subject(model, options)
    path = subject.compiled().export(output, format=format_)
    print(f"{subject.compiled()}")
    for written in _written(path):
        print(f"{written.stat().st_size:,} bytes → {written}")
    if path.suffix == ".pt2":
        note(_RUNS_CODE)
    for text in subject.notes:
        note(text)


def _check(output: str, format_: str | None) -> None:
    """FXQ118 before any work: for a path that cannot be written, and a format that is none or is not the suffix's."""
    if output == STDOUT:
        raise UsageError("FXQ118", "a model is not written to stdout", hint="-o m.onnx")
    check_output(output, tuple(SUFFIXES.values()))
    from fxquant.exporting import chosen_format

    chosen_format(output, format_)


def _written(path: Path) -> list[Path]:
    """The file, and what OpenVINO puts beside it."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
