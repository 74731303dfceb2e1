"""Placement for engines outside torch: by their own times of nodes, whatever they fuse, and held to what they run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fxquant import qdq
from fxquant.engines.exportable import exportable
from fxquant.engines.onnxruntime import build as build_onnxruntime
from fxquant.engines.onnxruntime_costs import least_times
from fxquant.engines.onnxruntime_costs import node_times as onnxruntime_times
from fxquant.graphs.placement import place
from fxquant.numerics import sqnr_db
from fxquant.passes import _placing_engines
from fxquant.passes._placing_clock import TooSlow, sizes_of
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED
from fxquant.passes._placing_costs import (
    own_pairs,
    problem_with_conversions,
    problem_with_own_pairs,
    ran_on_codes,
    units,
)
from fxquant.passes._placing_engines import contest, in_float
from fxquant.placed import placed_as
from support.engines import choosy, failing, faithful, install
from support.placing import MICRO, NET, converted, plant, run


def aimed(target):
    return replace(converted(), target=target)


def told(patch, times):
    """`times` stand for an engine's own of a graph; by default it tells none."""
    patch.setattr(_placing_engines, "_own", lambda target, what, name: times)


@pytest.fixture
def fake(monkeypatch):
    """An engine that runs the graph as it is, and tells no times."""
    install(monkeypatch, faithful())
    told(monkeypatch, None)
    return monkeypatch


def test_an_engine_that_tells_no_times_has_the_whole_in_float_to_choose(fake):
    plant(fake, times={QUANTIZED: 2e-3, PLAIN: 1e-3})
    made, ledger = run(aimed("openvino"))
    assert not [node for node in made.graph.nodes if node.target is qdq.quantize_per_tensor]
    assert ledger["first"].effective == "int8 weights"
    assert ledger["first"].reason == "placed in float32: 1.00 ms for the whole model; 2.00 ms on codes"
    assert ledger.notices[0].reason.endswith("(everything int8 2.00 ms, everything float 1.00 ms a call)")


def test_what_the_engine_computes_floats_in_is_what_the_row_says(fake):
    def build(*arguments, **options):
        engine = faithful()(*arguments, **options)
        engine.float_type = "bfloat16"
        return engine

    install(fake, build)
    plant(fake, times={QUANTIZED: 2e-3, PLAIN: 1e-3})
    made, ledger = run(aimed("openvino"))
    assert {placed_as(node) for node in made.graph.nodes} == {"", "bfloat16"}
    assert ledger["add"].effective == "bfloat16"


def test_it_keeps_everything_in_int8_where_that_is_as_fast(fake):
    plant(fake, times={QUANTIZED: 1e-3, PLAIN: 1e-3})
    program = aimed("openvino")
    made, ledger = run(program)
    assert made is program and "everything stays int8" in ledger.notices[0].reason


def test_the_cut_is_raced_where_its_times_promise_a_gain(fake):
    """The last layer is slow on codes and the others are fast."""

    def node_times(graph, leaves, *, threads, repeats):
        is_coded = any(node.target is qdq.quantize_per_tensor for node in graph.graph.nodes)
        return {
            node.name: (900 if node.name == "linear" else 5) * MICRO if is_coded else 50 * MICRO
            for node in graph.graph.nodes
            if node.op.startswith("call") and "quantize" not in node.name
        }

    told(fake, node_times)
    plant(fake, times={QUANTIZED: 2e-3, PLAIN: 3e-3, PLACED: 1e-3})
    made, ledger = run(aimed("openvino"))
    assert [node.name for node in made.graph.nodes if placed_as(node)] == ["linear"]
    assert ledger["head"].reason == "placed in float32: 50 µs; on codes 900 µs"


def test_where_its_times_promise_no_gain_no_graph_is_built(fake):
    """Two runs with a clock in each kernel, and that is all."""
    asked = []

    def node_times(graph, leaves, *, threads, repeats):
        asked.append(graph)
        return times_of(graph, 5 * MICRO if len(asked) == 1 else 50 * MICRO)

    told(fake, node_times)
    install(fake, failing(AssertionError("nothing is built")))
    program = aimed("openvino")
    made, ledger = run(program)
    assert made is program and not len(ledger) and len(asked) == 2


def test_an_engine_whose_kernels_are_slow_is_not_measured_further(fake):
    told(fake, lambda graph, leaves, *, threads, repeats: times_of(graph, 1.0))
    program = aimed("openvino")
    made, ledger = run(program)
    assert made is program and ledger.notices[0].reason.startswith("nothing was measured: one call takes ")


def test_an_engine_that_refuses_the_graph_is_left_to_its_lowering(fake):
    install(fake, failing(RuntimeError("no")))
    program = aimed("openvino")
    made, ledger = run(program)
    assert made is program and not len(ledger)


def test_a_candidate_that_the_engine_refuses_is_left_out(fake):
    """It takes the graph with its pairs, and none without."""

    def build(canonical, leaves, *, threads):
        has_pairs = any(node.target is qdq.quantize_per_tensor for node in canonical.graph.nodes)
        return (faithful() if has_pairs else failing(RuntimeError("no")))(canonical, leaves, threads=threads)

    install(fake, build)
    program = aimed("openvino")
    assert list(contest(program, program.example_leaves, seconds=1.0).calls) == [QUANTIZED]
    made, ledger = run(program)
    assert made is program and not len(ledger)


