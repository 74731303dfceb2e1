"""fxquant against raw prepare_fx and convert_fx: SQNR, latency, compile time and peak memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    from fxquant.tools.bench.sides import Job

MODELS = "resnet18,mobilenet_v2,encoder"


@click.command()
@options.models(MODELS)
@options.engine
@options.batches
@options.batch_size
@click.option("--rounds", default=15, show_default=True, help="Latency rounds; compile time takes a fifth of them.")
@options.quick
@options.tests
@options.as_json
def main(
    models: str,
    engine_name: str,
    batches: int,
    batch_size: int,
    rounds: int,
    quick: bool,
    tests: str | None,
    as_json: bool,
) -> None:
    """SQNR at least raw FX's less 0.3 dB; latency at most 1.02, compile time 1.5, peak memory 1.3 of raw FX's."""
    from fxquant.tools.bench.sides import Job
    from fxquant.tools.bench.zoo import load_zoo, pick

    rounds = min(rounds, 5) if quick else rounds
    arguments: tuple[str, ...] = ("--engine", engine_name, "--batches", str(batches), "--batch-size", str(batch_size))
    arguments += ("--quick",) * quick + (("--tests", tests) if tests else ())
    checks: list[Check] = []
    for name, case in pick(load_zoo(tests), models).items():
        job = Job(case.make(full=not quick), case.batches(batches, batch_size, full=not quick), engine_name)
        checks += _quality_and_latency(name, job, case, full=not quick, rounds=rounds)
        checks += _compile_time(name, job, rounds=max(3, rounds // 5))
        del job
        checks += _memory(name, arguments)
    show(f"raw FX, {engine_name}, batches {batches}×{batch_size}", checks, as_json=as_json)


def _quality_and_latency(name: str, job: Job, case: Any, *, full: bool, rounds: int) -> list[Check]:
    import torch

    from fxquant.comparing.timing import interleaved, ratio
    from fxquant.numerics import sqnr_db
    from fxquant.torch_ao import engine

    ours, raw = job.quantize("fxquant"), job.quantize("raw")
    inputs, one = case.inputs(0, 32, full=full), case.inputs(0, 1, full=full)
    with torch.no_grad():
        reference = job.model(*inputs)
    db = {side: sqnr_db(reference, job.outputs(model, inputs)) for side, model in (("fxquant", ours), ("raw", raw))}
    with engine(job.engine_name), torch.no_grad():
        timings = interleaved({"fxquant": lambda: ours(*one), "raw": lambda: raw(*one)}, rounds=rounds)
    found = ratio(timings["fxquant"], timings["raw"])
    medians = ", ".join(f"{side} {timing.median * 1e3:.2f} ms" for side, timing in timings.items())
    detail = f"{medians}; ratio {found}; batch 1, {torch.get_num_threads()} threads"
    told = f"fxquant {db['fxquant']:.2f}, raw {db['raw']:.2f} dB"
    return [
        Check(f"{name}: SQNR over raw", "at least", -0.3, db["fxquant"] - db["raw"], " dB", told),
        Check(f"{name}: latency / raw", "at most", 1.02, found.median, "", detail),
    ]


def _compile_time(name: str, job: Job, *, rounds: int) -> list[Check]:
    from fxquant.comparing.timing import interleaved_once, ratio

    copies = [copy.deepcopy(job.model) for _ in range(rounds)]  # made ahead: raw FX marks its model, and is not charged
    timings = interleaved_once({"fxquant": job.by_fxquant, "raw": lambda: job.by_raw(copies.pop())}, rounds=rounds)
    found = ratio(timings["fxquant"], timings["raw"])
    medians = ", ".join(f"{side} {timing.median:.2f} s" for side, timing in timings.items())
    return [Check(f"{name}: compile time / raw", "at most", 1.5, found.median, "", f"{medians}; ratio {found}")]


def _memory(name: str, arguments: tuple[str, ...]) -> list[Check]:
    from fxquant.tools.bench.peak_memory import measure_apart

    found = {side: measure_apart(name, side, arguments) for side in ("fxquant", "raw")}
    over = found["fxquant"]["peak_bytes"] / found["raw"]["peak_bytes"]
    told = "; ".join(
        f"{side} {sizes['peak_bytes'] / 2**20:.0f} MiB, of which quantizing "
        f"{(sizes['peak_bytes'] - sizes['before_bytes']) / 2**20:.0f}"
        for side, sizes in found.items()
    )
    return [Check(f"{name}: peak memory / raw", "at most", 1.3, over, "", told)]


if __name__ == "__main__":
    main()
