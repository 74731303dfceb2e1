"""Peak memory of quantizing one model, fxquant and raw FX each in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import click

from fxquant.tools.bench import options


def peak_bytes() -> int:
    """This process's high-water mark. VmHWM where there is one: ru_maxrss starts at the parent's size after a fork."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_apart(model: str, side: str, arguments: tuple[str, ...]) -> dict[str, int]:
    """`before_bytes` (model and batches are there) and `peak_bytes`, from a fresh interpreter."""
    command = (sys.executable, "-m", "fxquant.tools.bench.peak_memory", "--model", model, "--side", side, *arguments)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise click.ClickException(f"{side} on {model} failed in its process:\n{finished.stderr[-2000:]}")
    result: dict[str, int] = json.loads(finished.stdout.splitlines()[-1])
    return result


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--side", type=click.Choice(("fxquant", "raw")), default="fxquant", show_default=True)
@options.engine
@options.batches
@options.batch_size
@options.quick
@options.tests
def main(
    model: str, side: str, engine_name: str, batches: int, batch_size: int, quick: bool, tests: str | None
) -> None:
    """Quantize one model on one side; print its peak memory as JSON."""
    from fxquant.tools.bench.sides import Job
    from fxquant.tools.bench.zoo import load_zoo, pick

    case = pick(load_zoo(tests), model)[model]
    job = Job(case.make(full=not quick), case.batches(batches, batch_size, full=not quick), engine_name)
    before = peak_bytes()
    quantized = job.by_fxquant() if side == "fxquant" else job.by_raw(job.model)
    peak = peak_bytes()
    del quantized
    click.echo(json.dumps({"before_bytes": before, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
