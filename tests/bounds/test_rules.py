"""Each rule against brute force: random values within their errors, run through torch's own op, stay within the bound."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import fxquant.bounds.walk  # noqa: F401 (fills the table)
from fxquant import recurrent
from fxquant.bounds.bounded import RULES, Bounded, NoBound, exact
from fxquant.bounds.rounding import HALF, choose, dynamic, nothing_rounded, static

TRIALS = 60


def drawn(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def uncertain(source: torch.Generator, *shape: int, spread: float = 0.3) -> Bounded:
    """Values with errors of very different sizes, some of them zero."""
    error = torch.rand(*shape, generator=source, dtype=torch.float64) ** 3 * spread
    error = torch.where(torch.rand(*shape, generator=source) < 0.2, 0.0, error)
    return Bounded(drawn(source, *shape), error, error.square() / 3)


def samples(source: torch.Generator, x: Bounded) -> Tensor:
    """A float64 tensor within the errors: at a corner, or anywhere."""
    at = torch.rand(*x.shape, generator=source, dtype=torch.float64) * 2 - 1
    if torch.rand(1, generator=source) < 0.5:
        at = at.sign()
    return x.value + at * x.error


def single(x: Any) -> Any:
    """A sample in float32, for layers whose weights are; that loses 2^-24 of it."""
    return x.float() if isinstance(x, Tensor) else x


def check(function: Callable[..., Any], *args: Any, seed: int = 0, tolerance: float = 1e-12) -> list[Bounded]:
    """`function` on Bounded arguments holds `function` on tensors within them. Returns the bounds."""
    source = torch.Generator().manual_seed(seed)
    found = [leaf for leaf in tree_flatten(function(*args))[0] if isinstance(leaf, Bounded)]
    assert found
    for _ in range(TRIALS):
        inner = [samples(source, item) if isinstance(item, Bounded) else item for item in args]
        results = [leaf for leaf in tree_flatten(function(*inner))[0] if isinstance(leaf, Tensor)]
        for bound, result in zip(found, results, strict=True):
            assert bound.value.shape == result.shape
            excess = (result - bound.value).abs() - bound.error
            assert not bool((excess > tolerance).any()), f"{float(excess.max())} too far"
    for bound in found:
        assert bool(bound.error.isfinite().all()), "a bound that says nothing"
    return found


UNARY: dict[str, Callable[[Any], Any]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "square": torch.square,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "neg": lambda x: -x,
    "power": lambda x: x**2,
    "cube": lambda x: torch.pow(x, 3),
    "sqrt": lambda x: (torch.sigmoid(x) + 1.0).sqrt(),
    "log": lambda x: (torch.sigmoid(x) + 1.0).log(),
    "rsqrt": lambda x: torch.rsqrt(torch.sigmoid(x) + 1.0),
    "reciprocal": lambda x: torch.reciprocal(torch.sigmoid(x) - 2.0),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25], dtype=torch.float64)),
    "prelu_falling": lambda x: F.prelu(x, torch.tensor([-0.25], dtype=torch.float64)),
    "glu": lambda x: F.glu(x, -1),
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, (8,), torch.linspace(-1, 2, 8).double(), torch.ones(8).double()),
    "layer_norm_of_two": lambda x: F.layer_norm(x, (6, 8)),
    "group_norm": lambda x: F.group_norm(x, 3),
    "instance_norm": lambda x: F.instance_norm(x),
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(6).double(), torch.full((6,), 2.0).double()),
    "mean": lambda x: x.mean(-1),
    "sum": lambda x: x.sum((1, 2)),
    "cumsum": lambda x: torch.cumsum(x, -1),
    "norm": lambda x: torch.norm(x, dim=-1),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "amax": lambda x: x.amax(-1),
    "amin": lambda x: torch.amin(x, 1),
    "topk": lambda x: x.topk(3, -1)[0],
    "max_pool1d": lambda x: F.max_pool1d(x, 2),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 3, 1, 1),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x, 3),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0, mode="linear"),
    "interpolate_nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "view": lambda x: x.view(2, -1),
    "transpose": lambda x: x.transpose(1, 2),
    "getitem": lambda x: x[:, 1:, ::2],
    "chunk": lambda x: x.chunk(2, 1),
    "cat": lambda x: torch.cat([x, x * 2.0], 1),
    "stack": lambda x: torch.stack([x, x], 0),
    "unbind": lambda x: x.unbind(1),
    "expand": lambda x: x[:, :1].expand(-1, 4, -1),
    "pad": lambda x: F.pad(x, (1, 2)),
    "pad_reflect": lambda x: F.pad(x, (1, 2), mode="reflect"),
    "where": lambda x: torch.where(torch.arange(8) > 3, x, 0.5),
    "masked_fill": lambda x: x.masked_fill(torch.arange(8) > 3, -1.0),
    "flip": lambda x: x.flip(1),
    "rsub": lambda x: 1.0 - x,
    "rdiv": lambda x: 1.0 / (torch.sigmoid(x) + 1.0),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("seed", range(3))
def test_an_op_of_one_value_stays_within_its_bound(name, seed):
    source = torch.Generator().manual_seed(seed)
    check(UNARY[name], uncertain(source, 2, 6, 8, spread=(0.3, 0.02, 2.0)[seed]), seed=seed)


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": torch.add,
    "add_alpha": lambda a, b: torch.add(a, b, alpha=-2.0),
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: torch.rsub(a, b),
    "mul": torch.mul,
    "div": lambda a, b: a / (b.abs() + 2.5),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "matmul": lambda a, b: torch.matmul(a, b.transpose(-1, -2)),
    "linear": lambda a, b: F.linear(a, b[0]),
    "einsum": lambda a, b: torch.einsum("bij,bkj->bik", a, b),
    "attention": lambda a, b: F.scaled_dot_product_attention(a, b, b),
    "attention_causal": lambda a, b: F.scaled_dot_product_attention(a, b, a, is_causal=True),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("seed", range(3))
def test_an_op_of_two_values_stays_within_its_bound(name, seed):
    source = torch.Generator().manual_seed(seed)
    check(BINARY[name], uncertain(source, 2, 6, 8), uncertain(source, 2, 6, 8), seed=seed)


def test_attention_with_a_mask_of_either_form_stays_within_its_bound():
    source = torch.Generator().manual_seed(0)
    x = uncertain(source, 2, 3, 6, 8)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    bias = torch.zeros(6, 6, dtype=torch.float64).masked_fill(~mask, -math.inf)
    for given_mask in (mask, bias):
        check(lambda q, m=given_mask: F.scaled_dot_product_attention(q, q, q, m), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_convolution_stays_within_its_bound(dims, groups, is_transposed):
    source = torch.Generator().manual_seed(dims)
    function = getattr(F, f"conv_transpose{dims}d" if is_transposed else f"conv{dims}d")
    weight = drawn(source, 4, 6 // groups if is_transposed else 4 // groups, *[2] * dims)
    weight = weight if is_transposed else drawn(source, 6, 4 // groups, *[2] * dims)
    bias = drawn(source, weight.shape[1] * groups if is_transposed else 6)
    check(lambda x: function(x, weight, bias, 2, 1, groups=groups), uncertain(source, 2, 4, *[5] * dims))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(2), nn.LPPool2d(2, 2)])
def test_a_pool_stays_within_its_bound_or_says_that_it_has_none(pool):
    x = uncertain(torch.Generator().manual_seed(0), 2, 3, 6, 6)
    if isinstance(pool, nn.LPPool2d):
        with pytest.raises(NoBound):
            pool(x)
        return
    check(pool, x)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("is_bidirectional", [False, True])
def test_a_float_recurrent_layer_stays_within_its_bound(kind, is_bidirectional):
    torch.manual_seed(0)
    layer = kind(4, 5, num_layers=2, bidirectional=is_bidirectional, batch_first=True).eval()
    x = uncertain(torch.Generator().manual_seed(0), 2, 3, 4, spread=0.05)
    with torch.no_grad():
        check(lambda given: layer(single(given))[0], x, tolerance=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_float_cell_stays_within_its_bound(kind):
    torch.manual_seed(0)
    cell = kind(4, 5).eval()
    x = uncertain(torch.Generator().manual_seed(0), 2, 4)
    with torch.no_grad():
        check(lambda given: cell(single(given)), x, tolerance=1e-6)


def test_a_dynamic_recurrent_layer_stays_within_its_bound():
    source = torch.Generator().manual_seed(0)
    shapes = ((12, 4), (12, 3), (12,), (12,))
    weights = [drawn(source, *shape).float() / 2 for shape in shapes]
    x = exact(drawn(source, 2, 5, 4))
    bound = recurrent.lstm(x, None, weights, 1, False, True, True, True)
    plain = recurrent.lstm(x.value.float(), None, weights, 1, False, True, True, True)
    for held, found in zip(bound, plain, strict=True):
        assert bool(((found.double() - held.value).abs() <= held.error).all())


# Quantizing ----------------------------------------------------------------------------------------------------------


@given(st.floats(-5, 2).map(lambda power: 10.0**power), st.integers(0, 255), st.integers(0, 2**31))
def test_quantizing_stays_within_its_bound_inside_and_outside_the_range(scale, zero_point, seed):
    from fxquant import qdq

    source = torch.Generator().manual_seed(seed)
    x = uncertain(source, 64, spread=2 * scale)
    x = Bounded(x.value * 200 * scale, x.error, x.variance)
    bound = static(x, scale, zero_point, 0, 255)
    for _ in range(10):
        inner = samples(source, x).float()
        codes = qdq.quantize_per_tensor(inner, scale, zero_point, 0, 255, torch.uint8)
        result = qdq.dequantize_per_tensor(codes, scale, zero_point).double()
        slack = 2.0**-22 * inner.abs().max()  # what the samples themselves lost in float32
        assert bool(((result - bound.value).abs() <= bound.error + slack).all())
    assert bool((bound.error <= x.error + HALF * scale * 1.01).all())


@given(st.booleans(), st.floats(-6, 3).map(lambda power: 10.0**power), st.integers(0, 2**31))
def test_dynamic_quantizing_stays_within_its_bound(is_reduced, spread, seed):
    source = torch.Generator().manual_seed(seed)
    x = uncertain(source, 64)
    x = Bounded(x.value * spread, x.error * spread, x.variance)
    bound = dynamic(x, choose(x, is_reduced))
    for _ in range(10):
        inner = samples(source, x).float()
        result = recurrent._seen(inner, True, is_reduced).double()
        slack = 2.0**-22 * inner.abs().max()
        assert bool(((result - bound.value).abs() <= bound.error + slack).all())


def test_quantizing_again_on_the_same_grid_adds_nothing_and_moving_keeps_the_grid():
    x = static(exact(torch.randn(4, 6)), 0.1, 3, 0, 255)
    moved = F.relu(x.reshape(6, 4).transpose(0, 1))
    assert moved.grid == (0.1, 3)
    assert torch.equal(static(moved, 0.1, 3, 0, 255).error, moved.error)
    assert bool((static(moved, 0.2, 3, 0, 255).error > moved.error).all())
    assert (x * 2.0).grid is None


def test_what_is_surely_clipped_is_known_to_the_last_bit_or_nearly():
    x = Bounded(torch.tensor([100.0]).double(), torch.tensor([1.0]).double(), torch.zeros(1).double())
    bound = static(x, 0.1, 0, 0, 255)
    assert float(bound.value) == pytest.approx(25.5) and float(bound.error) < 1e-4


def test_where_nothing_is_rounded_quantizing_changes_nothing():
    x = exact(torch.randn(8))
    with nothing_rounded():
        assert static(x, 0.1, 0, 0, 255) is x and dynamic(x, choose(x, True)) is x
    assert static(x, 0.1, 0, 0, 255) is not x


# What is not known ----------------------------------------------------------------------------------------------------


def test_a_comparison_is_known_where_the_intervals_are_apart():
    x = Bounded(torch.tensor([0.0, 1.0, 2.0]).double(), torch.full((3,), 0.4).double(), torch.zeros(3).double())
    assert torch.equal(x > 0.5, torch.tensor([False, True, True]))
    unsure = x > 0.9
    assert isinstance(unsure, Bounded) and unsure.error.tolist() == [0.0, math.inf, 0.0]


def test_an_argmax_is_known_where_the_winner_is_certain():
    x = Bounded(torch.tensor([[0.0, 1.0, 3.0]]).double(), torch.full((1, 3), 0.4).double(), torch.zeros(1, 3).double())
    assert x.argmax(-1).tolist() == [2] and x.max(-1)[1].tolist() == [2] and x.argmin().item() == 0
    wider = Bounded(x.value, x.error * 3, x.variance)
    assert wider.argmax(-1).error.tolist() == [math.inf]


@pytest.mark.parametrize(
    "op",
    [
        torch.round,
        torch.fft.rfft,
        lambda x: x.item(),
        lambda x: x.to(torch.int8),
        lambda x: F.dropout(x, 0.5, training=True),
        lambda x: F.interpolate(x[None, None], scale_factor=2.0, mode="bicubic"),
        lambda x: torch.zeros(3)[x],
        bool,
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: x.add_(1.0),
        lambda x: F.relu(x, inplace=True),
        lambda x: operator.iadd(x, 1.0),
        lambda x: operator.setitem(x, 0, 1.0),
        lambda x: x // 2,
    ],
)
def test_what_has_no_rule_says_so(op):
    with pytest.raises((NoBound, TypeError)):
        op(uncertain(torch.Generator().manual_seed(0), 6, 6))


def test_no_rule_is_entered_twice_and_every_rule_has_a_name_of_torchs():
    known = {*dir(torch), *dir(F), *dir(Tensor), *dir(torch.linalg), "getitem", "truediv", "upsample", "log_sigmoid"}
    ours = {
        "quantize_per_tensor",
        "dequantize_per_tensor",
        "choose_qparams",
        "choose_float_scale",
        "simulate_float",
        "_seen",
        "_gru_step",
        "rewritten",
        "with_item",
        "applied",
        "store",
    }
    strange = sorted(set(RULES) - known - ours)
    assert not strange, strange
