"""Bags of embeddings: every way to call one gives the sums that the float bag gives, in the kernels too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.numerics import sqnr_db
from support.asserts import assert_same

ROWS = torch.arange(12).reshape(3, 4)
SHARES = torch.linspace(0.1, 1.2, 12)


class Bag(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(20, 8, **{"mode": "sum", **options})

    def forward(self, indices, offsets=None, per_sample_weights=None):
        return self.table(indices, offsets, per_sample_weights)


def compiled(given, preset="int8-weight-only", **options):
    torch.manual_seed(0)
    model = Bag(**options).eval()
    batch = dict(zip(("indices", "offsets", "per_sample_weights"), given, strict=False))  # a bare pair is (x, label)
    return model, fxquant.compile(model, preset, calibration_data=[batch], target="x86")


@pytest.mark.parametrize(
    "given",
    [
        (ROWS,),
        (ROWS, None, SHARES.reshape(3, 4)),
        (ROWS.flatten(), torch.tensor([0, 5, 5])),
        (ROWS.flatten(), torch.tensor([0, 5, 5]), SHARES),
        (ROWS.flatten().int(), torch.tensor([0, 5, 5]), SHARES),
    ],
    ids=["rows", "rows and weights", "offsets", "offsets and weights", "offsets of another dtype"],
)
def test_a_bag_sums_in_the_kernel_as_it_does_in_float(given):
    model, ours = compiled(given)
    assert [row.effective for row in ours.ledger.layers] == ["int8"]
    leaves = [value for value in given if value is not None]
    assert_same((ours(*given),), ours.canonical(*leaves), atol=1e-5)
    assert sqnr_db(model(*given).detach(), ours(*given)) > 40


@pytest.mark.parametrize(
    ("preset", "options", "told"),
    [
        ("int8", {"padding_idx": 3}, "counts the rows of padding_idx too"),
        ("float16", {}, "matches 'EmbeddingBag'"),
    ],
)
def test_a_bag_that_no_kernel_sums_rightly_stays_float_and_says_why(preset, options, told):
    model, ours = compiled((ROWS,), preset, **options)
    row = ours.ledger.layers[0]
    assert row.effective == "float32" and told in row.reason, row
    assert_same(ours(ROWS), model(ROWS).detach())
