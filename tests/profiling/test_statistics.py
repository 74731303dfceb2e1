"""The numbers of a profile against numpy's, and against what they are expected to bound."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxquant.numerics import sqnr_db
from fxquant.profiling.accumulating import Accumulator
from fxquant.profiling.distribution import BINS, PERCENTILES
from fxquant.profiling.moments import Moments
from fxquant.profiling.noise import best_range, range_sqnr_db
from fxquant.profiling.saturation import INT16, REDUCED, needs_seven_bits, pair_sum
from fxquant.profiling.sketch import RELATIVE_ERROR, Sketch
from fxquant.profiling.weights import INT8, profile_weight, quantized
from fxquant.qconfigs import TensorAsk

PER_TENSOR = TensorAsk("qint8", is_symmetric=True)
FLOATS = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
BATCHES = st.lists(st.lists(FLOATS, min_size=1, max_size=30), min_size=1, max_size=5)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fed(*batches, axis=None, limits=None):
    made = Accumulator(axis)
    made.limits = limits
    for batch in batches:
        made.add(batch)
    return made


@given(BATCHES, st.floats(0, 1))
def test_a_percentile_is_within_its_stated_error_of_the_value_at_that_rank(batches, share):
    sketch = Sketch()
    for batch in batches:
        sketch.add(torch.tensor(batch))
    values = sorted(itertools.chain(*batches))
    exact = values[math.floor(share * (len(values) - 1))]
    assert abs(sketch.quantile(share) - exact) <= RELATIVE_ERROR * abs(exact)
    assert sketch.count == len(values)


@given(BATCHES)
def test_the_order_of_batches_changes_no_percentile(batches):
    forwards, backwards = Sketch(), Sketch()
    for batch in batches:
        forwards.add(torch.tensor(batch))
    for batch in reversed(batches):
        backwards.add(torch.tensor(batch))
    assert [forwards.quantile(share / 10) for share in range(11)] == [
        backwards.quantile(share / 10) for share in range(11)
    ]


def test_memory_does_not_grow_with_the_batches():
    sketch = Sketch()
    sizes = []
    for seed in range(40):
        sketch.add(normal(5000, seed=seed))
        sizes.append(len(sketch.buckets()[0]))
    assert sizes[-1] < 4000 and sizes[-1] - sizes[20] < sizes[20] - sizes[0], "200,000 values, 20 of them a bucket"


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_of_parts_are_those_of_the_whole(offset):
    parts = [offset + normal(count, seed=count).double() ** 3 for count in (7, 100, 1, 5000)]
    joined = Moments()
    for part in parts:
        joined.add(part)
    whole = torch.cat(parts).numpy()
    away = whole - whole.mean()
    assert joined.mean == pytest.approx(whole.mean(), rel=1e-12)
    assert joined.std == pytest.approx(whole.std(), rel=1e-9)
    assert joined.kurtosis == pytest.approx((away**4).mean() / (away**2).mean() ** 2, rel=1e-9)


def test_kurtosis_of_what_everybody_knows():
    flat, bell = Moments(), Moments()
    flat.add(torch.linspace(-1, 1, 100_001))
    bell.add(normal(400_000))
    assert flat.kurtosis == pytest.approx(1.8, abs=1e-3)
    assert bell.kurtosis == pytest.approx(3.0, abs=0.05)
    constant = Moments()
    constant.add(torch.full((5,), 2.0))
    assert math.isnan(constant.kurtosis)


def test_range_share_of_zeros_and_outliers_are_counted_exactly():
    values = torch.cat([normal(9990).clamp(-3, 3), torch.zeros(8), torch.tensor([50.0, -60.0])])
    found = fed(*values.split(1000)).result()
    assert (found.low, found.high, found.count) == (-60.0, 50.0, 10_000)
    assert found.zeros == pytest.approx(8 / 10_000) and found.outliers == pytest.approx(2 / 10_000)
    assert sum(found.histogram) == 10_000 and len(found.histogram) == BINS
    assert found.tail == pytest.approx(110 / (numpy.diff(numpy.percentile(values, (0.1, 99.9)))[0]), rel=0.02)
    assert found.percentiles == pytest.approx(numpy.percentile(values, PERCENTILES), rel=0.03, abs=0.003)


def test_channels_have_peaks_and_dead_ones_are_told():
    value = normal(8, 5, 3, 3)
    value[:, 2] = 0.0
    value[:, 4] *= 100
    found = fed(*value.split(2), axis=1).result()
    assert (found.channels, found.dead_channels) == (5, 1)
    peaks = sorted(value.abs().amax((0, 2, 3)).tolist())
    assert found.channel_spread == pytest.approx(peaks[-1] / peaks[2])


def test_channels_that_change_their_number_are_not_told():
    found = fed(normal(2, 5), normal(2, 6), axis=-1).result()
    assert (found.channels, found.channel_spread, found.dead_channels) == (None, None, None)


def test_values_that_are_not_finite_are_counted_apart():
    found = fed(torch.tensor([1.0, float("inf"), float("nan"), -2.0, -float("inf")])).result()
    assert (found.nonfinite, found.count, found.low, found.high) == (3, 2, -2.0, 1.0)


@pytest.mark.parametrize("batches", [(), (torch.empty(0, 4),), (torch.full((3,), float("nan")),)])
def test_nothing_seen_is_no_distribution(batches):
    assert fed(*batches, axis=None).result() is None


def test_what_lies_outside_of_the_codes_is_clipped_and_half_a_step_is_not():
    step = 2.0 / 255
    values = torch.tensor([-1.0 - 0.4 * step, -1.0 - 0.6 * step, 0.0, 1.0 + 0.4 * step, 3.0])
    assert fed(values, limits=(-1.0, 1.0)).clipped == pytest.approx(2 / 5)


@pytest.mark.parametrize("limits", [(-4.0, 4.0), (-1.0, 1.5), (0.0, 40.0), (-400.0, 400.0)])
def test_the_expected_noise_of_a_range_is_what_quantizing_gives(limits):
    values = normal(60_000)
    scale = (limits[1] - limits[0]) / 255
    zero = round(-limits[0] / scale)
    actual = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)
    assert range_sqnr_db(fed(values).sketch, *limits) == pytest.approx(sqnr_db(values, actual), abs=0.4)


def test_the_best_range_lets_go_of_a_rare_huge_value_and_keeps_common_ones():
    sketch = fed(torch.cat([normal(200_000), torch.tensor([40.0])])).sketch
    low, high = best_range(sketch, -5.0, 40.0)
    assert -5.0 < low < -2.5 and 5.0 < high < 39.0
    others = ((-5.0, 40.0), (-5.0, 5.0), (-2.5, 20.0))
    assert all(range_sqnr_db(sketch, low, high) > range_sqnr_db(sketch, *edges) for edges in others)
    assert best_range(fed(torch.linspace(0, 1, 1000)).sketch, 0.0, 1.0) == (0.0, 1.0)


def test_what_a_few_huge_values_hide_is_told_by_the_bulk():
    values = torch.cat([normal(100_000), torch.full((50,), 5000.0)])
    sketch = fed(values).sketch
    whole, bulk = (range_sqnr_db(sketch, 0.0, 5000.0, of_bulk=part) for part in (False, True))
    assert whole > 30.0 and bulk < 1.0


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**20))
def test_no_pair_of_products_exceeds_the_bound(rows, columns, seed):
    codes = torch.randint(-128, 128, (rows, columns), generator=torch.Generator().manual_seed(seed))
    bound = pair_sum(codes, 0)
    sums = [
        abs(first * int(row[one]) + second * int(row[other]))
        for row in codes
        for one, other in itertools.combinations(range(columns), 2)
        for first in (0, 255)
        for second in (0, 255)
    ] + [255 * int(codes.abs().max())]
    assert max(sums) == bound


def test_seven_bits_never_saturate_and_eight_may():
    worst = torch.full((2, 4), -128)
    assert not needs_seven_bits(pair_sum(worst, 0, REDUCED)) and pair_sum(worst, 0, REDUCED) <= INT16
    assert needs_seven_bits(pair_sum(worst, 0)) and not needs_seven_bits(pair_sum(torch.full((2, 4), 60), 0))


def test_a_weight_is_quantized_as_torch_does_it():
    weight = normal(6, 4, 3, 3)
    ask = TensorAsk("qint8", granularity="channel", is_symmetric=True)
    scale = weight.abs().amax((1, 2, 3)) / 127.5
    expected = torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(6, dtype=torch.int32), 0, -128, 127)
    assert torch.allclose(quantized(weight, ask, 0).values, expected, atol=1e-6)
    narrow = quantized(weight, TensorAsk("qint8", is_symmetric=True, quant_min=-8, quant_max=7), 0).codes
    assert narrow.min() >= -8 and narrow.max() <= 7


def test_a_wild_channel_costs_the_others_their_bits():
    weight = normal(16, 32)
    weight[3] *= 200
    profile = profile_weight("weight", weight, "Linear", PER_TENSOR)
    assert profile.granularity == "tensor" and profile.bits == 8
    assert profile.bits_used < 2 and profile_weight("weight", weight, "Linear", INT8).bits_used > 7
    assert profile.values.channel_spread > 100
    assert profile.median_sqnr_db < 5 < 40 < profile.sqnr_per_channel_db
    assert profile.sqnr_db > 20, "the wild channel is most of the power: the whole looks well"


def test_percentiles_of_a_weight_are_of_its_absolute_values():
    weight = normal(40, 50)
    found = profile_weight("weight", weight, "Linear", None).values
    assert found.percentiles == pytest.approx(numpy.percentile(weight.abs(), PERCENTILES))


def test_a_folded_batch_norm_is_in_the_weight_that_is_profiled():
    weight, factor = nn.Conv2d(2, 3, 1).weight.detach(), torch.tensor([1.0, 10.0, 0.1])
    found = profile_weight("weight", weight, "Conv2d", INT8, factor).values
    assert found.high == pytest.approx(float((weight * factor.view(3, 1, 1, 1)).max()))


def test_an_empty_weight_is_no_trouble():
    found = profile_weight("weight", torch.empty(0, 4), "Linear", INT8)
    assert found.values.count == 0 and found.bits_used == 0.0 and found.pair_sum == 0
