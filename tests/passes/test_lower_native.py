"""lower-native: bit-equal with raw FX where that is sound, right where it is not, and checked where an engine errs."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxquant
from fxquant import qdq, torch_ao
from fxquant.errors import LoweringError, ParityError
from fxquant.numerics import sqnr_db
from fxquant.passes import _native_ops, _packing
from fxquant.passes._native_graph import NativeGraph
from fxquant.passes._parity import _compare, mismatches
from fxquant.passes.lower_native import LowerNative
from fxquant.program import Stage
from fxquant.targets import has_saturation_risk, isa
from support.asserts import untouched
from support.compiling import ENGINES, compile_model, compiled, quality_db, raw, run
from support.data import vectors
from support.models import TROUBLE
from support.models.case import Case
from support.small import AGREE, BETTER, SMALL, VECTOR

SOUND = [name for name in ENGINES if not (name == "onednn" and has_saturation_risk(name, isa()))]
SATURATES = "onednn" in ENGINES and has_saturation_risk("onednn", isa())
ONEDNN_ERRS = {"conv_transpose", "conv_transpose1d"}  # torch 2.13: where channels in ≠ out; x86 takes it with VNNI
QNNPACK_ROUNDS = {"avg_pool"}  # qnnpack's own kernel rounds as the canonical graph does, raw FX's the other way


def mapping(target):
    return torch_ao.raw_mapping(target)


@cache
def cached(name, target):
    """By torch's own mapping; a test must not change it."""
    return compiled(SMALL[name], mapping(target), target=target)


def assert_rows_are_complete(model):
    for row in model.ledger.layers:
        assert row.effective and row.reason and row.op, row


@pytest.mark.parametrize("target", SOUND)
@pytest.mark.parametrize("name", AGREE)
def test_it_is_bit_equal_with_raw_fx(name, target):
    case = AGREE[name]
    if name in ONEDNN_ERRS and target == "onednn":
        with pytest.raises(AssertionError, match="Per channel weight observer is not supported yet"):
            raw(case, target)
        return
    ours, theirs = cached(name, target), raw(case, target)
    rows = [row for row in ours.ledger.layers if row.code in ("FXQ504", "FXQ505")]
    inputs = case.inputs(7, 16)
    if name in ONEDNN_ERRS and quality_db(case, theirs, target) < 20:
        assert [row.code for row in rows] == ["FXQ505"]
        assert quality_db(case, ours, target) > 25
        return
    assert not rows, "an engine that is sound here agrees with the canonical graph"
    if target == "qnnpack" and name in QNNPACK_ROUNDS:
        torch.testing.assert_close(run(ours, target, *inputs), run(theirs, target, *inputs), rtol=0.02, atol=0.05)
        return
    assert torch.equal(run(ours, target, *inputs), run(theirs, target, *inputs))


@pytest.mark.parametrize("name", AGREE)
def test_on_an_engine_with_faults_it_is_as_good_as_the_canonical_graph(name):
    target = "onednn" if "onednn" in ENGINES else "x86"
    model, case = cached(name, target), AGREE[name]
    inputs = case.inputs(1000, 16)  # calibration data: what lies outside of its range may saturate
    expected = model.canonical(*inputs)[0]
    assert sqnr_db(expected, run(model, target, *inputs)) > 28
    assert_rows_are_complete(model)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", BETTER)
def test_what_raw_fx_cannot_do_is_right(name, target):
    model = compiled(BETTER[name], target=target)
    assert quality_db(BETTER[name], model, target) > 17
    assert_rows_are_complete(model)


def test_positive_control_raw_prelu_is_wrong():
    case = BETTER["prelu"]
    assert quality_db(case, raw(case, "x86"), "x86") < 8 < 20 < quality_db(case, compiled(case), "x86")


@pytest.mark.parametrize("name", ["conv_circular", "conv_same", "chunk"])
def test_positive_control_raw_fx_fails(name):
    with pytest.raises((RuntimeError, ValueError, AttributeError)):
        raw(BETTER[name], "x86")


def test_each_layer_says_which_kernel_runs_it():
    rows = compiled(AGREE["conv_relu"]).ledger.layers
    assert [(row.effective, row.reason) for row in rows] == [
        ("int8", "runs as quantized.conv2d_relu on x86"),
        ("int8", "runs in quantized.conv2d_relu on x86"),
    ]


@pytest.mark.parametrize("name", [name for name, case in TROUBLE.items() if case.is_traceable])
def test_every_row_says_what_it_got_and_why(name):
    assert_rows_are_complete(compiled(TROUBLE[name]))


