"""canonicalize-qdq: clamps become ranges, second roundings go, and nothing is computed worse than before."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant import qdq
from fxquant.grids import Grid, grid_of
from fxquant.numerics import sqnr_db
from fxquant.origin import origins
from fxquant.passes._canonical import is_activation_quantize
from fxquant.passes._canonical_ranges import folded, unrounded, within
from fxquant.recipe import Recipe, RecipeRule
from support.compiling import ENGINES
from support.drawn_models import drawn, policy, static
from support.models import MODELS
from support.scale import examples

PLAIN = fxquant.default_pipeline().without("canonicalize-qdq")
WIDE = "onednn" if "onednn" in ENGINES else "qnnpack"


def conv():
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, 3, padding=1)


def data(scale=4.0):
    return scale * torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def both(model, x, target=WIDE):
    """(without the pass, with it)"""
    options = {"calibration_data": x, "target": target}
    return fxquant.compile(model.eval(), "int8", passes=PLAIN, **options), fxquant.compile(
        model.eval(), "int8", **options
    )


def quantizes(compiled):
    return [node for node in compiled.canonical.graph.nodes if is_activation_quantize(node)]


class Method(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()

    def forward(self, x):
        return self.conv(x).clamp(0, 2)


CLAMPS = {
    "relu6": (nn.ReLU6(), (0.0, 6.0)),
    "hardtanh": (nn.Hardtanh(-1.0, 2.0), (-1.0, 2.0)),
    "hardtanh_from_zero": (nn.Hardtanh(0.0, 0.5), (0.0, 0.5)),
}


@pytest.mark.parametrize("name", CLAMPS)
def test_a_clamp_becomes_the_range_of_the_quantize_after_it(name):
    clamp, (low, high) = CLAMPS[name]
    model, x = nn.Sequential(conv(), clamp, conv_after()), data()
    before, after = both(model, x)
    assert len(quantizes(after)) == len(quantizes(before)) - 1
    assert not any(node.op == "call_module" for node in after.canonical.graph.nodes)
    _, made, _ = quantizes(after)
    step = made.args[1]
    assert folded(made) == (low, high) and step <= min(node.args[1] for node in quantizes(before)[1:3]) * 1.001
    grid = grid_of(made)
    assert low - step / 2 <= grid.ends[0] <= low + step / 2 and grid.ends[1] <= high + step / 2
    with torch.no_grad():
        expected = model(x)
    assert sqnr_db(expected, after(x)) >= sqnr_db(expected, before(x)) - 0.1


def conv_after():
    torch.manual_seed(1)
    return nn.Conv2d(8, 4, 3)


def test_the_row_of_a_folded_clamp_says_where_it_went():
    _, after = both(nn.Sequential(conv(), nn.ReLU6(), conv_after()), data())
    row = after.ledger["_1"]
    assert (row.effective, row.reason) == (
        "int8",
        "folded into the range of '_0': the clamp of its codes is this activation",
    )
    assert "ReLU6" not in after.graph_module.code and "hardtanh" not in after.graph_module.code


def test_a_clamp_that_is_a_method_is_folded_too():
    before, after = both(Method().eval(), data())
    assert len(quantizes(after)) == len(quantizes(before)) - 1
    assert float(after(data()).max()) <= 2.0 and float(after(data()).min()) == 0.0


def test_a_clamp_without_zero_in_it_stays():
    before, after = both(nn.Sequential(conv(), nn.Hardtanh(0.5, 2.0), conv_after()), data())
    assert len(quantizes(after)) == len(quantizes(before)) and not any(map(folded, quantizes(after)))


def test_a_clamp_is_folded_too_where_the_layer_after_it_happens_to_give_the_same_grid():
    model = nn.Sequential(conv(), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        model[0].weight *= 20
        model[2].weight *= 20  # both reach 6
    before, after = both(model, data())
    assert len({node.args[1:5] for node in quantizes(before)[1:-1]}) == 1, "one grid"
    assert [folded(node) for node in quantizes(after)] == [None, (0.0, 6.0), (0.0, 6.0), None]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1.0, 2.0)])
def test_an_activation_that_a_rule_keeps_float_stays_an_op_of_its_own(activation):
    model = nn.Sequential(conv(), activation, conv_after()).eval()
    rules = RecipeRule(("1",), scheme="float"), RecipeRule(("*",), scheme="int8")
    compiled = fxquant.compile(model, Recipe(rules), calibration_data=data(), target=WIDE)
    row = compiled.ledger["_1"]
    assert (row.requested, row.effective) == ("float32", "float32") and "rule 1 of the recipe" in row.reason
    assert len([node for node in compiled.graph_module.graph.nodes if "_1" in origins(node)]) == 1


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu6, self.after = conv(), nn.ReLU6(), conv_after()

    def forward(self, x):
        y = self.conv(x)
        return self.after(self.relu6(y)), y


def test_a_clamp_of_a_value_that_somebody_else_reads_stays():
    _, after = both(TwoReaders().eval(), data())
    assert any(folded(node) is None and node.args[2] != 0 for node in quantizes(after)[1:])
    assert float(after(data())[1].min()) < 0


@pytest.mark.skipif("fbgemm" not in ENGINES, reason="this torch has no FBGEMM, whose 16-bit sums this is about")
def test_kernels_that_were_given_seven_bits_keep_them():
    before, after = both(nn.Sequential(conv(), nn.ReLU6(), conv_after()), data(), target="fbgemm")
    assert [node.args[1:] for node in quantizes(after)] == [node.args[1:] for node in quantizes(before)]


def test_a_pair_of_the_same_grid_goes_and_the_codes_stay_codes():
    model = nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4))
    before, after = both(model, data())
    assert len(quantizes(after)) < len(quantizes(before))
    assert after.canonical(data())[0].equal(before.canonical(data())[0])
    assert after(data()).equal(before(data()))
    assert {row.effective for row in after.ledger.layers} == {"int8"}


def test_who_reads_what_a_quantize_rounds_gets_the_clamp_back():
    model, x = nn.Sequential(conv(), nn.ReLU6(), conv_after()), data()
    _, after = both(model, x)
    graph_module = after.canonical
    quantize = quantizes(after)[1]
    value = unrounded(quantize)
    assert value.target is F.hardtanh and value.args[1:] == (0.0, 6.0)
    next(iter(quantize.users)).replace_all_uses_with(value)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    with torch.no_grad():
        assert sqnr_db(model(x), graph_module(x)[0]) > 25


@pytest.mark.parametrize("name", ["mobilenet_v2", "inplace_input"])
def test_no_model_of_the_zoo_is_worse(name):
    case = MODELS[name]
    model, x = case.make(), case.inputs(0, 32)
    before, after = both(model, case.batches(2, 16))
    with torch.no_grad():
        expected = model(*x)
    assert sqnr_db(expected, after.canonical(*x)[0]) >= sqnr_db(expected, before.canonical(*x)[0]) - 0.1


# Laws ------------------------------------------------------------------------------------------------------------------

SCALES = st.floats(1e-4, 1e3)


@given(
    scale=SCALES,
    zero_point=st.integers(0, 255),
    part=st.tuples(st.floats(0, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 99),
)
def test_the_narrowed_grid_rounds_no_value_further_than_its_own_step(scale, zero_point, part, seed):
    grid = Grid(scale, zero_point, 0, 255, torch.uint8)
    low, high = grid.ends[0] * part[0], grid.ends[1] * part[1]
    made = within(grid, low, high) if low < high else None
    if made is None:
        assert low >= high
        return
    assert made.scale <= scale * (1 + 1e-9) and 0 <= made.zero_point <= 255
    x = torch.linspace(2 * grid.ends[0], 2 * grid.ends[1], 999) + scale * torch.rand(
        1, generator=torch.Generator().manual_seed(seed)
    )
    codes = qdq.quantize_per_tensor(x, made.scale, made.zero_point, 0, 255, torch.uint8)
    apart = (qdq.dequantize_per_tensor(codes, made.scale, made.zero_point) - x.clamp(low, high)).abs().max()
    assert float(apart) <= made.scale * 1.02  # half a step of rounding, and half a step where an end is off the grid


@examples(1)
@given(spec=drawn(most_ops=6), asked=static)
def test_graphs_without_clamps_compute_the_same_bits(spec, asked):
    options = {"calibration_data": spec.batches(), "target": WIDE}
    before = fxquant.compile(spec.build(), policy(asked), passes=PLAIN, **options)
    after = fxquant.compile(spec.build(), policy(asked), **options)
    if any(folded(node) not in (None, (0.0, math.inf)) for node in quantizes(after)):
        return  # another range: the laws above hold it
    leaves = after.program.signature.leaves(spec.inputs(7, 3), {})
    for left, right in zip(before.canonical(*leaves), after.canonical(*leaves), strict=True):
        assert left.equal(right)
