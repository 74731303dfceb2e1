"""Precision placement: values stay, conversions are those of the problem, and nothing gets slower than all in int8."""

from __future__ import annotations

import math
import operator
import random
import time
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxquant
from fxquant.drawing.building import Wanted, view_of
from fxquant.drawing.dot import dot_text
from fxquant.engines import crossing_costs
from fxquant.engines.crossing_costs import Crossing, Line, crossing_of, fitted
from fxquant.graphs.placement import Op, place
from fxquant.graphs.regions import Region, regions
from fxquant.graphs.snapping import snapshot_of
from fxquant.keep_float import kept_because
from fxquant.ledger import Ledger
from fxquant.numerics import sqnr_db
from fxquant.passes import _placing_clock, _placing_native, _placing_race, place_precision
from fxquant.passes._native_graph import NativeGraph
from fxquant.passes._placeable import placeable
from fxquant.passes._placing_clock import TooSlow, clocked
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED
from fxquant.passes._placing_native import measured
from fxquant.passes._placing_race import raced, winner
from fxquant.passes._replaced import replaced
from fxquant.passes.lower_native import LowerNative, _decided_float
from fxquant.passes.place_precision import PlacePrecision
from fxquant.placed import place_in, placed_as
from fxquant.program import Program
from fxquant.targets import isa
from fxquant.torch_ao import engine
from support.compiling import ENGINES, compiled
from support.data import images
from support.models.case import Case
from support.small import SMALL

MICRO = 1e-6
UNPLACED = fxquant.default_pipeline().without("place-precision")
PLACING = UNPLACED.before("lower-native", PlacePrecision(enabled=True))
LOWERLESS = UNPLACED.without("lower-native")
TARGET = "onednn" if "onednn" in ENGINES else ENGINES[0]


class Net(nn.Module):
    """Layers with a skip connection, ops that no engine has on codes, and small ops between those."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.first(x)))
        x = F.relu(self.second(x) + x)
        x = F.gelu(x)
        x = x + x
        x = F.gelu(x)
        return self.head(x.mean((2, 3)))


NET = Case(Net, images(8, 3))


@cache
def converted(name: str = "") -> Program:
    """The canonical program of a case; nobody may change it."""
    return compiled(SMALL[name] if name else NET, target=TARGET, passes=LOWERLESS)._program


def found_of(program: Program):
    with engine(TARGET):
        lowered = NativeGraph(program.graph_module, TARGET, _decided_float(program)).build()
    return placeable(program.graph_module, lowered.native, lowered.fused)


def placed(program: Program, int8, floating: str = "float32"):
    found = found_of(program)
    names = [name for name in found.coded - set(int8) if not found.units[name].is_requantize]
    made = replaced(program.graph_module, found, int8, dict.fromkeys(names, (floating, "a test says so")))
    return replace(program, graph_module=made)


def lowered(program: Program):
    with engine(TARGET):
        return LowerNative().run(program, Ledger()).graph_module


def conversions(graph_module) -> int:
    nodes = graph_module.graph.nodes
    return sum(node.target in (torch.quantize_per_tensor, "dequantize") for node in nodes)


def problem_of(found):
    """Any costs: only the structure counts."""
    from fxquant.graphs.placement import Problem, Value

    ops = tuple(Op(name, 1.0 if unit.is_coded else math.inf, 1.0) for name, unit in found.units.items())
    return Problem(ops, tuple(Value(value.producer, value.readers, 1.0, 1.0) for value in found.values))


def plant(monkeypatch, costs=None, times=None):
    """Other costs in the place of each op's own, and times of the race by name."""
    if costs is not None:

        def planted(*arguments, **options):
            found = measured(*arguments, **options)
            ops = tuple(costs(op) for op in found.problem.ops)
            return replace(found, problem=replace(found.problem, ops=ops))

        monkeypatch.setattr(_placing_native, "measured", planted)
    if times is not None:

        def race(calls, *, seconds):
            for call in calls.values():
                call()
            return {name: times[name] for name in calls}

        monkeypatch.setattr(place_precision, "raced", race)


def run(program: Program, **options):
    ledger = Ledger()
    return PlacePrecision(**options).run(program, ledger), ledger


def all_float(op: Op) -> Op:
    return Op(op.name, math.inf if math.isinf(op.int8) else 1e-3, 1e-4)


# The rewrite -----------------------------------------------------------------------------------------------------------


