"""Code that reads and writes dtypes in forward(): of quantized values, of the default, of buffers; and leaves that cast."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import FxQuantError
from fxquant.numerics import sqnr_db
from support.asserts import untouched

PRESETS = ["int8", "int8-dynamic", "int8-weight-only"]


def seeded(kind, *args):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*args).eval()


def rows(dtype=torch.float32):
    return torch.randn(32, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def built(model, policy="int8", data=None, **options):
    with untouched(model):
        data = rows() if data is None else data
        return fxquant.compile(model, policy, **{"calibration_data": data, "target": "x86", **options})


class ReadsDtypes(nn.Module):
    """A mask built by the dtype of a quantized value, with the limits of that dtype: as attention code has it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x, mask):
        y = self.body(x)
        y = y.masked_fill(mask, torch.finfo(y.dtype).min)
        y = torch.softmax(y + (1 - mask.to(y.dtype)) * 0.5, -1)
        return self.head(y * torch.full((8,), 2.0, dtype=y.dtype) + torch.ones_like(y))


@pytest.mark.parametrize("policy", ["int8", "int8-dynamic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_dtype_of_a_value_is_that_of_the_float_value_and_its_limits_are_known(dtype, policy):
    model, mask = seeded(ReadsDtypes).to(dtype), rows() > 0.8
    made = built(model, policy, data=[(rows(dtype=dtype), mask)])
    assert sqnr_db(model(rows(dtype=dtype), mask), made(rows(dtype=dtype), mask)) > 25


def test_the_dtype_of_codes_is_not_asked_for():
    """`mask.to(y.dtype)`, where an engine holds y as codes: their dtype is no float's."""

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x, mask):
            y = self.first(x)
            return self.second(torch.relu(y)) * mask.to(y.dtype)

    model, mask = seeded(Reads), rows() > 0
    made = built(model, data=[(rows(), mask)])
    assert sqnr_db(model(rows(), mask), made(rows(), mask)) > 25
    assert {row.effective for row in made.ledger.layers if row.op == "Linear"} == {"int8"}


def test_limits_of_a_dtype_that_no_example_tells_are_told_with_their_line():
    with pytest.raises(FxQuantError, match=r"FXQ210.*(?s:.)*torch.finfo"):
        fxquant.compile(seeded(ReadsDtypes), "int8", target="x86")


def test_half_batches_for_a_float32_model_are_told_what_to_do():
    with pytest.raises(FxQuantError) as caught:
        built(seeded(nn.Sequential, nn.Linear(8, 4)), data=[rows(dtype=torch.float16)])
    assert caught.value.code == "FXQ304" and "give batch.float()" in caught.value.hint


class Leaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x.half())


def test_a_leaf_that_casts_by_itself_is_told_what_to_do():
    with pytest.raises(FxQuantError) as caught:
        built(seeded(nn.Sequential, Leaf(), nn.Linear(8, 4)).half(), leaf_modules=[Leaf])
    assert caught.value.code == "FXQ304" and "x.to(self.weight.dtype)" in caught.value.hint


class MakesTensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)) + torch.zeros(x.shape[-1]) + torch.arange(8).mul(0.5))


def test_a_model_of_the_default_dtype_float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model, x = seeded(MakesTensors), rows(dtype=torch.float64)
        made = [built(model, policy, data=x) for policy in PRESETS]
        found = [each(x) for each in made]
    finally:
        torch.set_default_dtype(before)
    assert all(each.dtype is torch.float32 and sqnr_db(model(x), each) > 25 for each in found)
    assert made[0](x.float()).equal(found[0])


class TableOfDoubles(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(4, 8))

    def forward(self, x):
        return nn.functional.linear(x.double(), self.table)


@pytest.mark.parametrize("policy", [*PRESETS, "float16"])
def test_a_float64_buffer_as_a_weight_stays_float64_and_says_so(policy):
    """It was quantized once, and the first call failed."""
    model = seeded(TableOfDoubles)
    made = built(model, policy)
    assert made(rows()).equal(model(rows()))
    [row] = [row for row in made.ledger.layers if row.op == "linear"]
    assert (row.effective, row.code) == ("float32", "FXQ209") and "its weight is float64" in row.reason
