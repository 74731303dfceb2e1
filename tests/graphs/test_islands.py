"""Float islands: what was planted is what comes back, with its price."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant.graphs.islands import Place, float_areas, islands
from fxquant.graphs.remedies import reasons_of
from support.compiled_zoo import of_zoo
from support.planted import Planted, chain


class Between(nn.Module):
    """conv → an op without an int8 kernel → conv, and a shortcut around all of it."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.first, self.op, self.last = nn.Conv2d(3, 4, 3), op, nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return y + self.last(self.op(y))


@pytest.mark.parametrize("op", [nn.Softplus(), nn.GELU(), nn.SELU()])
@pytest.mark.parametrize("stage", ["converted", "lowered"])
def test_a_float_op_between_quantized_ones_is_one_island(op: nn.Module, stage: str) -> None:
    data = [(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed)),) for seed in range(3)]
    model = fxquant.compile(Between(op).eval(), "int8", calibration_data=data)
    (island,) = islands(model.snapshot(stage), reasons_of(model.ledger))
    assert (island.nodes, island.sites, island.pairs) == (("op",), ("op",), 1)
    assert island.place is Place.INSIDE
    assert island.bytes_moved == 2 * (2 * 4 * 4 * 4) * (1 + 4)  # codes read, floats written, and back
    (reason,) = island.reasons
    assert (reason.site, reason.code) == ("op", model.ledger["op"].code)
    assert reason.remedy


@pytest.mark.parametrize("stage", ["traced", "prepared", "converted", "lowered"])
def test_a_model_that_is_quantized_throughout_has_none(stage: str) -> None:
    assert islands(of_zoo("resnet18").snapshot(stage)) == ()


def test_a_float_graph_is_one_area_from_input_to_output_and_no_island() -> None:
    (area,) = float_areas(of_zoo("mlp").snapshot("traced"))
    assert (area.place, area.pairs, len(area.nodes)) == (Place.THROUGH, 0, 5)
    assert area.macs == 16 * 1408


@given(st.text("qf", max_size=14))
def test_a_chain_has_an_island_for_each_run_of_floats_between_codes(letters: str) -> None:
    found = islands(chain(letters))
    inside = re.findall("f+", letters.strip("f"))
    assert sorted(len(island.nodes) for island in found) == sorted(map(len, inside))
    assert {island.pairs for island in found} <= {1}
    places = [area.place for area in float_areas(chain(letters))]
    assert places.count(Place.HEAD) == (letters.startswith("f") and "q" in letters)
    assert places.count(Place.TAIL) == (letters.endswith("f") and "q" in letters)


@given(st.integers(1, 4), st.integers(1, 4))
def test_an_island_counts_every_way_in_and_out(ways_in: int, ways_out: int) -> None:
    graph = Planted()
    x = graph.quantize(graph.input())
    sources = [graph.dequantize(graph.quantized(x)) for _ in range(ways_in)]
    middle = graph.float(*sources)
    ends = [graph.quantized(graph.quantize(graph.float(middle))) for _ in range(ways_out)]
    (island,) = islands(graph.output(*(graph.dequantize(end) for end in ends)))
    assert (len(island.dequantizes), len(island.quantizes)) == (ways_in, ways_out)
    assert island.pairs == max(ways_in, ways_out)
    assert island.bytes_moved == (ways_in + ways_out) * 16 * (1 + 4)
    assert len(island.nodes) == 1 + ways_out


def test_a_long_skip_around_an_island_leaves_it_one() -> None:
    graph = Planted()
    start = graph.quantized(graph.quantize(graph.input()))
    middle = graph.quantized(graph.quantize(graph.float(graph.dequantize(start))))
    end = graph.quantized(middle, start)
    (island,) = islands(graph.output(graph.dequantize(end)))
    assert (len(island.nodes), island.pairs) == (1, 1)


def test_a_float_skip_from_the_input_joins_the_island_to_the_head() -> None:
    graph = Planted()
    x = graph.input()
    coded = graph.dequantize(graph.quantized(graph.quantize(x)))
    last = graph.quantized(graph.quantize(graph.float(coded, x)))
    snapshot = graph.output(graph.dequantize(last))
    assert islands(snapshot) == ()
    assert [area.place for area in float_areas(snapshot)] == [Place.HEAD]


