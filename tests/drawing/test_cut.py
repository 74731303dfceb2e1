"""The cut of precision placement in pictures and in analyses."""

from __future__ import annotations

import pytest

from fxquant.drawing.building import Wanted, view_of
from fxquant.drawing.dot import dot_text
from fxquant.graphs.regions import Region, regions
from fxquant.graphs.snapping import snapshot_of
from support.placing import (
    conversions,
    converted,
    found_of,
    lowered,
    placed,
)


def drawn(snapshot) -> tuple[list[tuple[str, str]], str]:
    """Arrows that are drawn as the cut, by the first lines of their boxes, and the whole picture as DOT."""
    view = view_of(snapshot, Wanted())
    named = {box.id: " ".join(box.lines[:2]) for box in view.boxes}
    return [(named[one.source], named[one.target]) for one in view.arrows if one.look == "cut"], dot_text(view)


@pytest.mark.parametrize("stage", ["converted", "lowered"])
def test_the_picture_shows_the_cut_and_what_was_placed(stage):
    program = placed(converted(), found_of(converted()).coded - {"add_1", "mean", "linear"})
    graph = program.graph_module if stage == "converted" else lowered(program)
    arrows, dot = drawn(snapshot_of(graph))
    assert [target for _, target in arrows][1:] == ["GELU gelu"] and arrows[0][0] == "x"
    assert len(arrows) == conversions(lowered(program)) == 2
    assert dot.count("placed in float32") == 3 and "dashed arrow: the cut between int8 and float" in dot
    assert dot.count('style="dashed"') == 2


def test_a_cut_through_folded_modules_is_drawn_between_them():
    program = placed(converted(), found_of(converted()).coded - {"linear"})
    view = view_of(snapshot_of(lowered(program)), Wanted(depth=1))
    assert [one.look for one in view.arrows].count("cut") >= 2


def test_where_nothing_was_placed_the_picture_has_no_cut():
    for graph in (converted().graph_module, lowered(converted())):
        arrows, dot = drawn(snapshot_of(graph))
        assert not arrows and "cut" not in dot and "placed" not in dot


def test_what_was_placed_is_no_op_on_codes_in_any_analysis():
    program = placed(converted(), found_of(converted()).coded - {"relu_1", "linear"})
    found = regions(snapshot_of(program.graph_module))
    assert [found[name] for name in ("add", "relu_1", "linear")] == [Region.FLOAT, Region.FLOAT, Region.WEIGHTS]
    assert found["conv2d_1"] is Region.QUANTIZED
