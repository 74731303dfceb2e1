"""The `fxquant` command: verbs by name, imported when they are called, and every error's exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from fxquant.errors import FxQuantError, UsageError
from fxquant.printable import printable
from fxquant.tools.terminal import prepare_streams

INTERRUPTED = 130
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)  # of a stream: a full disk, a terminal that is gone

# verb → where it is, and its line in --help (a test compares it with the command's own)
VERBS: dict[str, tuple[str, str]] = {
    "compile": ("fxquant.tools.compile:compile_", "Compile a model; print what became of each layer."),
    "export": ("fxquant.tools.export:export", "Write a model as ONNX, OpenVINO or torch.export has it."),
    "graph": ("fxquant.tools.graph:graph", "Draw a model's graph at any stage, and list its float islands."),
    "diff": ("fxquant.tools.diff:diff", "Show what differs between two graphs; exit 1 when they do."),
    "compare": (
        "fxquant.tools.compare:compare",
        "Compare quantized candidates: accuracy, SQNR, size, latency.",
    ),
    "inspect": ("fxquant.tools.inspect:inspect", "List a graph's nodes: shapes, parameters, MACs, decisions."),
    "profile": ("fxquant.tools.profile:profile", "Profile each layer's values, weights and time; advise a recipe."),
    "verify": ("fxquant.tools.verify:verify", "Check every byte of a saved model without running any of it."),
    "demo": ("fxquant.tools.demo:demo", "Train a CNN on digits, compile it to int8, print the result."),
    "doctor": ("fxquant.tools.doctor:doctor", "Check torch, engines, CPU and renderer."),
    "explain": ("fxquant.tools.explain:explain", "Print the page of an error code; without one, list all."),
    "passes": ("fxquant.tools.passes:passes", "List the passes, with the stages they accept and yield."),
}

# package → the extra that brings it
EXTRAS = {
    "sklearn": "demo",
    "matplotlib": "demo",
    "onnx": "onnxruntime",
    "onnxscript": "onnxruntime",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "transformers": "transformers",
}


class LazyGroup(click.Group):
    """A group whose help needs none of its verbs' modules, so that it does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, attribute = VERBS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


def _show_version(ctx: click.Context, _option: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    print(f"fxquant {version('fxquant')}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Print the version."
)
def cli() -> None:
    """A compiler toolkit for FX graph-mode quantization in PyTorch."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit status. fxquant's errors are text on stderr, a closed pipe is none."""
    try:
        status = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            raise
        _silence_stdout()
        print(UsageError("FXQ118", f"stdout cannot be written: {error.strerror}"), file=sys.stderr)
        return UsageError.exit_status
    return status


def _invoke(arguments: Sequence[str]) -> int:
    try:
        _call_verb(arguments)
    except FxQuantError as error:
        print(printable(str(error)), file=sys.stderr)  # it may quote a file that anybody made
        return error.exit_status
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _call_verb(arguments: Sequence[str]) -> None:
    """Parse and call. FXQ112 when the verb needs an extra that is not installed."""
    try:
        with cli.make_context("fxquant", list(arguments)) as context:
            cli.invoke(context)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise UsageError(
            "FXQ112",
            f"this needs the package '{package}', which is not installed",
            hint=f'pip install "fxquant[{EXTRAS[package]}]"',
        ) from error


def _silence_stdout() -> None:
    """Nobody reads stdout any more: what is still buffered must not raise when Python flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The entry point of the `fxquant` script."""
    prepare_streams()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
