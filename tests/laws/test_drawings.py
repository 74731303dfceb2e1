"""I30: whatever the names are, the DOT is one graph of the view's boxes and arrows, and the SVG is XML that says them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pygraphviz
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.drawing.picture import draw
from fxquant.drawing.words import clean
from fxquant.graphs.diffing import diff
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo

NASTY = [
    '"',
    "\\",
    "\\N",
    "<b>x</b>",
    "</script><script>",
    "&lt;&amp;",
    "a\x00b\x1b",
    "\ud800",
    "שלום",
    "🦊",
    "<x>",
    "node",
]
TEXTS = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=12), st.text(st.characters(), max_size=6).map(lambda t: t + "\\")
)
KINDS = st.sampled_from(["call_module", "call_function", "get_attr", "call_method"])


@st.composite
def snapshots(draw_from):
    nodes: list[NodeRecord] = []
    for index in range(draw_from(st.integers(1, 7))):
        inputs = (
            draw_from(st.lists(st.sampled_from([node.name for node in nodes]), unique=True, max_size=3))
            if nodes
            else []
        )
        op, text = draw_from(KINDS) if index else "placeholder", draw_from(TEXTS)
        if op == "call_method" and not inputs:
            op = "call_function"
        values = (TensorInfo("float32", (2, 3)),) if draw_from(st.booleans()) else ()
        scope = draw_from(st.sampled_from(["", "a", "a.b", "a.b.c"]))
        name = f"{text}{index}"
        nodes.append(NodeRecord(name, op, text, text, text, tuple(inputs), (f"{index}",), scope, text, values=values))
    return GraphSnapshot(tuple(nodes), draw_from(TEXTS))


def parsed(picture):
    """Names of boxes, and (source, target) of arrows, as Graphviz reads the DOT text; the legend aside."""
    graph = pygraphviz.AGraph(string=picture.dot)
    nodes = sorted(str(node) for node in graph.nodes() if not str(node).startswith("key"))
    return nodes, sorted((str(a), str(b)) for a, b in graph.edges() if not str(a).startswith("key"))


def drawn(picture):
    view = picture.view
    return sorted(box.id for box in view.boxes), sorted((arrow.source, arrow.target) for arrow in view.arrows)


@given(snapshots())
def test_the_dot_text_has_the_boxes_and_arrows_of_the_view(graph):
    for picture in (draw(graph), draw(graph, depth=1), draw(graph, depth=0)):
        assert parsed(picture) == drawn(picture)


@given(snapshots())
def test_with_constants_the_view_is_the_graph(graph):
    view = draw(graph, constants=True).view
    box = {name: box.id for box in view.boxes for name in box.members}
    if not any("dequantize" in node.kind for node in graph):
        assert [box_.members for box_ in view.boxes] == [(node.name,) for node in graph]
    assert {(a.source, a.target) for a in view.arrows} == {(box[a], box[b]) for a, b in graph.edges}
    assert len(view.arrows) == len(graph.edges)


@given(snapshots(), st.integers(0, 3))
def test_each_node_is_in_exactly_one_box_at_any_depth(graph, depth):
    held = [name for box in draw(graph, depth=depth).view.boxes for name in box.members]
    assert sorted(held) == sorted(node.name for node in graph)


@given(snapshots(), snapshots())
def test_a_diff_shows_each_node_of_both_sides_once(a, b):
    for context in (None, 1):
        picture = draw((a, b, diff(a, b)), context=context)
        held = sorted(name for box in picture.view.boxes for name in box.members)
        assert held == sorted([f"-{node.name}" for node in a] + [f"+{node.name}" for node in b])
        assert parsed(picture) == drawn(picture)
    assert {box.change for box in draw((a, a, diff(a, a))).view.boxes} == {"unchanged"}


@settings(max_examples=8)
@given(snapshots())
def test_the_svg_is_xml_that_says_the_labels_and_nothing_else(graph):
    picture = draw(graph)
    text = picture.svg()
    root = ElementTree.fromstring(text)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "g",
        "title",
        "text",
        "polygon",
        "path",
        "ellipse",
        "polyline",
    }
    said = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    squeezed = {" ".join(line.split()) for line in said}
    for line in (line for box in picture.view.boxes for line in box.lines):
        assert " ".join(line.split()) in squeezed | {""}
    assert not re.search(r"href|<!|javascript:", text)


@given(st.text(max_size=80), st.integers(4, 60))
def test_clean_text_is_printable_short_and_the_same_up_to_the_cut(text, most):
    cut = clean(text, most)
    assert cut.isprintable() and len(cut) <= most and clean(cut, most) == cut
    if text.isprintable():
        assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))