def test_with_every_kernel_on_codes_the_graph_is_what_it_was():
    program = converted()
    made = placed(program, found_of(program).coded)
    assert snapshot_of(made.graph_module).nodes == snapshot_of(program.graph_module).nodes


@pytest.mark.parametrize("name", ["", *sorted(SMALL)])
def test_with_nothing_on_codes_it_is_the_graph_without_rounding(name):
    """The float model itself, but for its weights, which stay int8."""
    program = converted(name)
    if not found_of(program).coded:
        assert name in ("embedding", "lstm") or program.plan is not None
    made = placed(program, ())
    quantizes = [node for node in made.graph.nodes if node.target is fxquant.qdq.quantize_per_tensor]
    left = {node.name for node in quantizes}
    assert left.isdisjoint(value.source.name for value in found_of(program).values)
    case = SMALL[name] if name else NET
    with torch.no_grad():
        exact, before = case.make()(*case.inputs()), program.graph_module(*case.inputs())[0]
        after = made.graph_module(*case.inputs())[0]
    assert sqnr_db(exact, after) >= sqnr_db(exact, before) - 0.01


@pytest.mark.parametrize("seed", range(12))
def test_the_lowered_graph_converts_as_often_as_the_problem_says(seed):
    program = converted()
    found = found_of(program)
    draw = random.Random(seed)
    int8 = frozenset(name for name in sorted(found.coded) if draw.random() < 0.6)
    made = placed(program, int8)
    assert conversions(lowered(made)) == problem_of(found).crossings(int8)
    example = program.example_leaves
    with torch.no_grad():
        canonical, native = made.graph_module(*example)[0], lowered(made)(*example)[0]
    assert sqnr_db(canonical, native) > 25, "one step a kernel, as without placement"


def test_the_given_graph_is_left_alone():
    program = converted()
    before = snapshot_of(program.graph_module)
    placed(program, ())
    assert snapshot_of(program.graph_module) == before and not any(map(placed_as, program.graph.nodes))


def test_sizes_are_read_from_whatever_the_producer_gives():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, 4)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(x.reshape(x.size(0), -1))

    program = compiled(Case(Viewed, images(8, 3)), target=TARGET, passes=LOWERLESS)._program
    made = placed(program, ())
    assert not [node for node in made.graph.nodes if node.target is fxquant.qdq.quantize_per_tensor]
    with torch.no_grad():
        made.graph_module(*program.example_leaves)


# The pass -------------------------------------------------------------------------------------------------------------


def test_small_ops_between_float_islands_stop_paying_for_the_crossing(monkeypatch):
    """The doubling between two gelus is no slower on codes, and leaves them for its two conversions."""
    program = converted()
    sums = [node for node in program.graph.nodes if node.target in (operator.add, torch.add)]
    [small] = [node.name for node in sums if len(node.all_input_nodes) == 1]
    monkeypatch.setattr(
        "fxquant.passes._placing_native.native_crossing",
        lambda target: Crossing(Line(50 * MICRO, 0.0), Line(50 * MICRO, 0.0)),
    )

    def costs(op):
        if math.isinf(op.int8):
            return Op(op.name, math.inf, 10 * MICRO)
        return Op(op.name, 10 * MICRO, 15 * MICRO if op.name == small else 1e-3)

    plant(monkeypatch, costs, {QUANTIZED: 2e-3, PLACED: 1e-3, PLAIN: 3e-3})
    made, ledger = run(program)
    assert [node.name for node in made.graph.nodes if placed_as(node)] == [small]
    assert ledger[small].effective == "float32" and ledger[small].code == "FXQ518"
    assert ledger[small].reason == "placed in float32: 15 µs; on codes 10 µs and 100 µs for conversions"
    assert conversions(lowered(made)) == conversions(lowered(program)) - 2


def test_a_layer_in_float_keeps_its_int8_weights_and_the_file_its_size(monkeypatch):
    plant(monkeypatch, all_float, {QUANTIZED: 2e-3, PLACED: 1e-3, PLAIN: 1e-3})
    whole, model = compiled(NET, target=TARGET), compiled(NET, target=TARGET, passes=PLACING)
    assert [model.ledger[site].effective for site in ("first", "second", "head")] == ["int8 weights"] * 3
    assert "3 int8 weights" in repr(model)
    assert model.size_bytes() == whole.size_bytes()
    told = {row.site: row.code for row in model.ledger.layers}
    assert [site for site, code in told.items() if code != "FXQ518"] == ["gelu", "gelu_1"]


