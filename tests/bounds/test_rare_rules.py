"""The rules that few models need: bags of rows, casts, powers, fused products; against brute force or the float model."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
import fxquant.bounds.walk
from fxquant.bounds import error_bound
from fxquant.bounds.bounded import Bounded, NoBound, exact
from support.compiling import ENGINES, run


def around(value: Tensor, error: float) -> Bounded:
    return Bounded(
        value.double(),
        torch.full(value.shape, error, dtype=torch.float64),
        torch.full(value.shape, error**2 / 3, dtype=torch.float64),
    )


class Bag(nn.Module):
    def __init__(self, is_weighted: bool) -> None:
        super().__init__()
        self.bag, self.fc, self.is_weighted = nn.EmbeddingBag(50, 8, mode="sum"), nn.Linear(8, 3), is_weighted

    def forward(self, ids: Tensor, factors: Tensor) -> Tensor:
        return self.fc(self.bag(ids, per_sample_weights=factors) if self.is_weighted else self.bag(ids))


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("preset", ["int8", "int8-weight-only"])
def test_bags_of_rows_stay_within_their_bound(preset, is_weighted, target):
    torch.manual_seed(0)
    model = Bag(is_weighted).eval()
    batch = (torch.randint(0, 50, (16, 5)), torch.rand(16, 5))
    compiled = fxquant.compile(model, preset, calibration_data=[batch], target=target)
    bound = error_bound(compiled, batch)
    assert bound.is_finite and not bound.unbounded and not bound.unexplained
    with torch.no_grad():
        assert bound.violation(run(compiled, target, *batch), model(*batch)) is None


def test_a_bag_with_uncertain_factors_is_a_sum_of_products():
    source = torch.Generator().manual_seed(0)
    table, ids = torch.randn(20, 4, generator=source), torch.randint(0, 20, (3, 5), generator=source)
    factors = around(torch.randn(3, 5, generator=source), 0.2)
    found = F.embedding_bag(ids, table, mode="sum", per_sample_weights=factors)
    for _ in range(50):
        inner = factors.value + (torch.rand(3, 5, generator=source) * 2 - 1) * 0.2
        result = F.embedding_bag(ids, table.double(), mode="sum", per_sample_weights=inner)
        assert bool(((result - found.value).abs() <= found.error).all())


@pytest.mark.parametrize("op", [F.embedding, F.embedding_bag])
def test_indices_that_depend_on_the_numbers_have_no_bound(op):
    with pytest.raises(NoBound):
        op(around(torch.ones(2, 2), 1.0), torch.randn(4, 3))


def test_a_cast_to_a_narrower_float_adds_its_rounding():
    x = around(torch.randn(64), 0.1)
    for dtype, eps in ((torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)):
        found = x.to(dtype)
        assert bool((found.error >= x.error + eps * x.value.abs()).all())
        assert bool(((x.value.to(dtype).double() - found.value).abs() <= found.error).all())
    assert x.to(torch.float32) is x and x.float() is x and x.to(x) is x and x.type_as(torch.ones(1)) is x
    assert bool((x.half().error > x.error).all())
    assert exact(torch.tensor([2.0])).to(torch.int64).tolist() == [2]


def test_powers_with_a_pole_inside_have_no_bound():
    x = around(torch.tensor([0.1, 3.0]), 0.2)
    assert (x**-1.0).error.isinf().tolist() == [True, False]
    assert torch.reciprocal(x).error.isinf().tolist() == [True, False]
    assert (1.0 / x).error.isinf().tolist() == [True, False]
    with pytest.raises(NoBound):
        _ = x**x
    with pytest.raises(NoBound):
        torch.div(x, 2.0, rounding_mode="floor")


def test_products_that_add_are_held_too():
    source = torch.Generator().manual_seed(0)
    a, b, c = (around(torch.randn(3, 3, generator=source), 0.1) for _ in range(3))
    found = torch.addmm(a, b, c, beta=0.5, alpha=2.0)
    for _ in range(50):
        inner = [x.value + (torch.rand(3, 3, generator=source).double() * 2 - 1) * 0.1 for x in (a, b, c)]
        result = torch.addmm(*inner, beta=0.5, alpha=2.0)
        assert bool(((result - found.value).abs() <= found.error).all())
    with pytest.raises(NoBound, match="3 operands"):
        torch.einsum("ij,jk,kl->il", a, b, c)


def test_a_mask_that_depends_on_the_numbers_has_no_bound():
    x = around(torch.tensor([0.1, 3.0]), 0.2)
    mask = x > 0.0
    assert isinstance(mask, Bounded) and mask.error.tolist() == [math.inf, 0.0]
    for op in (lambda: torch.where(mask, x, 0.0), lambda: x.masked_fill(mask, 0.0), lambda: x[mask]):
        with pytest.raises(NoBound):
            op()
    assert torch.where(x > 1.0, x, 5.0).value.tolist() == [5.0, 3.0]
    assert x.where(torch.tensor([True, False]), torch.zeros(2)).error.tolist() == [0.2, 0.0]


def test_what_is_known_of_a_bounded_is_that_of_its_tensor():
    x = around(torch.randn(2, 3), 0.1)
    assert (len(x), x.size(1), x.dim(), x.numel(), x.shape, x.dtype) == (2, 3, 2, 6, (2, 3), torch.float32)
    assert repr(x) == "Bounded((2, 3), error up to 0.1)"
    assert not torch.isnan(x).any() and torch.zeros_like(x).sum() == 0 and x.new_full((2,), 3.0).tolist() == [3.0, 3.0]
    with pytest.raises(AttributeError):
        x.no_such_thing  # noqa: B018


def test_the_larger_of_two_and_of_all():
    x = around(torch.tensor([[1.0, 5.0], [2.0, 0.0]]), 0.1)
    assert torch.max(x, x * 2.0).value.tolist() == [[2.0, 10.0], [4.0, 0.0]]
    assert float(x.max().value) == 5.0 and float(x.min().error) == pytest.approx(0.1)
    values, at = x.max(-1)
    assert values.value.tolist() == [5.0, 2.0] and at.tolist() == [1, 0]
