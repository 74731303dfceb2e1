"""What raw FX gets wrong in silence beside what fxquant makes of it; the yardstick is a twin that raw FX gets right."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    import torch

CASES = ("inplace_add", "shared_linear", "grouped_transpose_norm")


@click.command()
@options.engine
@options.tests
@options.as_json
def main(engine_name: str, tests: str | None, as_json: bool) -> None:
    """In-place, shared-module and grouped-ConvTranspose-BN: fxquant within a step of the twin's error, raw FX not."""
    from fxquant.tools.bench.zoo import load_zoo

    zoo = load_zoo(tests)
    checks = [check for name in CASES for check in _case(name, zoo[name], engine_name)]
    show(f"facts, {engine_name}", checks, as_json=as_json)


def _case(name: str, case: Any, engine_name: str) -> list[Check]:
    import torch

    from fxquant.tools.bench.sides import Job

    model, batches, inputs = case.make(), case.batches(8, 16), case.inputs(1000, 16)  # a calibrated batch: no clipping
    twin = import_module("support.models.twins").twin(name, model)
    with torch.no_grad():
        reference = model(*case.inputs(1000, 16))
    step = float(reference.max() - reference.min()) / 255
    ours, theirs = Job(model, batches, engine_name), Job(twin, batches, engine_name)
    yardstick = _error(reference, lambda: theirs.outputs(theirs.quantize("raw"), inputs))[0]
    limit = yardstick + step
    found = _error(reference, lambda: ours.outputs(ours.quantize("fxquant"), case.inputs(1000, 16)))
    raw = _error(reference, lambda: ours.outputs(ours.quantize("raw"), case.inputs(1000, 16)))
    told = f"output step {step:.4f}; the twin in raw FX errs by {yardstick:.4f}"
    return [
        Check(f"{name}: fxquant's largest error", "at most", limit, found[0], "", f"{told}. {found[1]}"),
        Check(f"{name}: raw FX's, which is wrong", "at least", limit, raw[0], "", f"{told}. {raw[1]}"),
    ]


def _error(reference: torch.Tensor, run: Callable[[], torch.Tensor]) -> tuple[float, str]:
    """The largest absolute error; infinite, with its text, where quantizing raises: that too is a result here."""
    try:
        return float((reference - run()).abs().max()), ""
    except (RuntimeError, AssertionError) as error:
        return math.inf, f"{type(error).__name__}: {str(error).splitlines()[0]}"


if __name__ == "__main__":
    main()