def test_what_is_no_longer_rounded_is_more_accurate(monkeypatch):
    plant(monkeypatch, all_float, {QUANTIZED: 2e-3, PLACED: 1e-3, PLAIN: 1e-3})
    x = NET.inputs(5, 16)
    with torch.no_grad():
        exact = NET.make()(*x)
        before, after = compiled(NET, target=TARGET)(*x), compiled(NET, target=TARGET, passes=PLACING)(*x)
    assert sqnr_db(exact, after) > sqnr_db(exact, before)


def test_a_saved_model_is_placed_as_it_was(monkeypatch, tmp_path):
    plant(monkeypatch, all_float, {QUANTIZED: 2e-3, PLACED: 1e-3, PLAIN: 1e-3})
    model = compiled(NET, target=TARGET, passes=PLACING)
    loaded = fxquant.load(model.save(tmp_path / "net.fxq.safetensors"))
    placed_nodes = {node.name: kept_because(node) for node in model.canonical.graph.nodes if placed_as(node)}
    assert placed_nodes and placed_nodes == {
        node.name: kept_because(node) for node in loaded.canonical.graph.nodes if placed_as(node)
    }
    x = NET.inputs(3, 4)
    assert torch.equal(model(*x), loaded(*x))
    assert [row.reason for row in loaded.ledger.layers] == [row.reason for row in model.ledger.layers]


@pytest.mark.parametrize(
    "times", [{QUANTIZED: 1e-3, PLACED: 2e-3, PLAIN: 2e-3}, {QUANTIZED: 1e-3, PLACED: 1e-3, PLAIN: 0.98e-3}]
)
def test_it_is_never_slower_than_everything_in_int8_and_ties_go_to_that(monkeypatch, times):
    plant(monkeypatch, all_float, times)
    program = converted()
    made, ledger = run(program)
    assert made is program
    [notice] = ledger.notices
    assert notice.code == "FXQ518" and "everything stays int8" in notice.reason
    assert f"everything int8 {times[QUANTIZED] * 1e3:.2f} ms, placed {times[PLACED] * 1e3:.2f} ms" in notice.reason


def test_the_whole_in_float_wins_where_it_is_faster_than_the_cut(monkeypatch):
    def costs(op):
        """The head is for float, the others are for codes."""
        if op.name == "linear":
            return Op(op.name, 1e-3, 1e-6)
        return Op(op.name, math.inf if math.isinf(op.int8) else 1e-6, 2e-6)

    plant(monkeypatch, costs, {QUANTIZED: 2e-3, PLACED: 1.9e-3, PLAIN: 1e-3})
    monkeypatch.setattr(
        "fxquant.passes._placing_native.native_crossing", lambda target: Crossing(Line(0.0, 0.0), Line(0.0, 0.0))
    )
    made, ledger = run(converted())
    assert "everything float 1.00 ms" in ledger.notices[0].reason
    assert "9 ops that could run on codes are in float" in ledger.notices[0].reason
    assert not [node for node in made.graph.nodes if node.target is fxquant.qdq.quantize_per_tensor]


def test_where_the_cut_promises_no_gain_nothing_is_raced_or_said(monkeypatch):
    plant(monkeypatch, lambda op: Op(op.name, 0.0 if math.isfinite(op.int8) else math.inf, 1e-3))
    monkeypatch.setattr(place_precision, "raced", None)
    made, ledger = run(converted())
    assert made is converted() and not len(ledger)


@pytest.mark.parametrize("options", [{"enabled": False}, {"strict": True}])
def test_strict_and_disabled_keep_everything_as_it_was_asked(monkeypatch, options):
    monkeypatch.setattr(place_precision, "_contest", None)
    made, ledger = run(converted(), **options)
    assert made is converted() and not len(ledger)


def test_without_an_example_nothing_is_measured_and_it_says_so():
    program = replace(converted(), example_leaves=None)
    made, ledger = run(program)
    assert made is program
    [notice] = ledger.notices
    assert notice.code == "FXQ518" and "there are no example inputs" in notice.reason and notice.hint


def test_a_graph_without_static_activations_is_left_alone():
    model = compiled(SMALL["linear"], "int8-dynamic", target=TARGET, passes=PLACING)
    assert "FXQ518" not in [row.code for row in model.ledger]


def test_a_chain_does_not_fall_because_its_first_link_is_faster_in_float(monkeypatch):
    plant(monkeypatch, all_float, {QUANTIZED: 2e-3, PLACED: 1e-3, PLAIN: 1e-3})
    model = compiled(NET, ("int8", "int8-dynamic", "float"), target=TARGET, passes=PLACING)
    assert model.ledger["first"].code == model.ledger["head"].code == "FXQ518"
    assert placed_as(next(node for node in model.canonical.graph.nodes if node.name == "conv2d"))


