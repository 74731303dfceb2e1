"""Pictures end to end: bytes, renderers present, missing and hanging, sizes, notebooks, the palette."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest
import torch

import fxquant
from fxquant.drawing import rendering
from fxquant.drawing.looks import CHANGES, LOOKS, lightness
from fxquant.drawing.overlays import Overlay
from fxquant.drawing.picture import draw
from fxquant.drawing.words import number
from fxquant.errors import RendererMissingError, RenderError, RenderTimeoutError, UsageError
from fxquant.graphs.change import Change
from fxquant.graphs.diffing import diff
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo
from support.timing import least_seconds


def chain(length, scope=lambda index: ""):
    """A placeholder, and ops in a row; each third reads the one before the last too."""
    value = (TensorInfo("float32", (2, 8)),)
    nodes = [NodeRecord("x", "placeholder", "x", "x", values=value)]
    for index in range(1, length):
        inputs = (nodes[-1].name,) + ((nodes[-2].name,) if index % 3 == 2 else ())
        nodes.append(
            NodeRecord(
                f"op_{index}",
                "call_function",
                "torch.relu",
                "relu",
                "(%x)",
                inputs,
                (f"op_{index}",),
                scope(index),
                values=value,
            )
        )
    return GraphSnapshot(tuple(nodes), "Net, TRACED")


def fake_dot(folder, body):
    script = folder / "dot"
    script.write_text(f"#!{sys.executable}\n{body}\n")
    script.chmod(0o755)


def test_png_and_pdf_and_svg_and_dot_are_what_their_suffix_says(tmp_path):
    picture = draw(chain(5))
    heads = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph", "gv": b"digraph"}
    for kind, head in heads.items():
        assert picture.save(tmp_path / f"g.{kind}").read_bytes().startswith(head)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"g.{kind}" for kind in heads)


def test_the_same_graph_gives_the_same_bytes_under_any_hash_seed():
    graph = chain(40, lambda index: f"block{index // 8}.part{index % 2}")
    code = "import sys; from fxquant.graphs.snapshot import GraphSnapshot as G; from fxquant.graphs.diffing import diff; from fxquant.drawing.picture import draw; g = G.from_json(sys.stdin.read()); sys.stdout.write(draw(g).dot + draw((g, g, diff(g, g))).dot)"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=graph.to_json(),
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert told == {draw(graph).dot + draw((graph, graph, diff(graph, graph))).dot}


def test_a_renderer_that_hangs_is_killed_and_the_dot_text_is_kept(tmp_path, monkeypatch):
    fake_dot(
        tmp_path,
        f"import time, pathlib, os; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(RenderTimeoutError) as caught:
        draw(chain(3)).save(tmp_path / "g.svg", timeout=1)
    assert time.monotonic() - start < 10
    assert (tmp_path / "g.svg.dot").read_text().startswith("digraph") and not (tmp_path / "g.svg").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert str(caught.value).replace(str(tmp_path), "FOLDER") == (
        "FXQ702 the picture was not ready after 1 s; the DOT text is kept in FOLDER/g.svg.dot\n"
        "  hint: draw fewer boxes (depth=2), or give timeout= more seconds"
    )


def test_without_any_renderer_the_dot_text_is_kept_and_the_notebook_shows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    picture = draw(chain(3))
    with pytest.raises(RendererMissingError) as caught:
        picture.save(tmp_path / "g.png")
    assert str(caught.value).replace(str(tmp_path), "FOLDER") == (
        "FXQ701 nothing here renders pictures: no 'dot', no pygraphviz; the DOT text is kept in FOLDER/g.png.dot\n"
        "  hint: python -m pip install pygraphviz, or Graphviz itself (https://graphviz.org/download) so that 'dot' is found"
    )
    assert picture._repr_svg_() is None
    shown = picture._repr_mimebundle_()["text/html"]
    assert "pip install pygraphviz" in shown and "digraph" in shown and "<svg" not in shown


def test_a_renderer_that_fails_is_quoted(tmp_path, monkeypatch):
    fake_dot(tmp_path, "import sys; sys.stdin.read(); sys.exit('Error: no layout plugin')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RenderError) as caught:
        draw(chain(3)).svg()
    assert str(caught.value) == (
        "FXQ703 the renderer failed: Error: no layout plugin\n  hint: keep the text: .save('g.dot')"
    )


def test_warnings_of_a_renderer_are_no_failure(tmp_path, monkeypatch):
    fake_dot(
        tmp_path,
        "import sys; sys.stdin.read(); sys.stderr.write('Fontconfig error'); print('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    assert draw(chain(3)).svg().startswith("<svg")


def test_an_unknown_format_and_a_negative_depth_are_refused(tmp_path):
    with pytest.raises(UsageError) as caught:
        draw(chain(3)).save(tmp_path / "g.jpeg")
    assert str(caught.value).splitlines()[0] == "FXQ116 no picture format 'jpeg'"
    with pytest.raises(UsageError, match="no picture of depth -1"):
        draw(chain(3), depth=-1)


def test_ten_thousand_nodes_are_collapsed_and_it_says_so():
    """Fifty thousand are drawn by the tool, in the row 77 of the faults."""
    picture = draw(chain(10_000, lambda index: f"stage{index // 2_000}.block{index // 20}.op{index}"))
    assert len(picture.view) <= 1500
    assert picture.notes == ("collapsed to modules at depth 2: 10,000 boxes would be too many to read",)
    assert picture.notes[0] in picture.dot.split("legend")[0] and picture.notes[0] in picture.dot.split("legend")[1]
    assert len(draw(chain(10_000)).view) == 1


def test_a_label_of_a_megabyte_is_cut():
    node = NodeRecord("x" * 1_000_000, "placeholder", "y" * 1_000_000, "z" * 1_000_000, where="w" * 1_000_000)
    assert len(draw(GraphSnapshot((node,), "t" * 1_000_000)).dot) < 4000


def test_the_dot_text_of_1500_nodes_takes_less_than_a_fifth_of_a_second():
    graph = chain(1500, lambda index: f"stage{index // 300}.block{index // 30}")
    assert len(draw(graph).view) == 1500
    assert least_seconds(lambda: draw(graph), enough=0.2) < 0.2


def test_two_pictures_in_one_page_share_no_id():
    pages = [draw(chain(length)).svg() for length in (4, 5)]
    ids = [set(re.findall(r' id="([^"]+)"', page)) for page in pages]
    assert all(ids) and not ids[0] & ids[1]
    assert all(" viewBox=" in page and " xmlns=" in page for page in pages)


def test_tooltips_are_titles_of_their_boxes():
    titles = [
        title.text for title in ElementTree.fromstring(draw(chain(2)).svg()).iter("{http://www.w3.org/2000/svg}title")
    ]
    assert "op_1 = torch.relu(%x)" in titles


def test_an_overlay_says_its_unit_and_marks_the_worst():
    view = draw(chain(4), overlay=Overlay.sqnr({"op_1": 40.0, "op_2": 12.5, "op_3": float("inf")})).view
    told = {box.members[0]: (box.lines[-1], box.bar) for box in view.boxes if box.value is not None}
    assert told == {"op_1": ("SQNR 40 dB", 0.0), "op_2": ("SQNR 12.5 dB", 1.0), "op_3": ("SQNR inf dB", 0.0)}
    assert [box.value for box in draw(chain(4), depth=0, overlay=Overlay.size({"op_1": 1, "op_2": 2})).view.boxes] == [
        3
    ]


def test_an_island_is_outlined_and_in_the_legend():
    view = draw(chain(4), islands=[("float island 1: 2 pairs", {"op_1", "op_2"})]).view
    assert [box.outline for box in view.boxes] == [None, 0, 0, None]
    assert "float island 1: 2 pairs" in [key.text for key in view.legend]


@pytest.mark.parametrize("fills", [[look.fill for look in LOOKS.values()], [look.fill for look in CHANGES.values()]])
def test_fills_differ_in_grey(fills):
    for first, second in combinations(fills, 2):
        assert abs(lightness(first) - lightness(second)) > 3.5, (first, second)


def test_ink_is_readable_on_its_fill_and_shapes_differ():
    assert all(abs(lightness(look.ink) - lightness(look.fill)) > 45 for look in LOOKS.values())
    assert len({(look.shape, look.style) for look in LOOKS.values()}) == len(LOOKS)


def test_what_a_container_calls_between_its_children_stays_outside_of_boxes_so_that_no_picture_runs_in_circles():
    graph = chain(9, lambda index: "block" if index % 4 == 0 else f"block.part{index // 4}")
    told = [box.members for box in draw(graph, depth=2).view.boxes]
    assert told == [("x",), ("op_1", "op_2", "op_3"), ("op_4",), ("op_5", "op_6", "op_7"), ("op_8",)]


def test_a_legend_names_six_islands_and_counts_the_others():
    graph = chain(20)
    islands = [(f"island {index + 1}", (graph.nodes[index + 1].name,)) for index in range(9)]
    legend = [key.text for key in draw(graph, islands=islands).view.legend]
    assert [text for text in legend if "island" in text] == [
        *(f"island {n}" for n in range(1, 7)),
        "and 3 more islands",
    ]
    assert [text for text in (key.text for key in draw(graph, islands=islands[:6]).view.legend) if "more" in text] == []


def test_a_diff_can_be_collapsed_to_modules_and_is_where_it_is_too_large_to_read():
    before = chain(3_000, lambda index: f"stage{index // 1000}.block{index // 100}.op{index}")
    after = GraphSnapshot(
        tuple(replace(node, kind="gelu") if node.name == "op_1500" else node for node in before), before.title
    )
    found = diff(before, after)
    for picture in (draw((before, after, found), context=None), draw((before, after, found), depth=2, context=None)):
        changed = [box for box in picture.view.boxes if box.change != "unchanged"]
        assert len(picture.view) <= 1500 and len(changed) == 1 and "+op_1500" in changed[0].members
        held = sorted(name for box in picture.view.boxes for name in box.members)
        assert held == sorted(f"{sign}{node.name}" for sign in "-+" for node in before)
    assert draw((before, after, found), context=None).notes == (
        "collapsed to modules at depth 2: 3,000 boxes would be too many to read",
    )


def test_a_box_of_several_changes_beside_each_other_shows_the_worst():
    """Replaced before retyped; one change alone is shown as it is."""
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.GELU()))
    ours = fxquant.compile(model.eval(), "int8", calibration_data=torch.randn(16, 4), target="x86")
    before, after = ours.snapshot("traced"), ours.snapshot("converted")
    found = diff(before, after)
    picture = draw((before, after, found), depth=1, side_by_side=True)
    seen = set()
    for box in picture.view.boxes:
        at = 0 if box.cluster[0] == "before" else 1
        kinds = {e.change for e in found if set(box.members) & set((e.before, e.after)[at])}
        worst = kinds.pop() if len(kinds) == 1 else Change.REPLACED if Change.REPLACED in kinds else Change.RETYPED
        assert box.change == worst.value, f"{box.members}: {kinds}"
        seen.add(len(kinds) > 1)
    assert seen == {True, False}


def test_a_renderer_that_cannot_be_started_is_told(tmp_path, monkeypatch):
    (tmp_path / "dot").write_bytes(b"\x7fELF")  # found on the path, and no program
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RenderError) as caught:
        draw(chain(3)).svg()
    assert caught.value.code == "FXQ703" and "the renderer did not start" in str(caught.value)


def test_a_renderer_that_writes_no_xml_is_told(tmp_path, monkeypatch):
    fake_dot(tmp_path, "import sys; sys.stdin.read(); print('<svg')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RenderError, match="FXQ703 the renderer wrote no XML"):
        draw(chain(3)).svg()


def test_a_plain_module_is_drawn_from_its_trace():
    picture = draw(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
    assert [box.members for box in picture.view.boxes][1:-1] == [("_0",), ("_1",)]


def test_numbers_in_labels_have_few_digits_and_other_text_is_cut():
    assert number("0.021168947219848633") == "0.02117" and number("1e-12") == "1e-12"
    assert number("scale_0") == "scale_0" and len(number("x" * 100)) <= 24