def test_ops_that_stay_in_torch_are_in_the_race_too(fake):
    install(fake, choosy("mean"))
    program = aimed("openvino")
    found = contest(program, program.example_leaves, seconds=1.0)
    assert list(found.calls) == list(found.graphs) == [QUANTIZED, PLAIN]
    for call in found.calls.values():
        assert call()[0].shape == (16, 4)


def test_an_engine_that_is_too_slow_is_not_measured(fake):
    program = aimed("openvino")
    with pytest.raises(TooSlow):
        contest(program, program.example_leaves, seconds=1e-7)


# Problems -------------------------------------------------------------------------------------------------------------


def times_of(graph, seconds=10 * MICRO):
    return {node.name: seconds for node in graph.graph.nodes if node.op.startswith("call")}


def test_a_clamp_is_part_of_the_layer_before_it():
    found = units(converted().graph_module)
    assert found.units["relu_2"].nodes[0].name == "conv2d" and found.units["relu_2"].has_layer
    assert "conv2d" not in found.units and not found.units["gelu"].has_layer


def test_an_engine_that_gives_what_is_wanted_pays_for_its_quantizes_alone():
    graph = converted().graph_module
    found = own_pairs(units(graph))
    problem = problem_with_own_pairs(found, times_of(graph), times_of(graph))
    assert all(value.dequantize == 0.0 for value in problem.values)
    assert {value.producer for value in problem.values if value.quantize > 0} == {
        f"{value.source.name} pair" for value in found.values if value.has_pair
    }
    assert place(problem).int8 == frozenset(), "all times are alike, and the quantizes are saved"


def test_an_engine_that_ends_in_codes_pays_for_both_ways():
    program = converted()
    graph = program.graph_module
    sizes = sizes_of(graph, program.example_leaves)
    problem = problem_with_conversions(units(graph), times_of(graph), times_of(graph), sizes)
    assert all(value.quantize > 0 and value.dequantize > 0 for value in problem.values)


def test_an_op_whose_inputs_were_dequantized_did_not_run_on_codes():
    found = units(converted().graph_module)
    [read] = {read.name for value in found.values for read, _, unit in value.reads if unit == "gelu"}
    [layers] = {read.name for value in found.values for read, _, unit in value.reads if unit == "linear"}
    after = ran_on_codes(found, {read: MICRO, layers: MICRO})
    assert found.units["gelu"].is_coded and not after.units["gelu"].is_coded
    assert after.units["linear"].is_coded, "its weight is int8"
    assert math.isinf({op.name: op for op in problem_with_own_pairs(after, {}, {}).ops}["gelu"].int8)


# Engines that are here ------------------------------------------------------------------------------------------------


def test_placed_layers_have_float_weights_in_what_engines_get():
    program = converted()
    made = in_float(program.graph_module, units(program.graph_module), "float32", "a test says so")
    prepared = exportable(made)
    assert not [node.name for node in prepared.graph.nodes if "dequantize" in node.name]
    with torch.no_grad():
        expected, found = made(*program.example_leaves)[0], prepared(*program.example_leaves)[0]
    torch.testing.assert_close(found, expected)


def test_onnxruntime_tells_the_times_of_its_kernels_by_canonical_node():
    program = converted()
    times = onnxruntime_times(program.graph_module, program.example_leaves, threads=1, repeats=2)
    names = {node.name for node in program.graph_module.graph.nodes}
    assert set(times) <= names and {"conv2d", "conv2d_1", "add", "linear", "gelu"} <= set(times)
    assert all(0 <= seconds < 0.5 for seconds in times.values())
    assert "quantize_per_tensor_1" not in times, "the first layer ends in codes"


def test_a_kernel_has_the_longest_name_that_it_begins_with_and_the_first_call_does_not_count():
    def event(name, micros, cat="Node"):
        return {"cat": cat, "name": name, "dur": micros}

    events = [
        event("node_conv2d_1_token_5_kernel_time", 900),
        event("node_conv2d_1_token_5_kernel_time", 30),
        event("node_conv2d_1_token_5_kernel_time", 20),
        event("node_conv2d_kernel_time", 5),
        event("node_add/duplicated_kernel_time", 7),
        event("Transpose_kernel_time", 70),
        event("model_run", 1000, "Session"),
    ]
    names = {"conv2d": "first", "conv2d_1": "second", "add": "add"}
    assert least_times(events, names, calls=3) == pytest.approx(
        {"second": 20 * MICRO, "first": 5 * MICRO, "add": 7 * MICRO}
    )


def test_onnxruntime_runs_what_was_placed_for_it():
    program = aimed("onnxruntime")
    made, ledger = run(program, seconds=0.2)
    assert [row.code for row in ledger.notices] == ["FXQ518"]
    example = program.example_leaves
    out = build_onnxruntime(made.graph_module, example, threads=1)(*example)[0]
    with torch.no_grad():
        exact, before = NET.make()(*example), program.graph_module(*example)[0]
    assert sqnr_db(exact, out) >= sqnr_db(exact, before) - 1.0