def test_flatten_keeps_its_codes():
    model = compiled(BETTER["flatten"])
    assert [row.effective for row in model.ledger.layers] == ["int8", "int8", "int8"]
    assert [node.op for node in model.graph_module.graph.nodes].count("call_method") == 1  # the last dequantize


def test_an_op_without_a_kernel_says_so():
    row = compiled(AGREE["float_gelu_between"]).ledger.layers[1]
    assert (row.effective, row.code, row.reason) == ("float32", "FXQ208", "no engine has an int8 kernel for GELU")


def test_a_convolution_that_the_engine_cannot_pad_keeps_its_int8_weights():
    row = compiled(BETTER["conv_circular"]).ledger.layers[0]
    assert (row.effective, row.code) == ("int8 weights", "FXQ207")


# What is known to be wrong in torch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [name for name in ("x86", "fbgemm") if name in ENGINES])
def test_a_transposed_convolution_with_a_two_by_two_kernel_is_right_whatever_the_engine_does(target):
    case = TROUBLE["transpose_kernel_two"]
    ours, theirs = compiled(case, mapping(target), target=target), raw(case, target)
    assert quality_db(case, ours, target) > 25
    row = ours.ledger["up"]
    if quality_db(case, theirs, target) < 20:
        assert (row.effective, row.code) == ("float32", "FXQ505"), row
    else:
        assert row.effective == "int8", row


@pytest.mark.skipif("qnnpack" not in ENGINES, reason="needs qnnpack")
def test_a_transposed_3d_convolution_on_qnnpack_is_right_while_raw_fx_is_wrong():
    case = Case(lambda: nn.Sequential(nn.ConvTranspose3d(4, 4, 3)), vectors(4, 3, 3, 3))
    ours = compiled(case, mapping("qnnpack"), target="qnnpack")
    assert quality_db(case, raw(case, "qnnpack"), "qnnpack") < 5
    assert quality_db(case, ours, "qnnpack") > 25
    assert [row.code for row in ours.ledger.layers] == ["FXQ505"]


@pytest.mark.skipif(not SATURATES, reason="this CPU has VNNI: onednn does not saturate on it")
def test_saturating_sums_are_found_and_the_layer_stays_float():
    case = AGREE["linear_of_three_dimensions"]
    ours = compiled(case, mapping("onednn"), target="onednn")
    assert quality_db(case, raw(case, "onednn"), "onednn") < 20
    assert quality_db(case, ours, "onednn") > quality_db(case, raw(case, "onednn"), "onednn") + 8
    first = ours.ledger.layers[0]
    assert (first.effective, first.code) == ("float32", "FXQ505")
    assert "onednn computes it" in first.reason and "VNNI" in first.hint


@pytest.mark.skipif(not SATURATES, reason="this CPU has VNNI: nothing saturates on it")
def test_the_preset_keeps_7_bits_on_an_engine_that_would_saturate():
    model = compiled(AGREE["linear"], "int8", target="onednn")
    assert [row.effective for row in model.ledger.layers] == ["int8"]
    assert quality_db(AGREE["linear"], model, "onednn") > 30


@pytest.mark.skipif(not has_saturation_risk("x86", isa()), reason="this CPU has VNNI: nothing saturates on it")
def test_a_tanh_uses_all_8_bits_and_the_linear_after_it_is_right_all_the_same():
    """torch gives tanh a fixed range of 256 codes even where its mapping reduces all others to 7 bits."""
    case = TROUBLE["tied_weights"]
    ours = compiled(case, mapping("x86"))
    assert quality_db(case, raw(case, "x86"), "x86") < 15
    assert quality_db(case, ours, "x86") > 23
    assert ours.ledger["down"].code == "FXQ505"


# The parity check ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGREE)
def test_two_batches_agree_to_within_one_code_layer_by_layer(name):
    case, target = AGREE[name], "fbgemm" if name in ONEDNN_ERRS else "x86"
    model = cached(name, target)
    with torch_ao.engine(target), torch_ao.quiet():
        lowered = NativeGraph(model.canonical, target, {}).build()
        for seed in (1, 2):
            steps = _compare(model.canonical, lowered, case.inputs(seed, 16))
            assert steps and max(steps.values()) <= 1


def _off(op, codes):
    """The op, with this many codes added to its result."""

    def wrong(*args):
        right = op(*args)
        shifted = (right.int_repr().int() + codes).clamp(0, 255).to(torch.uint8)
        return torch._make_per_tensor_quantized_tensor(shifted, right.q_scale(), right.q_zero_point())

    wrong.__name__ = "wrong"
    return wrong


