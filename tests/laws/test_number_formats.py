"""Laws of packing, of groups and of small floats: what is stored is what was rounded, and rounding is as good as said."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fxquant.float_formats import (
    FloatFormat,
    choose_float_scale,
    decode,
    encode,
    is_format,
    read_format,
    round_to,
    simulate_float,
    spacing,
)
from fxquant.groups import MIDDLE, dequantize_groups, pack, quantize_groups, unpack
from fxquant.observers import FloatWeights, float_codes
from fxquant.qdq import choose_qparams, dequantize_per_tensor, quantize_per_tensor

TORCHS = {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
formats = st.sampled_from([FloatFormat(e, m) for e in range(1, 9) for m in range(11) if is_format(e, m)])
small = st.sampled_from([FloatFormat(e, m) for e in range(1, 7) for m in range(6) if is_format(e, m)])
sizes = st.integers(1, 70)


@st.composite
def tensors(draw, *, most: float = 1e4):
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    seed, power = draw(st.integers(0, 2**31)), draw(st.floats(-6, math.log10(most)))
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10**power
    is_sparse = draw(st.booleans())
    return made * (made.abs() > made.abs().mean()) if is_sparse else made


@st.composite
def packed_codes(draw):
    rows, size = draw(st.integers(1, 5)), draw(sizes)
    seed = draw(st.integers(0, 2**31))
    return torch.randint(0, 16, (rows, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# Packing and groups ---------------------------------------------------------------------------------------------------


@given(packed_codes())
def test_unpacking_what_was_packed_gives_it_back_and_takes_half_the_bytes(codes):
    packed = pack(codes)
    assert packed.numel() == codes.shape[0] * -(-codes.shape[1] // 2)
    assert torch.equal(unpack(packed, codes.shape[1]), codes)


@given(tensors(), sizes, st.sampled_from((2, 3, 4)), st.booleans())
def test_a_weight_in_groups_is_half_a_scale_off_at_most(weight, size, bits, symmetric):
    made = quantize_groups(weight, size, bits=bits, symmetric=symmetric)
    again = dequantize_groups(made.packed, made.scale, made.zero_point, made.group_size, made.shape)
    spread = made.scale.float().repeat_interleave(size, 1)[:, : weight[0].numel()].reshape(weight.shape)
    assert again.shape == weight.shape and again.dtype is torch.float32
    assert bool(((again - weight).abs() <= spread / 2 * (1 + 1e-5)).all())
    assert torch.equal(again[weight == 0], weight[weight == 0])  # zeros stay zeros


@given(tensors(), st.booleans())
def test_a_scale_is_no_larger_than_it_must_be(weight, symmetric):
    """The step at which the farther end is just covered."""
    rows = weight.reshape(weight.shape[0], -1)
    made = quantize_groups(weight, rows.shape[1], symmetric=symmetric)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    needed = torch.maximum(high / 7.5, -low / 8.5) if symmetric else (high - low) / 15
    assume(bool((needed > 0).all()))
    assert bool((made.scale.float()[:, 0] <= needed * 1.001).all())


@given(tensors(), sizes)
def test_rounding_a_rounded_weight_again_changes_nothing_where_its_scale_is_kept(weight, size):
    made = quantize_groups(weight, size)
    again = dequantize_groups(made.packed, made.scale, None, size, made.shape)
    rows = torch.nn.functional.pad(again.reshape(made.shape[0], -1), (0, made.scale.shape[1] * size - again[0].numel()))
    codes = (rows.unflatten(1, (-1, size)) / made.scale.float().unsqueeze(2)).round().add(MIDDLE).to(torch.uint8)
    assert torch.equal(codes.flatten(1)[:, : again[0].numel()], unpack(made.packed, again[0].numel()))


@pytest.mark.parametrize("power", [-42, -12, -6, 0, 6, 30])
def test_scales_that_float16_cannot_hold_are_kept_as_float32(power):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * 10.0**power
    made = quantize_groups(weight, 32)
    again = dequantize_groups(made.packed, made.scale, None, 32, made.shape)
    assert made.scale.dtype is (torch.float16 if -3 < power < 5 else torch.float32)
    assert bool(((again - weight).abs() <= weight.abs().amax() / 15 * (1 + 1e-5) + 1e-37).all())


def test_a_weight_of_zeros_stays_zero():
    made = quantize_groups(torch.zeros(3, 40), 32)
    assert torch.equal(dequantize_groups(made.packed, made.scale, None, 32, made.shape), torch.zeros(3, 40))


# Small floats ---------------------------------------------------------------------------------------------------------


@given(formats, tensors())
def test_rounding_is_idempotent_odd_and_half_a_place_off_at_most(fmt, x):
    x = x.clamp(-fmt.largest, fmt.largest)
    once = round_to(x, fmt)
    assert torch.equal(round_to(once, fmt), once)
    assert torch.equal(round_to(-x, fmt), -once)
    assert bool(((once.double() - x.double()).abs() <= spacing(x, fmt) / 2).all())


@given(formats, tensors())
def test_rounding_is_monotone_and_saturates(fmt, x):
    ordered = (x * fmt.smallest * 8).flatten().sort().values
    rounded = round_to(ordered, fmt)
    assert bool((rounded[1:] >= rounded[:-1]).all())
    assert float(round_to(torch.tensor([3.4e38]), fmt)) == pytest.approx(fmt.largest, rel=1e-6)


@given(small)
def test_the_grid_is_exact_and_each_code_is_a_number_of_it(fmt):
    codes = torch.arange(1 << fmt.bits).to(fmt.code_dtype)
    values = decode(codes, fmt)
    inside = values.abs() <= fmt.largest  # OCP's formats keep some codes for NaN and infinities
    assert torch.equal(round_to(values[inside], fmt), values[inside])
    assert torch.equal(encode(values[inside], fmt), codes[inside])
    assert len(values.unique()) == (1 << fmt.bits) - 1  # two zeros
    assert float(values[values > 0].min()) == fmt.smallest


@given(formats, tensors())
def test_codes_hold_what_was_rounded(fmt, x):
    rounded = round_to(x, fmt)
    codes = encode(rounded, fmt)
    assert codes.dtype is (torch.uint8 if fmt.bits <= 8 else torch.int16)
    assert torch.equal(decode(codes, fmt), rounded)


@pytest.mark.parametrize("name", TORCHS)
def test_ocps_formats_are_torchs_own_bit_for_bit(name):
    fmt, dtype = read_format(name), TORCHS[name]
    codes = torch.arange(256, dtype=torch.uint8)
    values = codes.view(dtype).float()
    numbers = values.isfinite()
    grid = values[numbers].sort().values
    random = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    powers = torch.randint(-20, 18, (200_000,), generator=torch.Generator().manual_seed(1))
    ties = (grid[1:].double() + grid[:-1].double()) / 2
    x = torch.cat([torch.ldexp(random, powers), ties.float(), grid]).clamp(-fmt.largest, fmt.largest)
    assert torch.equal(round_to(x, fmt).view(torch.int32), x.to(dtype).float().view(torch.int32))
    assert torch.equal(encode(round_to(x, fmt), fmt), x.to(dtype).view(torch.uint8))
    assert torch.equal(decode(codes[numbers], fmt), values[numbers])
    assert str(fmt) == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("name", "largest", "smallest"),
    [("e2m1", 6.0, 0.5), ("e2m3", 7.5, 0.125), ("e3m2", 28.0, 0.0625), ("e4m3", 448.0, 2.0**-9), ("e5m2", 57344.0, 2.0**-16)],
)  # fmt: skip
def test_the_ranges_are_those_of_the_microscaling_formats(name, largest, smallest):
    fmt = read_format(name)
    assert (fmt.largest, fmt.smallest) == (largest, smallest)


def test_bfloat16_and_float16_are_splits_too():
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_to(x, FloatFormat(8, 7)), x.bfloat16().float())
    assert torch.equal(round_to(x, FloatFormat(5, 10)), x.half().float())


@given(small, tensors())
def test_a_scale_that_is_chosen_covers_the_tensor(fmt, x):
    scale = choose_float_scale(x, fmt.exponent_bits, fmt.mantissa_bits)
    found = simulate_float(x, scale, fmt.exponent_bits, fmt.mantissa_bits)
    half = torch.maximum(x.double().abs() * 2.0**-fmt.mantissa_bits, torch.tensor(fmt.smallest * float(scale))) / 2
    assert bool(((found - x).double().abs() <= half * (1 + 1e-5)).all())
    assert float(found.abs().max()) <= float(x.abs().max()) * (1 + 1e-6)


@given(st.sampled_from(("float8_e4m3fn", "e3m2", "e2m1", "e5m10")), tensors(), st.booleans())
def test_weights_in_small_floats_keep_the_largest_of_each_channel(name, weight, per_channel):
    made = float_codes(weight, FloatWeights(name, "channel" if per_channel else "tensor")().ask)
    values = decode(made.codes, made.fmt)
    rows, scale = values.flatten(1) if weight.dim() > 1 else values.view(-1, 1), made.scale.reshape(-1, 1)
    most = (rows * scale).abs().amax(1) if per_channel else (values * made.scale).abs().amax()
    wanted = weight.reshape(weight.shape[0], -1).abs().amax(1) if per_channel else weight.abs().amax()
    assert torch.allclose(most, wanted, rtol=1e-5, atol=0)


# Few bits -------------------------------------------------------------------------------------------------------------


@given(tensors(), st.integers(2, 7))
def test_a_dynamic_activation_of_few_bits_is_half_a_step_off_at_most(x, bits):
    scale, zero_point = choose_qparams(x, False, bits)
    codes = quantize_per_tensor(x, scale, zero_point, 0, (1 << bits) - 1, torch.uint8)
    assert int(codes.max()) < 1 << bits and 0 <= zero_point < 1 << bits
    again = dequantize_per_tensor(codes, scale, zero_point)
    assert bool(((again - x).abs() <= scale * 0.5002).all())
