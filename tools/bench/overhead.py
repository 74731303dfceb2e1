"""What a call of a CompiledModel costs beside the graph that it runs: arguments, checks, gradients off, the output."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    from fxquant import CompiledModel

MOST_MICROSECONDS = 30.0
TARGETS = "native,onnxruntime,openvino"


@click.command()
@click.option("--targets", "named", default=TARGETS, show_default=True, help="Names of targets, with commas.")
@click.option("--rounds", default=400, show_default=True, type=click.IntRange(min=1), help="Of ten calls each.")
@options.as_json
def main(named: str, rounds: int, as_json: bool) -> None:
    """A call of a tiny model at most 30 µs longer than its graph alone. Targets that are not here are left out."""
    from fxquant import targets
    from fxquant.tools.bench.zoo import pick

    known = {name: name for name in ("native", *targets.TARGETS)}
    here = [name for name in pick(known, named, "target") if name == "native" or targets.presence(name).is_here]
    show("overhead of a call", [_check(name, rounds) for name in here], as_json=as_json)


def _check(name: str, rounds: int) -> Check:
    compiled, whole, graph = _measured("auto" if name == "native" else name, rounds)
    detail = f"{whole:.1f} µs a call, {graph:.1f} of them the graph on {compiled.target}"
    return Check(f"{name}: overhead of a call", "at most", MOST_MICROSECONDS, whole - graph, " µs", detail)


def _measured(target: str, rounds: int) -> tuple[CompiledModel, float, float]:
    """The model, and the least microseconds of its call and of its graph's: a busy machine only ever adds to them."""
    import torch
    from torch import nn

    import fxquant

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(16, 4)
    compiled = fxquant.compile(model, "int8", calibration_data=x, example_inputs=(x,), target=target, race_seconds=0)
    forward = compiled.graph_module.forward
    with torch.no_grad():
        graph = _least([lambda: compiled(x), lambda: forward(x)], rounds)
    return compiled, graph[0], graph[1]


def _least(calls: list[Callable[[], object]], rounds: int, count: int = 10) -> list[float]:
    """Microseconds a call, the least of the rounds; the calls take turns."""
    found = [float("inf")] * len(calls)
    for _ in range(rounds):
        for index, call in enumerate(calls):
            started = perf_counter()
            for _ in range(count):
                call()
            found[index] = min(found[index], (perf_counter() - started) / count * 1e6)
    return found


if __name__ == "__main__":
    main()