@pytest.mark.parametrize("codes", [2, -2, 40])
def test_a_layer_that_computes_wrongly_is_caught_and_stays_float(codes, monkeypatch):
    pack, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (pack, _off(op, codes), op_relu))
    case = AGREE["linear"]
    model = compiled(case)
    row = model.ledger.layers[0]
    assert (row.effective, row.code) == ("float32", "FXQ505")
    assert row.reason == f"x86 computes it {abs(codes)} codes off the canonical graph"
    assert quality_db(case, model, "x86") > 30


def test_one_code_is_rounding_and_no_fault(monkeypatch):
    pack, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (pack, _off(op, 1), op_relu))
    assert compiled(AGREE["linear"]).ledger.layers[0].effective == "int8"


def test_a_fused_relu_stays_float_with_its_layer(monkeypatch):
    pack, op, op_relu = _packing.PACKED[F.conv2d]
    monkeypatch.setitem(_packing.PACKED, F.conv2d, (pack, op, _off(op_relu, 5)))
    model = compiled(AGREE["conv_relu"])
    assert [(row.effective, row.code) for row in model.ledger.layers] == [("float32", "FXQ505")] * 2
    assert quality_db(AGREE["conv_relu"], model, "x86") > 25


def test_an_op_without_weights_is_checked_as_well(monkeypatch):
    op, op_relu = _native_ops.BINARY[torch.add]
    for key in [key for key, value in _native_ops.BINARY.items() if value == (op, op_relu)]:
        monkeypatch.setitem(_native_ops.BINARY, key, (_off(op, 3), op_relu))
    rows = compiled(AGREE["add"]).ledger.layers
    assert [row.code for row in rows] == ["", "", "FXQ505"]


def test_an_engine_that_shifts_a_zero_point_is_caught(monkeypatch):
    model = compiled(AGREE["linear"])
    lowered = NativeGraph(model.canonical, "x86", {}).build()
    [node] = [node for node in lowered.graph_module.graph.nodes if str(node.target).startswith("quantized.linear")]
    node.args = (*node.args[:3], node.args[3] + 4)
    lowered.graph_module.recompile()
    with torch_ao.engine("x86"), torch_ao.quiet():
        [found] = mismatches(model.canonical, lowered, AGREE["linear"].inputs(1, 8), "x86")
    assert found.steps == 4


def test_strict_makes_a_mismatch_an_error(monkeypatch):
    pack, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (pack, _off(op, 9), op_relu))
    model = AGREE["linear"].make()
    with untouched(model), pytest.raises(ParityError) as caught:
        compile_model(model, "int8", AGREE["linear"], strict=True)
    assert caught.value.code == "FXQ505" and caught.value.module == "0" and caught.value.pass_name == "lower-native"


def test_the_check_can_be_left_out(monkeypatch):
    pack, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (pack, _off(op, 9), op_relu))
    pipeline = fxquant.default_pipeline(lower_native={"check": False})
    assert compiled(AGREE["linear"], passes=pipeline).ledger.layers[0].effective == "int8"


def _refusing(*args):
    raise RuntimeError("no such weight\nand more lines")


def test_a_weight_that_the_engine_refuses_is_a_row(monkeypatch):
    _, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (_refusing, op, op_relu))
    model = compiled(AGREE["linear"])
    row = model.ledger.layers[0]
    assert (row.effective, row.code, row.reason) == ("float32", "FXQ504", "x86 refuses its weight: no such weight")
    assert quality_db(AGREE["linear"], model, "x86") > 30


def test_strict_makes_a_refusal_an_error(monkeypatch):
    _, op, op_relu = _packing.PACKED[F.linear]
    monkeypatch.setitem(_packing.PACKED, F.linear, (_refusing, op, op_relu))
    model = AGREE["linear"].make()
    with untouched(model), pytest.raises(LoweringError) as caught:
        compile_model(model, "int8", AGREE["linear"], strict=True)
    assert caught.value.code == "FXQ504" and caught.value.module == "0"


# Dynamic, weight-only, float16 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("bias", [True, False])
def test_dynamic_linear_is_torchs_linear_dynamic(target, bias):
    case = Case(lambda: nn.Sequential(nn.Linear(8, 5, bias=bias)), VECTOR)
    model, layer = compiled(case, "int8-dynamic", target=target), case.make()[0]
    state = model.state_dict()
    weight = torch._make_per_channel_quantized_tensor(
        state["0.weight"], state["0.weight_scale"].double(), state["0.weight_zero_point"], 0
    )
    x, is_reduced = case.inputs(3, 16)[0], has_saturation_risk(target, isa())
    with torch_ao.engine(target):
        packed = torch.ops.quantized.linear_prepack(weight, layer.bias)
        expected = torch.ops.quantized.linear_dynamic(x, packed, target in ("x86", "fbgemm") or is_reduced)
    if model.ledger.layers[0].code == "FXQ505":  # it saturates here
        assert target == "onednn"
        return
    assert torch.equal(run(model, target, x), expected)
    assert model.ledger.layers[0].reason == f"runs as quantized.linear_dynamic on {target}"


