"""FAULTS rows 46–63: bad calibration data. Each names the culprit and leaves the model and the world alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import (
    CalibrationError,
    CalibrationShapeError,
    DegenerateRangeError,
    DeviceError,
    EmptyCalibrationError,
    NonFiniteError,
    UncalibratedError,
)
from fxquant.passes.calibrate import MAX_BATCHES
from fxquant.program import Stage
from support.asserts import assert_same, untouched
from support.compiling import ENGINES

with torch_ao.quiet():
    from torch.ao.quantization import MinMaxObserver, QConfig, QConfigMapping

MINMAX = QConfigMapping().set_global(
    QConfig(
        activation=MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=False),
        weight=MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric),
    )
)
NAN, INF = float("nan"), float("inf")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return torch.relu(self.head(x))


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def good(rows=8):
    return torch.linspace(-1, 1, rows * 4).reshape(rows, 4)


def bad(value, rows=8):
    batch = good(rows)
    batch[1, :2] = value
    return batch


def compiled(data, model=None, policy="int8", **options):
    model = net() if model is None else model
    with untouched(model):
        return fxquant.compile(model, policy, calibration_data=data, target="x86", **options)


@dataclass
class Sample:
    picture: torch.Tensor


def raises_midway():
    yield good()
    raise OSError("sample 17 is truncated")


class Overflows(nn.Module):
    """A fault of the model itself: a layer gives infinities on finite data."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        scaled = self.first(x) * 3e38 * 3e38
        return self.second(scaled)


# row, data, model, class, code, what the message must name
ROWS = [
    (46, list, net, EmptyCalibrationError, "FXQ301", ["no sample"]),
    (46, lambda: iter(()), net, EmptyCalibrationError, "FXQ301", ["no sample"]),
    (46, lambda: good(8)[:0], net, EmptyCalibrationError, "FXQ301", ["no sample"]),
    (49, lambda: [good(), bad(NAN)], net, NonFiniteError, "FXQ302", ["batch 1", "'x'", "2 NaN", "of 32"]),
    (50, lambda: [bad(INF)], net, NonFiniteError, "FXQ302", ["batch 0", "'x'", "2 NaN or infinite"]),
    (50, lambda: [good()], lambda: Overflows().eval(), NonFiniteError, "FXQ302", ["batch 0", "'mul"]),
    (51, lambda: torch.tensor([[3e38] * 4, [-3e38] * 4] * 4), net, DegenerateRangeError, "FXQ305", ["'x'", "3e+38"]),
    (55, lambda: good().to(torch.int64), net, CalibrationShapeError, "FXQ304", ["batch 0", "Long"]),
    (56, lambda: [good(), torch.ones(8, 5)], net, CalibrationShapeError, "FXQ304", ["batch 1", "(8, 5)", "head"]),
    (58, lambda: [Sample(good())], net, CalibrationShapeError, "FXQ304", ["batch 0", "Sample"]),
    (58, lambda: [{"y": good()}], net, CalibrationShapeError, "FXQ304", ["batch 0", "'x'"]),
    (58, lambda: ["text"], net, CalibrationShapeError, "FXQ304", ["batch 0", "str 'text'"]),
    (59, raises_midway, net, CalibrationError, "FXQ312", ["batch 1", "OSError: sample 17 is truncated"]),
    (60, lambda: good().to("meta"), net, DeviceError, "FXQ222", ["batch 0", "'x'", "'meta'"]),
]


@pytest.mark.parametrize(("row", "data", "model", "kind", "code", "named"), ROWS, ids=lambda value: str(value)[:20])
def test_bad_calibration_data_is_refused_by_name(row, data, model, kind, code, named):
    with pytest.raises(kind) as caught:
        compiled(data(), model(), MINMAX if row == 51 else "int8")
    assert caught.value.code == code
    for text in named:
        assert text in caught.value.message, caught.value
    assert caught.value.hint or code == "FXQ312"


def test_row_47_without_data_the_model_says_calibrating():
    model = compiled(None)
    assert "CALIBRATING" in repr(model)
    with pytest.raises(EmptyCalibrationError) as caught:
        model.convert()
    assert caught.value.code == "FXQ301"
    assert "calibration_data" in caught.value.hint and "int8-dynamic" in caught.value.hint


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.tail = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x), self.tail(x[8:])


def test_row_48_an_observer_that_saw_nothing_is_named():
    with pytest.raises(UncalibratedError) as caught:
        compiled(good(8), Half().eval())
    assert caught.value.code == "FXQ303" and "saw no value" in caught.value.message
    assert caught.value.where is not None and "x[8:]" in str(caught.value)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_rows_49_and_50_a_bad_batch_can_be_skipped_or_replaced(value):
    skipped = compiled([good(), bad(value)], policy=MINMAX, on_nonfinite="skip")
    assert_same(skipped(good()), compiled([good()], policy=MINMAX)(good()))
    [told] = [row for row in skipped.ledger.notices if row.code == "FXQ302"]
    assert "batch 1 was skipped" in told.reason
    if value != value:  # NaN becomes zero; infinities the largest numbers, whose range is refused
        replaced = compiled([good(), bad(value)], policy=MINMAX, on_nonfinite="replace")
        assert_same(replaced(good()), compiled([good(), bad(0.0)], policy=MINMAX)(good()))