def test_codes_that_nothing_computes_on_make_no_inside() -> None:
    graph = Planted()
    first = graph.float(graph.dequantize(graph.quantize(graph.input())))
    last = graph.float(graph.dequantize(graph.quantized(graph.quantize(first))))
    found = float_areas(graph.output(graph.dequantize(graph.quantize(last))))
    assert [(area.place, area.pairs) for area in found] == [(Place.HEAD, 1), (Place.TAIL, 1)]


def test_codes_that_are_quantized_again_on_the_way_are_still_codes() -> None:
    graph = Planted()
    middle = graph.float(graph.dequantize(graph.quantized(graph.quantize(graph.input()))))
    again = graph.quantize(graph.dequantize(graph.quantize(middle)))
    assert len(islands(graph.output(graph.dequantize(graph.quantized(again))))) == 1


def test_floats_with_only_conversions_between_them_are_one_island_that_pays_for_those_too() -> None:
    graph = Planted()
    start = graph.quantized(graph.quantize(graph.input()))
    first = graph.float(graph.dequantize(start))
    second = graph.float(graph.dequantize(graph.quantize(first)))
    end = graph.quantized(graph.quantize(second))
    (island,) = islands(graph.output(graph.dequantize(end)))
    assert (island.nodes, island.pairs) == ((first, second), 2)


def test_between_dynamic_kernels_there_is_no_island() -> None:
    graph = Planted()
    snapshot = graph.output(graph.dynamic(graph.float(graph.dynamic(graph.input()))))
    assert islands(snapshot) == ()
    assert islands(of_zoo("encoder", "int8-dynamic").snapshot()) == ()


def test_the_dearest_island_comes_first() -> None:
    found = islands(of_zoo("encoder").snapshot())
    moved = [island.bytes_moved or 0 for island in found]
    assert len(moved) == 4
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > moved[-1]


def test_an_island_reads_well() -> None:
    model = of_zoo("dense_block")
    island = islands(model.snapshot(), reasons_of(model.ledger))[-1]
    assert str(island) == (
        "norms_0, relu: 1 dequantize, 1 quantize, 1,310,720 bytes moved\n"
        "  norms_0: FXQ205 cannot be folded: no convolution or linear layer stands directly before it, but 'cat'; "
        "to remove it: put the batch norm directly behind a convolution or linear layer that only it reads\n"
        "  relu: FXQ207 its input stays float32; to remove it: use an op that has an int8 kernel, "
        "or move it to the model's start or end"
    )


def test_floats_that_also_reach_the_output_through_codes_are_a_tail() -> None:
    graph = Planted()
    value = graph.float(graph.dequantize(graph.quantized(graph.quantize(graph.input()))))
    codes = graph.quantize(value)
    found = float_areas(graph.output(graph.dequantize(graph.quantized(codes)), graph.dequantize(codes)))
    assert [area.place for area in found] == [Place.TAIL]


def test_floats_that_a_dynamic_kernel_feeds_too_are_a_head() -> None:
    graph = Planted()
    x = graph.input()
    value = graph.float(graph.dequantize(graph.quantized(graph.quantize(x))), graph.dynamic(x))
    found = float_areas(graph.output(graph.dequantize(graph.quantized(graph.quantize(value)))))
    assert [area.place for area in found] == [Place.HEAD]


def test_a_folded_batch_norm_gives_no_reason_for_an_island():
    """Its neighbour's weight does it: asking for int8 there would change nothing."""
    from fxquant.graphs.remedies import reasons_of
    from fxquant.row import Row

    rows = [Row("up", "up", "ConvTranspose2d", "static", "float32", "no kernel", "FXQ207"),
            Row("bn", "bn", "BatchNorm2d", "static", "folded into up", "its weight does both")]  # fmt: skip
    assert reasons_of(rows) == {"up": ("FXQ207", "no kernel")}
