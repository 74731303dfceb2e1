"""What placement measures: kernels, conversions, whole graphs, and for how long."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from fxquant.engines import crossing_costs
from fxquant.engines.crossing_costs import Crossing, Line, crossing_of, fitted
from fxquant.graphs.placement import place
from fxquant.keep_float import kept_because
from fxquant.passes import _placing_clock, _placing_race
from fxquant.passes._placing_clock import TooSlow, clocked
from fxquant.passes._placing_native import measured
from fxquant.passes._placing_race import raced, winner
from fxquant.passes.lower_native import decided_float
from fxquant.placed import place_in, placed_as
from fxquant.torch_ao import engine
from support.placing import (
    TARGET,
    converted,
    lowered,
    run,
)
from support.small import SMALL


def test_measured_times_are_of_the_kernels_and_leave_none_out():
    program = converted()
    with engine(TARGET), torch.no_grad():
        costs = measured(program.graph_module, TARGET, program.example_leaves, decided_float(program), seconds=2.0)
    for op in costs.problem.ops:
        unit = costs.found.units[op.name]
        is_computing = unit.nodes[0].op in ("call_function", "call_method", "call_module")
        if unit.is_coded:
            assert 0 < op.int8 < 0.5, op
        if is_computing and unit.is_coded:
            assert 0 < op.float32 < 0.5, op
    assert place(costs.problem).seconds <= costs.problem.seconds(costs.found.coded)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_kind_of_layer_is_measured_and_placed(name):
    program = converted(name)
    made, ledger = run(program, seconds=0.02)
    assert [row.code for row in ledger if row.code not in ("", "FXQ518")] == []
    example = program.example_leaves
    with torch.no_grad():
        lowered(made)(*example)


def test_it_takes_no_longer_than_it_may():
    program = converted()
    started = time.process_time()  # of this process alone, whatever else the machine does
    run(program, seconds=0.2)
    assert time.process_time() - started < 2.0, "building small graphs, and measuring for 0.2 s"


def test_a_call_that_is_too_slow_to_be_measured_is_said(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(_placing_clock, "perf_counter", lambda: float(next(clock)))
    made, ledger = run(converted())
    assert made is converted()
    [notice] = ledger.notices
    assert notice.reason.startswith("nothing was measured: one call takes ") and "more than 2 s" in notice.reason


def test_the_least_time_counts_and_a_slow_call_stops_early():
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.05)
            return (x + 1,)

    graph = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    graph.graph.output_node().args = ((graph.graph.output_node().args[0],),)
    graph.recompile()
    [clock] = clocked((graph,), (torch.ones(3),), seconds=5.0)
    assert [size for node, size in clock.sizes.items() if node.op == "call_module"] == [3]
    tracer = torch.fx.Tracer()
    tracer.is_leaf_module = lambda module, name: True
    slow = torch.fx.GraphModule(root := nn.Sequential(Slow()), tracer.trace(root))
    with pytest.raises(TooSlow):
        clocked((slow,), (torch.ones(3),), seconds=0.01)


def test_a_race_gives_every_call_the_same_rounds():
    counts = dict.fromkeys("abc", 0)

    def counted(name):
        counts[name] += 1

    times = raced({name: lambda name=name: counted(name) for name in counts}, seconds=0.0)
    assert counts == dict.fromkeys("abc", 3) and all(0 <= seconds < 0.1 for seconds in times.values())
    raced({name: lambda name=name: counted(name) for name in counts}, seconds=5.0)
    assert counts == dict.fromkeys("abc", 4 + _placing_race._MOST_ROUNDS)


def test_a_gain_must_be_more_than_timing_can_tell():
    assert winner({"first": 1.0, "other": 0.98}, "first") == "first"
    assert winner({"first": 1.0, "other": 0.9}, "first") == "other"
    assert winner({"first": 30e-6, "other": 15e-6}, "first") == "first"


def test_a_line_is_fitted_to_the_times_by_size():
    line = fitted([(size, 3e-6 + 2e-9 * size) for size in crossing_costs.SIZES])
    assert line.fixed == pytest.approx(3e-6) and line.per_element == pytest.approx(2e-9)
    assert fitted([(10, 2e-6), (20, 1e-6)]).per_element == 0.0
    assert fitted([(10, 0.0)]) == Line(0.0, 0.0)
    assert fitted([(10, 1e-6), (1000, 99e-6)]).fixed >= 0.0


def test_conversions_are_measured_once_for_each_engine_and_number_of_threads(monkeypatch):
    monkeypatch.setattr(crossing_costs, "_KNOWN", {})
    asked = []

    def measure():
        asked.append(torch.get_num_threads())
        return Crossing(Line(1.0, 0.0), Line(1.0, 0.0))

    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            crossing_of("x86", measure)
    finally:
        torch.set_num_threads(before)
    crossing_of("qnnpack", measure)
    assert asked == [1, 2, before]


def test_larger_values_take_longer_to_convert():
    found = crossing_costs.native_crossing(TARGET)
    assert found.quantize.seconds(1 << 22) > found.quantize.seconds(1) > 0
    assert found.dequantize.seconds(1 << 22) > found.dequantize.seconds(1) > 0


def test_a_mark_tells_the_format():
    graph = torch.fx.symbolic_trace(nn.ReLU()).graph
    node = next(iter(graph.nodes))
    assert placed_as(node) == ""
    place_in(node, "bfloat16", "it is faster")
    assert placed_as(node) == "bfloat16" and kept_because(node) == "placed in bfloat16: it is faster"
