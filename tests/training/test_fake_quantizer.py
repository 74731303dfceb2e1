"""FakeQuantizer: the ranges of torch.ao's observers, the gradients of torch's own ops, and ranges that can be frozen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fxquant import torch_ao
from fxquant.errors import NonFiniteError
from fxquant.training.fake_quantizer import FakeQuantizer, Grid, grid_of, seen_range

with torch_ao.quiet():
    from torch.ao.quantization import (
        FusedMovingAvgObsFakeQuantize,
        HistogramObserver,
        MinMaxObserver,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        PerChannelMinMaxObserver,
    )

VALUES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3 + 0.7
PER_TENSOR = [
    {"dtype": torch.quint8, "qscheme": torch.per_tensor_affine},
    {"dtype": torch.quint8, "qscheme": torch.per_tensor_affine, "reduce_range": True},
    {"dtype": torch.quint8, "qscheme": torch.per_tensor_affine, "quant_min": 0, "quant_max": 15},
    {"dtype": torch.quint8, "qscheme": torch.per_tensor_symmetric},
    {"dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric},
    {"dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric, "quant_min": -8, "quant_max": 7},
]
PER_CHANNEL = [
    {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric},
    {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "quant_min": -8, "quant_max": 7},
    {"dtype": torch.qint8, "qscheme": torch.per_channel_affine},
]
ONE_SIDED = [VALUES.abs() + 1, -VALUES.abs() - 1]


def fused(observer, options, channels=None):
    """torch's own training op, and ours."""
    with torch_ao.quiet():
        theirs = FusedMovingAvgObsFakeQuantize(
            observer, averaging_constant=1.0, **{**FULL[options["dtype"]], **options}
        )
    return theirs, FakeQuantizer(grid_of(theirs), channels=channels)


FULL = {torch.quint8: {"quant_min": 0, "quant_max": 255}, torch.qint8: {"quant_min": -128, "quant_max": 127}}


@pytest.mark.parametrize(
    ("options", "values"),
    [
        *((options, VALUES) for options in PER_TENSOR),
        *((options, values) for options in PER_TENSOR[:3] for values in ONE_SIDED),  # symmetric ones it makes affine
    ],
)
def test_a_range_gives_the_codes_of_torchs_training_op(options, values):
    theirs, ours = fused(MovingAverageMinMaxObserver, options)
    wanted, found = theirs(values), ours(values)
    scale, zero_point = ours.calculate_qparams()
    torch.testing.assert_close(scale, theirs.scale[0], rtol=1e-6, atol=1e-9)
    assert zero_point == theirs.zero_point[0]
    if not options.get("reduce_range"):  # theirs clamps at 7 bits, where kernels do not
        torch.testing.assert_close(found, wanted, rtol=0, atol=float(scale) * 1e-3)


@pytest.mark.parametrize("values", [VALUES, *ONE_SIDED])
@pytest.mark.parametrize("options", PER_TENSOR)
def test_a_range_gives_the_scale_and_zero_point_of_an_observer(options, values):
    with torch_ao.quiet():
        observer = MinMaxObserver(**options)
        observer(values)
        scale, zero_point = observer.calculate_qparams()
    ours = FakeQuantizer(grid_of(observer, is_weight=True))
    ours(values)
    found = ours.calculate_qparams()
    torch.testing.assert_close(found[0], scale[0], rtol=1.1e-6, atol=0)
    assert found[1] == zero_point[0]


@pytest.mark.parametrize("options", PER_CHANNEL)
def test_each_channel_has_the_scale_and_zero_point_of_an_observer(options):
    with torch_ao.quiet():
        observer = PerChannelMinMaxObserver(**options)
        observer(VALUES)
        scale, zero_point = observer.calculate_qparams()
    ours = FakeQuantizer(grid_of(observer, is_weight=True), channels=6)
    ours(VALUES)
    torch.testing.assert_close(ours.calculate_qparams()[0], scale, rtol=1.1e-6, atol=0)
    assert torch.equal(ours.calculate_qparams()[1].long(), zero_point.long())