def test_row_50_replaced_infinities_have_a_range_that_is_refused():
    with pytest.raises(CalibrationError) as caught:
        compiled(
            [torch.stack([torch.full((4,), INF), torch.full((4,), -INF)] * 4)], policy=MINMAX, on_nonfinite="replace"
        )
    assert caught.value.code in ("FXQ302", "FXQ305")


def test_row_50_all_batches_skipped_is_no_calibration():
    with pytest.raises(EmptyCalibrationError):
        compiled([bad(NAN)], on_nonfinite="skip")


def test_row_52_a_dead_relu_stays_exactly_zero_and_is_noticed():
    model = net()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-1.0)
    ours = compiled(good(), model)
    assert torch.equal(ours(good()), torch.zeros(8, 3))
    assert any(row.code == "FXQ307" and "zero throughout" in row.reason for row in ours.ledger.notices)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("bias", [0.3, 5.0, -5.0])
def test_row_53_a_tiny_range_is_within_half_a_step(bias, target):
    """The input is zero on the smallest grid: what is left is relu(bias), to half a step of the output."""
    model, data = net(), good() * 1e-30
    with torch.no_grad():
        model.head.bias.fill_(bias)
        expected = model(data)
    result = fxquant.compile(model, MINMAX, calibration_data=data, target=target)(data)
    step = float(expected.max()) / 255
    torch.testing.assert_close(result, expected, rtol=0, atol=step * 0.5 * (1 + 1e-3))


def test_row_54_one_sample_is_enough_and_noticed():
    assert any(row.code == "FXQ306" for row in compiled(good(1)).ledger.notices)


@pytest.mark.parametrize("sizes", [(16,), (8, 8), (1, 15), (5, 3, 8), (16, 16)])
def test_row_57_min_and_max_do_not_depend_on_how_data_is_split(sizes):
    # multiples of 1/32 and 1/64: the sums are exact, whatever order a kernel takes for so many rows
    data, model, start, batches = torch.arange(-32, 32).reshape(16, 4) / 32, net(), 0, []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    for size in sizes:
        batches.append(data[start : start + size] if start < 16 else data)
        start += size
    assert_same(compiled(batches, model, policy=MINMAX)(data), compiled([data], model, policy=MINMAX)(data))


def test_row_57_the_spatial_size_may_vary():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)).eval()
    batches = [torch.ones(4, 1, size, size).cumsum(2) for size in (5, 7, 9)]
    assert compiled(batches, model)(batches[2]).shape == (4, 2, 1, 1)


def test_row_58_a_dataclass_goes_through_forward_fn():
    ours = compiled([Sample(good())], example_inputs=good(1), forward_fn=lambda model, batch: model(batch.picture))
    assert_same(ours(good()), compiled([good()])(good()))


def test_row_59_the_original_error_is_chained():
    with pytest.raises(CalibrationError) as caught:
        compiled(raises_midway())
    assert isinstance(caught.value.__cause__, OSError)


def test_row_59_an_error_of_forward_fn_is_chained():
    def reads(model, batch):
        raise KeyError("picture")

    with pytest.raises(CalibrationError) as caught:
        compiled([good()], example_inputs=good(1), forward_fn=reads)
    assert caught.value.code == "FXQ312" and "KeyError: 'picture'" in caught.value.message
    assert isinstance(caught.value.__cause__, KeyError)


def test_row_61_an_endless_loader_stops_at_max_batches():
    drawn = []

    def endless():
        for index in count():
            drawn.append(index)
            yield good()

    ours = compiled(endless())
    assert ours.stage is Stage.LOWERED and len(drawn) == MAX_BATCHES
    assert any(row.code == "FXQ309" for row in ours.ledger.notices)


def test_row_62_calibration_rows_among_the_test_rows_are_noticed():
    ours = compiled([good(8), good(4)])
    test = torch.cat([good(8)[2:5], torch.full((2, 4), 0.5)])
    fxquant.evaluate(ours, test, reference=net())
    fxquant.evaluate(ours, [test[:2], test[2:]], reference=net())
    told = [row.reason for row in ours.ledger.notices if row.code == "FXQ318"]
    assert told == ["3 of 5 test rows are rows that the model was calibrated on: the result flatters it"]


def test_row_62_other_rows_and_data_that_no_observer_saw_are_not_noticed():
    ours, dynamic = compiled(good()), fxquant.compile(net(), "int8-dynamic", calibration_data=good())
    fxquant.evaluate(ours, good() + 1e-3, reference=net())
    fxquant.evaluate(dynamic, good(), reference=net())
    assert not [row for each in (ours, dynamic) for row in each.ledger.notices if row.code == "FXQ318"]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_row_63_nothing_is_recorded_for_gradients(is_enabled):
    data = good().requires_grad_()
    with torch.set_grad_enabled(is_enabled):
        ours = compiled([data])
        waiting = compiled(None)
        assert not waiting(data).requires_grad and not ours(data).requires_grad
        assert torch.is_grad_enabled() is is_enabled
    assert data.grad is None
