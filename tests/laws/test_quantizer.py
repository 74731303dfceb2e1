"""Laws of the quantizer (I1–I5), of observers (I7–I9), of one layer (I6), and that all-float changes nothing (I11)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant import qdq, torch_ao
from fxquant.observation import Observation
from support.asserts import assert_same
from support.compiling import compile_model
from support.models import SIGNATURES, TROUBLE

with torch_ao.quiet():
    from torch.ao.quantization import MinMaxObserver, QConfigMapping

SCALES = st.floats(-6, 4).map(lambda power: 10.0**power)
ZERO_POINTS = st.integers(0, 255)
SEEDS = st.integers(0, 2**31)
FLOAT_MODELS = {name: case for name, case in {**TROUBLE, **SIGNATURES}.items() if case.is_traceable}


def codes(x, scale, zero_point):
    return qdq.quantize_per_tensor(x, scale, zero_point, 0, 255, torch.uint8)


def fake(x, scale, zero_point):
    return qdq.dequantize_per_tensor(codes(x, scale, zero_point), scale, zero_point)


def drawn(seed, count=256, spread=1.0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * spread


@given(scale=SCALES, zero_point=ZERO_POINTS, seed=SEEDS)
def test_i1_in_range_the_error_is_half_a_step(scale, zero_point, seed):
    low, high = (0 - zero_point) * scale, (255 - zero_point) * scale
    x = torch.rand(256, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    ulp = torch.nextafter(x.abs(), torch.tensor(float("inf"))) - x.abs()
    bound = scale * (0.5 + 2**-13) + 2 * ulp + scale * 2**-15  # the last term: the ends of the range are float32 too
    assert ((x - fake(x, scale, zero_point)).abs() <= bound).all()


@given(scale=SCALES, zero_point=ZERO_POINTS)
def test_i2_outside_it_is_the_nearest_end(scale, zero_point):
    far = torch.tensor([-1e3, 1e3]) * scale
    assert codes(far, scale, zero_point).tolist() == [0, 255]


@given(scale=st.floats(-36, 36).map(lambda power: 10.0**power), zero_point=ZERO_POINTS)
def test_i3_quantizing_twice_is_quantizing_once(scale, zero_point):
    every = torch.arange(256, dtype=torch.uint8)
    values = qdq.dequantize_per_tensor(every, scale, zero_point)
    assert torch.equal(codes(values, scale, zero_point), every)


@given(scale=SCALES, zero_point=ZERO_POINTS)
def test_i4_zero_is_exact(scale, zero_point):
    assert float(fake(torch.zeros(1), scale, zero_point)) == 0.0


@given(scale=SCALES, zero_point=ZERO_POINTS, seed=SEEDS)
def test_i5_it_is_monotone(scale, zero_point, seed):
    ordered = drawn(seed, spread=100 * scale).sort().values
    assert (fake(ordered, scale, zero_point).diff() >= 0).all()


@given(scale=SCALES, seed=SEEDS)
def test_i5_a_symmetric_quantizer_is_odd(scale, seed):
    x = drawn(seed, spread=50 * scale)
    left, right = (qdq.quantize_per_tensor(v, scale, 0, -127, 127, torch.int8).int() for v in (x, -x))
    assert torch.equal(left, -right)


@given(scale=SCALES, zero_point=ZERO_POINTS, seed=SEEDS)
def test_codes_are_torchs_own_to_within_one(scale, zero_point, seed):
    x = drawn(seed, spread=100 * scale)
    with torch_ao.quiet():
        kernel = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8).int_repr()
    assert (kernel.int() - codes(x, scale, zero_point).int()).abs().max() <= 1


@given(channels=st.integers(1, 5), axis=st.integers(0, 1), seed=SEEDS)
def test_per_channel_is_per_tensor_along_the_axis(channels, axis, seed):
    x = drawn(seed, channels * 6).reshape((channels, 6) if axis == 0 else (6, channels))
    scales = torch.rand(channels, generator=torch.Generator().manual_seed(seed)) + 0.01
    zeros = torch.zeros(channels, dtype=torch.int64)
    got = qdq.quantize_per_channel(x, scales, zeros, axis, -128, 127, torch.int8)
    for index in range(channels):
        one = qdq.quantize_per_tensor(x.select(axis, index), float(scales[index]), 0, -128, 127, torch.int8)
        assert (got.select(axis, index).int() - one.int()).abs().max() <= 1


# Observers ----------------------------------------------------------------------------------------------------------


def observed(batches):
    with torch_ao.quiet():
        observer = MinMaxObserver(dtype=torch.quint8)
        for batch in batches:
            observer(batch)
        return Observation(observer).qparams()


@given(seed=SEEDS, cuts=st.lists(st.integers(1, 255), max_size=4, unique=True), order=st.randoms(use_true_random=False))
def test_i7_order_splitting_and_repetition_of_data_change_nothing(seed, cuts, order):
    data = drawn(seed)
    parts = [part for part in torch.tensor_split(data, sorted(cuts)) if len(part)]
    order.shuffle(parts)
    assert observed([*parts, parts[0]]) == observed([data])


@given(seed=SEEDS, spread=st.floats(-30, 30).map(lambda power: 10.0**power), shift=st.floats(-3, 3))
def test_i8_the_qparams_are_legal(seed, spread, shift):
    got = observed([(drawn(seed) + shift) * spread])
    scale, zero_point = float(got.scale), int(got.zero_point)
    assert 0 < scale < float("inf") and 0 <= zero_point <= 255
    assert (0 - zero_point) * scale <= 0 <= (255 - zero_point) * scale


@given(seed=SEEDS, power=st.integers(-8, 8))
def test_i9_more_data_never_shrinks_the_range_and_scaling_scales(seed, power):
    few, more = drawn(seed), drawn(seed + 1, spread=0.5)
    assert float(observed([few, more]).scale) >= float(observed([few]).scale)
    assert float(observed([few * 2.0**power]).scale) == float(observed([few]).scale) * 2.0**power


# Layers and models --------------------------------------------------------------------------------------------------


@given(seed=SEEDS, width=st.integers(1, 12), outputs=st.integers(1, 6))
def test_i6_a_linear_layer_keeps_its_bound(seed, width, outputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer, x = nn.Linear(width, outputs), torch.randn(32, width)
    model = fxquant.compile(nn.Sequential(layer).eval(), "int8-weight-only", example_inputs=x, target="x86")
    step = model.state_dict()["0.weight_scale"]
    bound = x.abs().sum(1, keepdim=True) * step / 2 * (1 + 1e-3) + 1e-5
    assert ((model(x) - layer(x)).abs() <= bound).all()


@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_i11_a_mapping_that_asks_nothing_gives_the_float_model_to_the_bit(name):
    case = FLOAT_MODELS[name]
    model = case.make()
    has_batchnorm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    ours = compile_model(model, QConfigMapping(), case)
    args, kwargs = case.inputs(4), case.arguments(4)
    expected = case.make()(*case.inputs(4), **kwargs)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if has_batchnorm else {}  # folding rounds
    assert_same(ours(*args, **kwargs), torch.utils._pytree.tree_map(_detached, expected), **tolerance)
    assert {row.effective for row in ours.ledger.layers} <= {"float32", "removed"} or has_batchnorm


def _detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value