@pytest.mark.parametrize("options", PER_CHANNEL)
def test_each_channel_has_the_codes_of_torchs_training_op(options):
    theirs, ours = fused(MovingAveragePerChannelMinMaxObserver, {**options, "ch_axis": 0}, channels=6)
    values = VALUES - VALUES.mean(1, keepdim=True)  # of a channel with one sign it makes an affine range
    wanted, found = theirs(values), ours(values)
    scale, zero_point = ours.calculate_qparams()
    torch.testing.assert_close(scale, theirs.scale, rtol=1e-6, atol=1e-9)
    assert torch.equal(zero_point, theirs.zero_point)
    torch.testing.assert_close(found, wanted, rtol=0, atol=float(scale.max()) * 1e-3)


def test_rows_of_tables_have_the_float_zero_points_of_their_observer():
    with torch_ao.quiet():
        observer = PerChannelMinMaxObserver(dtype=torch.quint8, qscheme=torch.per_channel_affine_float_qparams)
        observer(VALUES)
        scale, zero_point = observer.calculate_qparams()
    ours = FakeQuantizer(grid_of(observer, is_weight=True), channels=6)
    ours(VALUES)
    torch.testing.assert_close(ours.calculate_qparams(), (scale, zero_point), rtol=1e-6, atol=0)


@pytest.mark.parametrize("values", ONE_SIDED)
def test_a_symmetric_range_of_one_side_has_its_zero_in_the_middle(values):
    fake = FakeQuantizer(Grid(torch.qint8, -8, 7, is_symmetric=True))
    found = fake(values)
    scale, zero_point = fake.calculate_qparams()
    assert zero_point == 0 and (found - values).abs().max() <= scale * 0.5001


def test_zeros_stay_zeros():
    for grid, channels in (
        (Grid(torch.quint8, 0, 255), None),
        (Grid(torch.qint8, -8, 7, is_symmetric=True, axis=0), 6),
    ):
        found = FakeQuantizer(grid, channels=channels)(torch.zeros(6, 5))
        assert torch.equal(found, torch.zeros(6, 5))


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("bits", [(-128, 127), (-8, 7), (-2, 1)])
def test_the_largest_weight_gets_its_gradient(bits, is_fused):
    weight = torch.tensor([[0.1, 0.7, -0.3], [-0.9, 0.2, 0.9], [-0.4, 0.1, 0.2]], requires_grad=True)
    grid = Grid(torch.qint8, *bits, is_symmetric=True, axis=0, averaging=1.0, is_fused=is_fused)
    fake = FakeQuantizer(grid, channels=3)
    found = fake(weight)
    found.sum().backward()
    assert bool((weight.grad == 1).all())
    assert bool(((found - weight).abs() <= fake.calculate_qparams()[0][:, None] * 0.501).all())