# bfloat16 -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not isa().bf16, reason="this CPU has no bfloat16: the layers compute in float32")
def test_layers_are_placed_in_bfloat16_where_that_is_the_best(monkeypatch):
    def costs(op):
        narrow = 1e-5 if math.isfinite(op.bfloat16) else math.inf
        return Op(op.name, op.int8 if math.isinf(op.int8) else 1e-3, 1e-4, narrow)

    plant(monkeypatch, costs, {QUANTIZED: 2e-3, PLACED: 1e-3, PLAIN: 1e-3})
    model = compiled(NET, target=TARGET, passes=PLACING)
    kernels = [getattr(node.target, "__name__", "") for node in model._program.graph.nodes]
    assert [name for name in kernels if name.endswith("_bf16")] == ["conv2d_bf16", "conv2d_bf16", "linear_bf16"]
    assert model.ledger["first"].reason.startswith("placed in bfloat16: 10 µs; on codes 1.00 ms")
    x = NET.inputs(5, 16)
    with torch.no_grad():
        exact = NET.make()(*x)
        assert sqnr_db(exact, model(*x)) > sqnr_db(exact, compiled(NET, target=TARGET)(*x))


def test_bfloat16_layers_run_in_float32_where_the_cpu_has_none(monkeypatch):
    made = placed(converted(), (), "bfloat16")
    monkeypatch.setattr("fxquant.passes._native_formats.isa", lambda: replace(isa(), bf16=False))
    native = lowered(made)
    with torch.no_grad():
        example = made.example_leaves
        torch.testing.assert_close(native(*example), made.graph_module(*example), rtol=1e-4, atol=1e-5)


# Measuring ------------------------------------------------------------------------------------------------------------


def test_measured_times_are_of_the_kernels_and_leave_none_out():
    program = converted()
    with engine(TARGET), torch.no_grad():
        costs = measured(program.graph_module, TARGET, program.example_leaves, _decided_float(program), seconds=0.1)
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
    started = time.perf_counter()
    run(converted(), seconds=0.2)
    assert time.perf_counter() - started < 2.0, "building three small graphs, and measuring for 0.2 s"


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
    [clock] = clocked((graph,), (torch.ones(3),), seconds=0.01)
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


# The picture ----------------------------------------------------------------------------------------------------------


def drawn(snapshot) -> tuple[list[tuple[str, str]], str]:
    """Arrows that are drawn as the cut, by the first lines of their boxes, and the whole picture as DOT."""
    view = view_of(snapshot, Wanted())
    named = {box.id: " ".join(box.lines[:2]) for box in view.boxes}
    return [(named[one.source], named[one.target]) for one in view.arrows if one.look == "cut"], dot_text(view)


@pytest.mark.parametrize("stage", ["converted", "lowered"])
def test_the_picture_shows_the_cut_and_what_was_placed(stage):
    program = placed(converted(), found_of(converted()).coded - {"add_1", "mean", "linear"})
    graph = program.graph_module if stage == "converted" else lowered(program)
    arrows, dot = drawn(snapshot_of(graph))
    assert [target for _, target in arrows][1:] == ["GELU gelu"] and arrows[0][0] == "x"
    assert len(arrows) == conversions(lowered(program)) == 2
    assert dot.count("placed in float32") == 3 and "dashed arrow: the cut between int8 and float" in dot
    assert dot.count('style="dashed"') == 2


def test_a_cut_through_folded_modules_is_drawn_between_them():
    program = placed(converted(), found_of(converted()).coded - {"linear"})
    view = view_of(snapshot_of(lowered(program)), Wanted(depth=1))
    assert [one.look for one in view.arrows].count("cut") >= 2


def test_where_nothing_was_placed_the_picture_has_no_cut():
    for graph in (converted().graph_module, lowered(converted())):
        arrows, dot = drawn(snapshot_of(graph))
        assert not arrows and "cut" not in dot and "placed" not in dot


def test_what_was_placed_is_no_op_on_codes_in_any_analysis():
    program = placed(converted(), found_of(converted()).coded - {"relu_1", "linear"})
    found = regions(snapshot_of(program.graph_module))
    assert [found[name] for name in ("add", "relu_1", "linear")] == [Region.FLOAT, Region.FLOAT, Region.WEIGHTS]
    assert found["conv2d_1"] is Region.QUANTIZED
