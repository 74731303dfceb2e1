"""Pruning and low rank on models of the zoo: zeros in the artifact, bytes after compression, MACs, and latency.

The zoo's weights are random: their singular values fall off slowly, so that what is lost (SQNR) is far more than on a
trained model, and is told as it is. Sizes, MACs and latency do not depend on it.
"""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    from torch import nn

    from fxquant.model import CompiledModel
    from fxquant.passes.low_rank import LowRank
    from fxquant.trainable import TrainableModel

MODELS = "resnet18,encoder"


@click.command()
@options.models(MODELS)
@options.engine
@click.option("--budget", default=0.5, show_default=True, help="Share of the MACs that low rank leaves.")
@click.option("--method", default="weight", show_default=True, help="weight (k×k, 1×1) or spatial (k×1, 1×k).")
@click.option("--rounds", default=10, show_default=True)
@options.quick
@options.tests
@options.as_json
def main(
    models: str,
    engine_name: str,
    budget: float,
    method: str,
    rounds: int,
    quick: bool,
    tests: str | None,
    as_json: bool,
) -> None:
    """Every pruned zero is one in the file; the budget of MACs is met (attention's own products come on top)."""
    from fxquant.passes.low_rank import LowRank
    from fxquant.tools.bench.zoo import load_zoo, pick

    step = LowRank(budget=budget, method=method)
    checks: list[Check] = []
    for name, case in pick(load_zoo(tests), models).items():
        model, batches = case.make(full=not quick), case.batches(2, 4, full=not quick)
        inputs = case.inputs(0, 1, full=not quick)
        checks += _pruning(name, model, batches, engine_name)
        checks += _factorizing(name, model, batches, inputs, engine_name, step, rounds=3 if quick else rounds)
    show(f"shrinking, {engine_name}, batch 1", checks, as_json=as_json)


def _pruning(name: str, model: Any, batches: list[Any], engine_name: str) -> list[Check]:
    import fxquant
    from fxquant.passes.prune_magnitude import PruneMagnitude

    pruned = fxquant.compress(model, [PruneMagnitude(sparsity=0.5)], example_inputs=batches[0])
    sparse, dense = (
        fxquant.compile(one, "int8", calibration_data=batches, target=engine_name) for one in (pruned, model)
    )
    asked = sum(int(mask.sum()) for mask in pruned.masks.values())
    sizes = {label: _bytes(compiled) for label, compiled in (("dense", dense), ("sparse", sparse))}
    smaller = sizes["sparse"][1] / sizes["dense"][1]
    told = ", ".join(f"{label} {plain:,} → {packed:,} bytes" for label, (plain, packed) in sizes.items())
    return [
        Check(f"{name}: half pruned, zeros in the file / asked", "at least", 1.0, _zeros(sparse, pruned) / asked),
        Check(f"{name}: half pruned, compressed / dense compressed", "at most", 0.9, smaller, "", told),
    ]


def _bytes(compiled: CompiledModel) -> tuple[int, int]:
    """(of the file, of the file compressed)."""
    with tempfile.TemporaryDirectory() as folder:
        content = compiled.save(Path(folder) / "model.fxq.safetensors").read_bytes()
    return len(content), len(zlib.compress(content, 9))


def _zeros(compiled: CompiledModel, pruned: TrainableModel) -> int:
    """Pruned weights whose code is that of 0.0, in the saved file as it is loaded again. Symmetric weights: code 0."""
    import torch

    import fxquant

    with tempfile.TemporaryDirectory() as folder:
        state = fxquant.load(compiled.save(Path(folder) / "model.fxq.safetensors")).state_dict()
    found = 0
    for name, mask in pruned.masks.items():
        owner = name.rpartition(".")[0]
        parts = [f"{owner}.{part}_proj.weight" for part in "qkv"] if name.endswith("in_proj_weight") else [name]
        codes = torch.cat([state[part] for part in parts])
        found += int((codes[mask] == 0).sum())
    return found


def _factorizing(
    name: str,
    model: Any,
    batches: list[Any],
    inputs: tuple[Any, ...],
    engine_name: str,
    factorize: LowRank,
    *,
    rounds: int,
) -> list[Check]:
    import fxquant
    from fxquant.steps import steps_of

    steps = ("custom-modules", factorize)
    small = fxquant.compress(model, steps, example_inputs=batches[0])
    step = next(step for step in steps_of(small.history) if step.name == "low-rank")
    budget = factorize.budget or 0.0
    left = (step.after.macs or 0) / (step.before.macs or 1)
    bytes_left = step.after.size_bytes / step.before.size_bytes
    sqnr = fxquant.sqnr_db(_first(model(*inputs)), _first(small(*inputs)))
    whole, low = (fxquant.compile(one, "int8", calibration_data=batches, target=engine_name) for one in (model, small))
    return [
        Check(
            f"{name}: low rank, MACs",
            "at most",
            budget + 0.1,
            left,
            "",
            f"{bytes_left:.2f} of the bytes",
        ),
        Check(f"{name}: low rank, SQNR of the float outputs", "at least", 0.0, sqnr, "dB", "random weights"),
        _latency(f"{name}: low rank, float latency", model, small, inputs, rounds),
        _latency(f"{name}: low rank, int8 latency", whole, low, inputs, rounds),
    ]


def _first(output: Any) -> Any:
    from fxquant.structure import flatten

    return flatten(output)[0][0]


def _latency(what: str, whole: nn.Module, low: nn.Module, inputs: tuple[Any, ...], rounds: int) -> Check:
    import torch

    from fxquant.comparing.timing import interleaved, ratio

    with torch.no_grad():
        timings = interleaved({"whole": lambda: whole(*inputs), "low": lambda: low(*inputs)}, rounds=rounds)
    found = ratio(timings["low"], timings["whole"])
    medians = ", ".join(f"{side} {timing.median * 1e3:.1f} ms" for side, timing in timings.items())
    return Check(what, "at most", 1.0, found.median, "", f"{medians}; ratio {found}")


if __name__ == "__main__":
    main()
