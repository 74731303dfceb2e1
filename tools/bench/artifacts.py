"""Saved models: loading against rebuilding by prepare_fx, convert_fx and load_state_dict; bytes over the payload."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    from torch import nn

MODELS = "resnet18,resnet50,mobilenet_v2,encoder"


@click.command()
@options.models(MODELS)
@options.engine
@click.option("--rounds", default=7, show_default=True)
@options.quick
@options.tests
@options.as_json
def main(models: str, engine_name: str, rounds: int, quick: bool, tests: str | None, as_json: bool) -> None:
    """Loads at least 1.5 times as fast as rebuilding; at most 1.05 of the payload's bytes."""
    from fxquant.tools.bench.zoo import load_zoo, pick

    checks: list[Check] = []
    for name, case in pick(load_zoo(tests), models).items():
        with tempfile.TemporaryDirectory() as folder:
            checks += _one(name, case, Path(folder), engine_name, full=not quick, rounds=3 if quick else rounds)
    show(f"saved models, {engine_name}", checks, as_json=as_json)


def _one(name: str, case: Any, folder: Path, engine_name: str, *, full: bool, rounds: int) -> list[Check]:
    import torch

    import fxquant
    from fxquant.comparing.timing import interleaved_once, ratio
    from fxquant.torch_ao import engine, quiet, raw_mapping, raw_quantize

    model, batches = case.make(full=full), case.batches(2, 4, full=full)
    path = folder / "model.fxq.safetensors"
    compiled = fxquant.compile(model, "int8", calibration_data=batches, target=engine_name)
    compiled.save(path)
    with engine(engine_name), quiet():
        raw = raw_quantize(model, raw_mapping(engine_name), batches[0], batches)
        torch.save(raw.state_dict(), folder / "raw.pt")
    copies = [copy.deepcopy(model) for _ in range(rounds + 1)]  # raw FX marks its model; making one is not charged

    def rebuild() -> nn.Module:
        with engine(engine_name), quiet():
            made = raw_quantize(copies.pop(), raw_mapping(engine_name), batches[0], (), in_place=True)
            made.load_state_dict(torch.load(folder / "raw.pt", weights_only=True))
        return made

    for call in (lambda: fxquant.load(path), rebuild):
        call()
    timings = interleaved_once({"load": lambda: fxquant.load(path), "rebuild": rebuild}, rounds=rounds)
    found = ratio(timings["rebuild"], timings["load"])
    medians = ", ".join(f"{side} {timing.median * 1e3:.0f} ms" for side, timing in timings.items())
    size, payload = path.stat().st_size, compiled.size_bytes()
    return [
        Check(f"{name}: rebuild / load", "at least", 1.5, found.median, "", f"{medians}; ratio {found}"),
        Check(f"{name}: bytes / payload", "at most", 1.05, size / payload, "", f"{size:,} of {payload:,}"),
    ]


if __name__ == "__main__":
    main()
