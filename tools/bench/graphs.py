"""What looking costs: snapshots and diffs of 10,000 nodes, DOT of 1,500, analyses. Seconds and MiB."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
import torch
from torch import fx

from fxquant.drawing.picture import draw
from fxquant.graphs.analysis import analyse
from fxquant.graphs.diffing import diff
from fxquant.graphs.snapping import snapshot
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

NODES, DRAWN = 10_000, 1_500


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100), help="The best of so many counts.")
@options.as_json
def main(rounds: int, as_json: bool) -> None:
    """Snapshot and diff of two graphs of 10,000 nodes: under 1 s and 200 MiB. DOT of 1,500 nodes: under 0.2 s."""
    before, after = _residual_chain(NODES), _residual_chain(NODES, odd=frozenset(range(250, NODES, 500)))
    memory = _peak_mib()
    seconds, found = _best(rounds, lambda: diff(snapshot(before), snapshot(after)))
    grown = _peak_mib() - memory
    traced = [_with_origins(snapshot(module)) for module in (before, after)]
    exact, same = _best(rounds, lambda: diff(*traced))
    dot, _ = _best(rounds, lambda: draw(snapshot(_residual_chain(DRAWN))).dot)
    known = snapshot(before)
    analysis, _ = _best(rounds, lambda: analyse(known))
    told = f"{found.counts['retyped']} retyped, {found.counts['rewired']} rewired"
    checks = [
        Check("two snapshots and their diff, foreign", "at most", 1.0, seconds, " s", told),
        Check("peak memory of these over before", "at most", 200.0, grown, " MiB", f"{NODES:,} nodes each"),
        Check("the diff alone, by origin", "at most", 1.0, exact, " s", f"{same.counts['retyped']} retyped"),
        Check("snapshot and DOT", "at most", 0.2, dot, " s", f"{DRAWN:,} nodes, no rendering"),
        Check("islands, critical path, dominators", "at most", 1.0, analysis, " s", f"{NODES:,} nodes"),
    ]
    show("graphs", checks, as_json=as_json)


def _residual_chain(nodes: int, odd: frozenset[int] = frozenset()) -> fx.GraphModule:
    """Ops in a chain, every third of which also reads one further back; those in `odd` are of another kind."""
    graph = fx.Graph()
    made = [graph.placeholder("x")]
    for index in range(nodes - 2):
        if index % 3 == 0:
            made.append(graph.call_function(torch.add, (made[-1], made[max(0, len(made) - 8)])))
        else:
            made.append(graph.call_function(torch.sigmoid if index in odd else torch.relu, (made[-1],)))
    graph.output(made[-1])
    return fx.GraphModule(torch.nn.Module(), graph)


def _with_origins(graph: GraphSnapshot) -> GraphSnapshot:
    return GraphSnapshot(tuple(replace(node, origins=(f"op {index}",)) for index, node in enumerate(graph)))


def _best(rounds: int, run: Callable[[], Any]) -> tuple[float, Any]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