@pytest.mark.parametrize("target", ENGINES)
def test_weight_only_holds_int8_and_says_that_it_computes_in_float(target):
    case = AGREE["mean"]
    model = compiled(case, "int8-weight-only", target=target)
    rows = {row.op: row for row in model.ledger.layers}
    for op in ("Conv2d", "Linear"):
        assert (rows[op].effective, rows[op].code) == ("int8 weights", "")
        assert rows[op].reason == f"{target} has no kernel for {op} on int8 weights alone: the weight is widened ahead"
    assert rows["mean"].effective == "float32"
    held = [tensor.dtype for name, tensor in model.state_dict().items() if name.endswith(".weight")]
    assert held == [torch.int8, torch.int8]
    assert torch.equal(run(model, target, *case.inputs()), model.canonical(*case.inputs())[0])
    assert repr(model).endswith("0 of 3 sites int8, 2 int8 weights)")


@pytest.mark.parametrize("target", ENGINES)
def test_float16_uses_the_kernel_where_there_is_one(target):
    case = AGREE["linear"]
    model = compiled(case, "float16", target=target)
    [row] = model.ledger.layers
    assert (row.effective, row.code) == ("float16 weights", "")
    has_kernel = target in ("x86", "fbgemm")
    assert ("quantized.linear_dynamic_fp16" in row.reason) is has_kernel
    assert ("widened ahead" in row.reason) is not has_kernel
    assert model.state_dict()["0.weight"].dtype is torch.float16
    layer, x = case.make()[0], case.inputs()[0]
    expected = F.linear(x, layer.weight.half().float(), layer.bias)
    torch.testing.assert_close(run(model, target, x), expected, rtol=1e-5, atol=1e-5)
    assert not any(node.target == "to" for node in model.graph_module.graph.nodes)


# Structure ----------------------------------------------------------------------------------------------------------


def test_the_canonical_graph_is_kept_and_can_be_lowered_again():
    case = AGREE["conv_relu"]
    model = compiled(case)
    again = NativeGraph(model.canonical, "x86", {}).build()
    with torch_ao.engine("x86"), torch_ao.quiet():
        assert torch.equal(again.graph_module(*case.inputs())[0], run(model, "x86", *case.inputs()))
    assert any(node.target is qdq.quantize_per_tensor for node in model.canonical.graph.nodes)


def test_the_engines_graph_holds_packed_weights_only():
    model = compiled(AGREE["conv_relu"])
    assert not list(model.graph_module.parameters())
    assert LowerNative.accepts == frozenset({Stage.CONVERTED})


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_batch_size_runs(batch):
    model = compiled(AGREE["conv_relu"])
    assert run(model, "x86", *AGREE["conv_relu"].inputs(0, batch or 1)).shape[0] == (batch or 1)
    if batch == 0:
        assert run(model, "x86", torch.zeros(0, 4, 8, 8)).shape == (0, 4, 8, 8)


def test_packed_weights_run_under_another_engine_to_within_rounding():
    """Row 65: which engine is set when the model runs does not change what its layers compute."""
    case = AGREE["linear_of_three_dimensions"]
    for target in SOUND:
        model = compiled(case, mapping(target), target=target)
        expected = run(model, target, *case.inputs())
        for other in SOUND:
            torch.testing.assert_close(run(model, other, *case.inputs()), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("target", ENGINES)
def test_a_constant_of_a_kernel_never_takes_the_name_of_a_module(target):
    """The copy of a shared norm is called norm_2, and so was the bias that the first one's kernel holds."""
    model = Shared().eval()
    x = torch.tensor([[-1.0, 0.2, 2.0], [1.0, -2.0, 0.5], [0.3, 1.8, -0.7]])
    made = fxquant.compile(model, "int8", calibration_data=x, target=target)
    assert {row.effective for row in made.ledger.layers} == {"int8"}
    assert sqnr_db(model(x), made(x)) > 30


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_norm = nn.LayerNorm(3)

    def forward(self, x):
        return self.layer_norm(self.layer_norm(x))
