"""Laws of numbers on drawn models: legal codes (I8, I9), the derived bound (I10), all-float (I11), parity (I12), I13."""

from __future__ import annotations

import torch
from hypothesis import event, given
from hypothesis import strategies as st

import fxquant
from fxquant import qdq, torch_ao
from fxquant.passes._native_graph import NativeGraph
from fxquant.passes._parity import mismatches
from fxquant.testing import ToleranceError, assert_within_tolerance, error_bound, inputs
from support.asserts import assert_same
from support.drawn_models import compiled, drawn, engines, policies, static
from support.scale import examples

with torch_ao.quiet():
    from torch.ao.quantization import QConfigMapping

# Layers whose static form holds weights as codes; without writes, so that every model has a bound everywhere.
LAYERED = ("linear", "conv1d", "conv2d", "relu", "add", "cat", "max_pool", "flatten", "reshape", "half", "again")


@examples(2)
@given(spec=drawn(), asked=policies, target=engines, data=st.data())
def test_i10_the_error_is_within_the_derived_bound(spec, asked, target, data):
    made = compiled(spec, asked, target)
    call = data.draw(inputs(made), label="inputs")
    try:
        assert_within_tolerance(made, spec.build(), (call.args, call.kwargs))
    except ToleranceError as error:
        if error.check != "bound" or "has no derived bound" not in str(error):
            raise
        event("an output without a bound")  # nothing is promised there


@examples(1)
@given(spec=drawn(), target=engines)
def test_i11_a_mapping_that_asks_nothing_gives_the_float_model(spec, target):
    model = spec.build()
    made = fxquant.compile(model, QConfigMapping(), calibration_data=spec.batches(), target=target)
    has_batchnorm = any(op.kind == "batchnorm" for op in spec.ops)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if has_batchnorm else {}  # folding rounds, and later layers amplify it
    for seed in range(2):
        args = spec.inputs(seed, 3)
        assert_same(made(*args), float_output(model, args), **tolerance)


@examples(1)
@given(spec=drawn(), asked=policies, target=engines, seed=st.integers(0, 1000))
def test_i12_each_lowered_op_is_within_one_code_of_the_canonical_one(spec, asked, target, seed):
    made = compiled(spec, asked, target)
    refused = {name for finding in made.program.findings for name in finding.nodes}
    nodes = {node.name: node for node in made.canonical.graph.nodes}
    with torch_ao.engine(target), torch_ao.quiet():
        lowered = NativeGraph(made.canonical, target, {nodes[name]: "found before" for name in refused}).build()
        leaves = made.program.signature.leaves(spec.inputs(seed, 3), {})
        found = mismatches(made.canonical, lowered, leaves, target)
    assert not found, [(str(mismatch), mismatch.layers) for mismatch in found]


@examples(0.5)
@given(spec=drawn(kinds=LAYERED, most_ops=6), target=engines)
def test_i13_more_bits_never_have_the_larger_bound(spec, target):
    fewer, more = (compiled(spec, asked, target) for asked in ("seven bits", "per channel"))
    args, model = spec.inputs(1000, 8), spec.build()  # calibration data: nothing is clipped
    one, two = (error_bound(made, args, model=model) for made in (fewer, more))
    for left, right in zip(one.leaves, two.leaves, strict=True):
        assert float(right.bound.max()) <= float(left.bound.max()) * 1.001 + 1e-6


@examples(1)
@given(spec=drawn(), asked=static, power=st.integers(-6, 6))
def test_i8_every_activation_has_legal_codes_that_hold_zero(spec, asked, power):
    data = [tuple(scaled(x, power) for x in args) for args in spec.batches()]
    made = compiled(spec, asked, calibration_data=data)
    for node in made.canonical.graph.nodes:
        if node.target is qdq.quantize_per_tensor and node.op == "call_function":
            _, scale, zero_point, low, high, _ = node.args
            assert 0 < scale < float("inf") and low <= zero_point <= high and isinstance(zero_point, int)


@examples(0.5)
@given(spec=drawn(), asked=static)
def test_i9_more_data_never_shrinks_a_range(spec, asked):
    few, more = (compiled(spec, asked, calibration_data=spec.batches(count)) for count in (1, 3))
    for name, (scale, _, low, high) in steps(few).items():
        assert steps(more)[name][0] >= scale * (1 - 1e-6), name
        assert (low, high) == steps(more)[name][2:]


@examples(0.5)
@given(spec=drawn(kinds=("linear", "conv1d", "conv2d", "relu", "max_pool", "flatten", "add"), most_ops=6),
       power=st.integers(-3, 3))  # fmt: skip
def test_i9_data_scaled_by_a_power_of_two_scales_the_input_step_by_it(spec, power):
    """No cat: its inputs share one range, and one of them may come from a layer with a bias, which does not scale."""
    data = spec.batches()
    first, second = (
        compiled(spec, calibration_data=d) for d in (data, [tuple(scaled(x, power) for x in a) for a in data])
    )
    for name in {node.name for node in first.canonical.graph.nodes if node.op == "placeholder"}:
        for one, two in zip(reads(first, name), reads(second, name), strict=True):
            assert two[0] == one[0] * 2.0**power and two[1] == one[1]


def float_output(model, args):
    """On copies: a drawn model may write to its arguments."""
    with torch.no_grad():
        return model(*(argument.clone() for argument in args))


def scaled(x, power):
    return x * 2.0**power if x.is_floating_point() else x


def steps(made):
    """Site of each activation quantize → (scale, zero point, low, high)."""
    nodes = made.canonical.graph.nodes
    return {node.name: (node.args[1], *node.args[2:5]) for node in nodes if node.target is qdq.quantize_per_tensor}


def reads(made, name):
    """(scale, zero point) of each quantize of this input."""
    nodes = made.canonical.graph.nodes
    found = [node for node in nodes if node.target is qdq.quantize_per_tensor and node.args[0].name == name]
    return [(node.args[1], node.args[2]) for node in found]
