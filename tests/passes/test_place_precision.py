"""Precision placement: what costs more on codes goes to float, and nothing gets slower than all in int8."""

from __future__ import annotations

import math
import operator
from dataclasses import replace

import pytest
import torch

import fxquant
from fxquant.engines.crossing_costs import Crossing, Line
from fxquant.graphs.placement import Op
from fxquant.keep_float import kept_because
from fxquant.numerics import sqnr_db
from fxquant.passes import place_precision
from fxquant.passes._placing_contest import PLACED, PLAIN, QUANTIZED
from fxquant.placed import placed_as
from fxquant.targets import isa
from support.compiling import compiled
from support.placing import (
    MICRO,
    NET,
    PLACING,
    TARGET,
    all_float,
    conversions,
    converted,
    lowered,
    placed,
    plant,
    run,
)
from support.small import SMALL

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
        return Op(op.name, math.inf if math.isinf(op.int8) else 1e-6, 1.05e-6)

    plant(monkeypatch, costs, {QUANTIZED: 2e-3, PLACED: 1.9e-3, PLAIN: 1e-3})
    monkeypatch.setattr(
        "fxquant.passes._placing_native.native_crossing", lambda target: Crossing(Line(0.0, 0.0), Line(0.0, 0.0))
    )
    made, ledger = run(converted())
    assert "everything float 1.00 ms" in ledger.notices[0].reason
    assert "9 ops that could run on codes are in float" in ledger.notices[0].reason
    assert not [node for node in made.graph.nodes if node.target is fxquant.qdq.quantize_per_tensor]


def test_the_whole_in_float_is_not_built_where_it_is_far_from_the_cut(monkeypatch):
    def costs(op):
        if math.isinf(op.int8) or op.name == "linear":
            return Op(op.name, 1e-3 if op.name == "linear" else math.inf, 1e-6)
        return Op(op.name, 1e-3, 1e-2)

    plant(monkeypatch, costs, {QUANTIZED: 2e-3, PLACED: 1e-3})
    made, ledger = run(converted())
    assert [node.name for node in made.graph.nodes if placed_as(node)] == ["linear"]
    assert ledger.notices[0].reason == (
        "1 op that could run on codes is in float, which is faster (everything int8 2.00 ms, placed 1.00 ms a call)"
    )


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
