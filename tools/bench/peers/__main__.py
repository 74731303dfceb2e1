"""`python -m fxquant.tools.bench peers`: options, and what is done with the result."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fxquant.tools.bench import options

if TYPE_CHECKING:
    from fxquant.tools.bench.peers.measured import Result
    from fxquant.tools.bench.peers.sides import Side

_PLACE = click.Path(dir_okay=False, writable=True)


def _in_a_folder(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Told before half an hour of measuring, not after it."""
    if path is not None and not os.access(Path(path).parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"there is no folder {Path(path).parent} to write to")
    if path is not None and option.name == "chart" and Path(path).suffix.lower() not in (".svg", ".png"):
        raise click.BadParameter(f"{path} ends in neither .svg nor .png")
    return path


QUICK = ("lstm", "float-eager,fx-onednn,fxquant-onednn")


@click.command()
@click.option("--models", default="", help="Names, with commas; all nine by default.")
@click.option("--sides", "wanted", default="", help="Names, with commas; by default all but the slow ones.")
@click.option("--list", "is_list", is_flag=True, help="Say which sides there are, and do nothing else.")
@click.option("--slow", is_flag=True, help="Also the sides that take a minute a model: pt2e and fxquant-inductor.")
@click.option("--batches", default="1,16", show_default=True, help="Rows of a batch, with commas.")
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1, 1000))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 1024))
@click.option("--quick", is_flag=True, help="A tiny model, few sides and rounds: a smoke test, not a result.")
@options.tests
@click.option(
    "--from",
    "sources",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    help="A file of --json, not a run; given again, one for other models.",
)
@click.option("--json", "target", type=_PLACE, callback=_in_a_folder, help="Write all numbers here.")
@click.option("--chart", type=_PLACE, callback=_in_a_folder, help="Draw the ratios here (.svg or .png).")
@click.option("--profile", "profiled", default="", help="Not a run: op by op, this model on OpenVINO beside --peer's.")
@click.option("--peer", default="nncf", show_default=True, help="A side on OpenVINO, for --profile.")
@click.option("--readme", is_flag=True, help="Print the README's table, and nothing else.")
def main(
    models: str,
    wanted: str,
    is_list: bool,
    slow: bool,
    batches: str,
    rounds: int,
    threads: int,
    quick: bool,
    tests: str | None,
    sources: tuple[str, ...],
    target: str | None,
    chart: str | None,
    profiled: str,
    peer: str,
    readme: bool,
) -> None:
    """fxquant against stock FX, torchao PT2E, ONNX Runtime's quantizer, NNCF with OpenVINO, and float, per engine."""
    from fxquant.tools.bench.peers import told
    from fxquant.tools.bench.peers.held import checks
    from fxquant.tools.bench.report import show

    if is_list:
        from fxquant.tools.bench.peers.sides import SIDES

        for side in SIDES.values():
            print(f"{side.name:<20} {side.title}{', if asked for' if side.is_slow else ''}")
        return
    if profiled:
        _profile(profiled, peer, threads, quick=quick, tests=tests)
        return
    if sources:
        result = _joined(sources)
    else:
        models, wanted = (models or QUICK[0], wanted or QUICK[1]) if quick else (models, wanted)
        result = _run(models, _sides(wanted, slow=slow), _numbers(batches), rounds, threads, quick=quick, tests=tests)
    held = checks(result)
    if target is not None:
        written = {**result.as_dict(), "checks": [check.as_dict() for check in held]}
        Path(target).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if chart is not None:
        from fxquant.tools.bench.peers.chart import draw

        draw(result, Path(chart))
    if readme:
        print(told.as_markdown(result))
        return
    told.show(result)
    show("fxquant against its peers", held, as_json=False)


def _joined(sources: tuple[str, ...]) -> Result:
    from fxquant.tools.bench.peers.measured import joined

    try:
        return joined([_read(source) for source in sources])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from error


def _read(source: str) -> Result:
    from fxquant.tools.bench.peers.measured import Result

    try:
        return Result.of_dict(json.loads(Path(source).read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        told = f"{source} is no file that --json wrote: {type(error).__name__}: {error}"
        raise click.BadParameter(told, param_hint="--from") from error


def _run(
    models: str,
    sides: list[Side],
    batches: tuple[int, ...],
    rounds: int,
    threads: int,
    *,
    quick: bool,
    tests: str | None,
) -> Result:
    from fxquant.tools.bench.peers.measuring import Settings, measure
    from fxquant.tools.bench.zoo import load_zoo, pick

    zoo = load_zoo(tests, "BENCHED")
    settings = Settings(batches, min(rounds, 3) if quick else rounds, threads, not quick, tests)
    return measure(pick(zoo, models) if models else zoo, sides, settings, told=_progress)


def _profile(name: str, peer: str, threads: int, *, quick: bool, tests: str | None) -> None:
    from fxquant.tools.bench.peers.profiling import profile
    from fxquant.tools.bench.peers.sides import SIDES
    from fxquant.tools.bench.zoo import load_zoo, pick

    on_openvino = {side.name: side for side in SIDES.values() if side.function.startswith("by_openvino:")}
    pick(on_openvino, peer, "side on OpenVINO")
    profile(name, pick(load_zoo(tests, "BENCHED"), name)[name], peer, full=not quick, threads=threads)


def _sides(wanted: str, *, slow: bool) -> list[Side]:
    from fxquant.tools.bench.peers.sides import SIDES
    from fxquant.tools.bench.zoo import pick

    if wanted:
        return list(pick(SIDES, wanted, "side").values())
    return [side for side in SIDES.values() if slow or not side.is_slow]


def _numbers(text: str) -> tuple[int, ...]:
    from fxquant.tools.bench.peers.job import HELD_OUT

    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 < rows <= HELD_OUT for rows in found):
        raise click.BadParameter(f"{text!r}: numbers from 1 to {HELD_OUT} with commas, such as 1,16")
    return found


def _progress(text: str) -> None:
    print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)


if __name__ == "__main__":
    main()
