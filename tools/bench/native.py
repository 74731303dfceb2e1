"""torch's own engines: fxquant on the canonical graph against stock FX, each on its best engine, in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    from fxquant.comparing.timing import Timing
    from fxquant.tools.bench.sides import Job

TARGETS = {"mobilenet_v2": 0.60, "resnet18": 0.95}  # of stock FX's time on its best engine


@click.command()
@options.models(",".join(TARGETS))
@click.option("--engines", default="x86,onednn", show_default=True, help="Engines of both sides, with commas.")
@options.batches
@options.batch_size
@click.option("--rounds", default=60, show_default=True, type=click.IntRange(min=1))
@options.quick
@options.tests
@options.as_json
def main(
    models: str,
    engines: str,
    batches: int,
    batch_size: int,
    rounds: int,
    quick: bool,
    tests: str | None,
    as_json: bool,
) -> None:
    """Latency at batch 1: MobileNetV2 at most 0.60 of stock FX, ResNet-18 at most 0.95; best engine of each side."""
    from fxquant import targets
    from fxquant.tools.bench.sides import Job
    from fxquant.tools.bench.zoo import load_zoo, pick

    here = {name: name for name in targets.NATIVE if targets.available(name)}
    named = list(pick(here, engines, "engine"))
    checks: list[Check] = []
    for name, case in pick(load_zoo(tests), models).items():
        model, data = case.make(full=not quick), case.batches(batches, batch_size, full=not quick)
        jobs = [Job(model, data, engine) for engine in named]
        one = case.inputs(0, 1, full=not quick)
        checks.append(_against_stock(name, jobs, one, rounds=min(rounds, 5) if quick else rounds))
    show(f"native engines, {engines}", checks, as_json=as_json)


def _against_stock(name: str, jobs: list[Job], one: tuple[Any, ...], *, rounds: int) -> Check:
    import torch

    from fxquant.comparing.timing import interleaved, ratio

    calls: dict[str, Callable[[], object]] = {}
    for job in jobs:
        for side in ("fxquant", "raw"):
            calls[f"{side} {job.engine_name}"] = _call(job.quantize(side), one)
    for _ in range(10):  # weights are packed anew for the shapes of these calls
        for call in calls.values():
            call()
    timings = interleaved(calls, rounds=rounds)
    ours, stock = (_best(timings, side) for side in ("fxquant", "raw"))
    found = ratio(timings[ours], timings[stock])
    told = ", ".join(f"{side} {timing.median * 1e3:.2f}" for side, timing in timings.items())
    detail = f"{ours} / {stock}; medians {told} ms; ratio {found}; batch 1, {torch.get_num_threads()} threads"
    return Check(f"{name}: latency / stock FX", "at most", TARGETS.get(name, 1.0), found.median, "", detail)


def _call(model: Callable[..., Any], one: tuple[Any, ...]) -> Callable[[], object]:
    """Quantized ops go by their packed weights, whichever engine is set."""
    import torch

    def call() -> object:
        with torch.no_grad():
            return model(*one)

    return call


def _best(timings: dict[str, Timing], side: str) -> str:
    return min((name for name in timings if name.startswith(side)), key=lambda name: timings[name].median)


if __name__ == "__main__":
    main()