def test_the_moving_average_is_that_of_torch():
    with torch_ao.quiet():
        theirs = FusedMovingAvgObsFakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    ours = FakeQuantizer(grid_of(theirs))
    for index in range(5):
        batch = VALUES * (index + 1)
        torch.testing.assert_close(ours(batch), theirs(batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ours.bounds, torch.stack((theirs.activation_post_process.min_val, theirs.activation_post_process.max_val))
    )


def test_the_gradient_is_that_of_torch_and_stops_where_values_are_clipped():
    grid = Grid(torch.quint8, 0, 15)
    fake = FakeQuantizer(grid)
    fake.start_at(torch.tensor(-1.0), torch.tensor(2.0))
    fake.eval()
    ours, theirs = (torch.linspace(-3, 4, 50).requires_grad_() for _ in range(2))
    scale, zero_point = grid.of_range(-1.0, 2.0)
    weights = torch.arange(50.0)
    (fake(ours) * weights).sum().backward()
    (torch.fake_quantize_per_tensor_affine(theirs, scale, zero_point, 0, 15) * weights).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert (ours.grad == 0).sum() > 20 and torch.equal(ours.grad[ours.grad != 0], weights[ours.grad != 0])


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("bits", [(-128, 127), (-8, 7)])
def test_rounding_before_a_norm_is_rounding_the_product(axis, bits):
    scale = torch.tensor([0.5, -2.0, 3.0, -0.1, 1e-3, 7.0])
    grid = Grid(torch.qint8, *bits, is_symmetric=True, axis=axis, averaging=1.0)
    one, other = (FakeQuantizer(grid, channels=None if axis is None else 6) for _ in range(2))
    found = one.before_norm(VALUES, scale)
    wanted = other(VALUES * scale[:, None]) / scale[:, None]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(one.bounds, other.bounds)


def test_rounding_before_a_norm_passes_gradients_to_what_is_not_clipped():
    fake = FakeQuantizer(Grid(torch.qint8, -8, 7, is_symmetric=True))
    fake.start_at(torch.tensor(-1.0), torch.tensor(1.0))
    weight = torch.tensor([[0.2, 0.9, 30.0], [-0.2, 0.9, -30.0]], requires_grad=True)
    fake.eval().before_norm(weight, torch.tensor([1.0, -0.5])).sum().backward()
    assert weight.grad.tolist() == [[1, 1, 0], [1, 1, 0]]


def test_in_eval_the_range_of_an_activation_stays():
    fake = FakeQuantizer(Grid(torch.quint8, 0, 255))
    fake(VALUES)
    before = fake.bounds.clone()
    fake.eval()(VALUES * 100)
    assert torch.equal(fake.bounds, before)


def test_before_anything_was_seen_values_pass():
    fake = FakeQuantizer(Grid(torch.quint8, 0, 255)).eval()
    assert torch.equal(fake(VALUES), VALUES) and not fake.has_range


def test_a_range_that_follows_the_weight_does_so_in_eval_until_it_is_frozen():
    fake = FakeQuantizer(Grid(torch.qint8, -128, 127, is_symmetric=True, averaging=1.0)).eval()
    fake(VALUES)
    fake(VALUES * 2)
    assert fake.bounds[1] == VALUES.max() * 2
    fake.is_observing = False
    fake(VALUES)
    assert fake.bounds[1] == VALUES.max() * 2


def test_whole_numbers_and_empty_batches_pass():
    fake = FakeQuantizer(Grid(torch.quint8, 0, 255))
    assert fake(torch.arange(4)).dtype is torch.int64 and fake.is_idle
    assert fake(torch.empty(0, 3)).shape == (0, 3) and not fake.has_range


def test_nan_while_it_watches_names_the_layer():
    fake = FakeQuantizer(Grid(torch.quint8, 0, 255), name="stem.0")
    with pytest.raises(NonFiniteError, match=r"FXQ302 'stem\.0' gave NaN") as told:
        fake(torch.tensor([1.0, float("nan")]))
    assert told.value.module == "stem.0"


def test_a_histogram_starts_training_without_its_outliers():
    with torch_ao.quiet():
        observer = HistogramObserver()
        observer(torch.cat((torch.randn(200_000, generator=torch.Generator().manual_seed(0)), torch.tensor([50.0]))))
        low, high = seen_range(observer)
    assert high < 25 and low < -3


def test_its_state_is_saved_and_copied():
    fake = FakeQuantizer(Grid(torch.quint8, 0, 255))
    fake(VALUES)
    other = FakeQuantizer(Grid(torch.quint8, 0, 255))
    other.load_state_dict(fake.state_dict())
    assert torch.equal(other.bounds, fake.bounds)
    copied = copy.deepcopy(fake)
    copied(VALUES * 9)
    assert not torch.equal(copied.bounds, fake.bounds)
    assert isinstance(copied, nn.Module) and torch_ao.is_observer(copied)
