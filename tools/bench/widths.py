"""Number formats: bytes of a saved model over those of the float state, and latency over the float model's, batch 1."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    from collections.abc import Callable

    import fxquant

# preset → bytes at most, of the float state's; latency at most, of the float model's
TARGETS = {
    "int8-dynamic": (0.27, 1.0),
    "int8-weight-only": (0.27, 1.1),
    "int4-weight-only": (0.15, 1.1),
    "bfloat16": (0.52, 1.1),
}


@click.command()
@click.option("--model", "name", default="encoder", show_default=True, help="A name of the zoo.")
@options.engine
@click.option("--rounds", default=15, show_default=True)
@options.quick
@options.tests
@options.as_json
def main(name: str, engine_name: str, rounds: int, quick: bool, tests: str | None, as_json: bool) -> None:
    """Saved size: int8 weights at most 0.27 of float32, int4 at most 0.15; latency against float at batch 1."""
    from fxquant.sizes import size_bytes
    from fxquant.tools.bench.zoo import load_zoo, pick

    case = pick(load_zoo(tests), name)[name]
    model, one = case.make(full=not quick), case.inputs(0, 1, full=not quick)
    whole, compiled, checks = size_bytes(model.state_dict().values()), {}, list[Check]()
    with tempfile.TemporaryDirectory() as folder:
        for preset in TARGETS:
            compiled[preset] = _made(model, preset, one, engine_name)
            size = compiled[preset].save(Path(folder) / f"{preset}.fxq.safetensors").stat().st_size
            checks.append(_size(preset, size, whole))
    checks += _latencies(model, compiled, one, engine_name, rounds=min(rounds, 3) if quick else rounds)
    show(f"number formats, {name}, {engine_name}", checks, as_json=as_json)


def _made(model: Any, preset: str, one: tuple[Any, ...], engine_name: str) -> fxquant.CompiledModel:
    import fxquant

    return fxquant.compile(model, preset, example_inputs=one, target=engine_name)


def _size(preset: str, size: int, whole: int) -> Check:
    told = f"{size:,} of {whole:,} bytes"
    return Check(f"{preset}: saved bytes / float state", "at most", TARGETS[preset][0], size / whole, "", told)


def _latencies(
    model: Any, compiled: dict[str, fxquant.CompiledModel], one: tuple[Any, ...], engine_name: str, *, rounds: int
) -> list[Check]:
    import torch

    from fxquant.comparing.timing import interleaved, ratio
    from fxquant.torch_ao import engine

    def call(of: Any) -> Callable[[], object]:
        return lambda: of(*one)

    with engine(engine_name), torch.no_grad():
        timings = interleaved(
            {"float32": call(model)} | {name: call(of) for name, of in compiled.items()}, rounds=rounds
        )
    checks = []
    for preset in compiled:
        found = ratio(timings[preset], timings["float32"])
        told = f"{timings[preset].median * 1e3:.2f} of {timings['float32'].median * 1e3:.2f} ms; ratio {found}"
        told += f"; batch 1, {torch.get_num_threads()} threads"
        checks.append(Check(f"{preset}: latency / float32", "at most", TARGETS[preset][1], found.median, "", told))
    return checks


if __name__ == "__main__":
    main()
