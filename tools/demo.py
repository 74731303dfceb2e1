"""`fxquant demo`: train a small CNN on handwritten digits, compile it to int8, print what was won and what it cost."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from fxquant.tools.bench.digits import Measured


@click.command()
@click.option("--seed", default=0, show_default=True, help="Seed of weights and training order.")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1, 1000), help="Passes over the data.")
@click.option("--preset", default="int8", show_default=True, help="Preset name or path of a TOML recipe.")
@click.option("--target", default="auto", show_default=True, help="A target (`fxquant doctor`), or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def demo(seed: int, epochs: int, preset: str, target: str, as_json: bool) -> None:
    """Train a CNN on digits, compile it to int8, print the result."""
    from fxquant.tools.bench.digits import measure

    with _progress(epochs) as advance:
        measured = measure(seed=seed, epochs=epochs, preset=preset, target=target, on_epoch=advance)
    if as_json:
        print(json.dumps(measured.as_dict(), indent=2))
        return
    _show(measured)


class _progress:
    """A progress bar on stderr where that is a terminal; else nothing."""

    def __init__(self, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self._task = self._progress.add_task("training", total=epochs)

    def __enter__(self) -> Any:
        self._progress.start()
        return lambda epoch: self._progress.advance(self._task)

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


def _show(measured: Measured) -> None:
    from fxquant.tools.ledger_table import ledger_table
    from fxquant.tools.terminal import console as terminal

    console = terminal()
    console.print(_comparison(measured))
    console.print(ledger_table(measured.ledger))
    for row in measured.ledger:
        if not row["site"]:
            console.print(f"{row['code']} {row['reason']}", markup=False)
    console.print(
        f"target {measured.target}, {measured.threads} threads, batch of {measured.batch_size}; "
        f"trained in {measured.train_seconds:.1f} s, compiled in {measured.compile_seconds:.1f} s",
        style="dim",
    )


def _comparison(measured: Measured) -> Table:
    from rich.table import Table

    table = Table(title="digits: float32 against int8")
    for heading in ("", "float32", "int8", "int8 / float32"):
        table.add_column(heading, justify="left" if not heading else "right")
    before, after = measured.accuracy
    table.add_row("accuracy", f"{before:.2%}", f"{after:.2%}", f"{(after - before) * 100:+.2f} points")
    before, after = measured.size_bytes
    table.add_row("size, bytes", f"{before:,}", f"{after:,}", f"{after / before:.3f}")
    before, after = measured.latency_seconds
    table.add_row("latency, ms", f"{before * 1e3:.2f}", f"{after * 1e3:.2f}", f"{measured.latency_ratio:.3f}")
    table.add_row("SQNR, dB", "", f"{measured.sqnr_db:.1f}", "")
    return table
