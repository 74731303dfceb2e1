"""View → DOT text, through the graphviz package. The same bytes for the same view."""

from __future__ import annotations

from collections.abc import Iterable

import graphviz

from fxquant.drawing.looks import CHANGES, LOOKS, OUTLINES, blend
from fxquant.drawing.view import Arrow, Box, Key, View
from fxquant.drawing.words import clean_path

FONT = "Helvetica,Arial,sans-serif"
SIDES = ("before", "after")
ARROWS: dict[str, dict[str, str]] = {
    "": {},
    "old": {"style": "dashed", "color": "#B2500F"},
    "new": {"style": "bold", "color": "#00704F", "penwidth": "2.2"},
    "cut": {"style": "dashed", "color": "#000000", "penwidth": "2.6"},
}


def quoted(text: str) -> str:
    """Text that Graphviz shows as it is: no escapes (\\N), no entities (&lt;), no HTML-like label."""
    return str.__str__(text).replace("\\", "\\\\").replace("&", "&amp;")


def joined(lines: Iterable[str]) -> str:
    """Lines one below the other. Blank ones are left out: pygraphviz 2.0.4's Graphviz crashes on an empty line."""
    return "\\n".join(quoted(line) for line in lines if line.strip())


def label(lines: Iterable[str]) -> str:
    """Lines one below the other, centred."""
    text: str = graphviz.nohtml(joined(lines))
    return text


def dot_text(view: View) -> str:
    """The whole picture: clusters nested by module path, then arrows, then the legend."""
    title = [view.title, *view.notes] if view.title or view.notes else []
    graph = graphviz.Digraph(
        "fxquant",
        graph_attr={
            "fontname": FONT, "fontsize": "13", "label": label(title), "labelloc": "t", "nodesep": "0.22",
            "ranksep": "0.26", "bgcolor": "white", "compound": "true", "rankdir": "TB",
        },
        node_attr={"fontname": FONT, "fontsize": "10", "margin": "0.11,0.045", "height": "0.28"},
        edge_attr={"fontname": FONT, "fontsize": "8", "color": "#555555", "fontcolor": "#444444", "arrowsize": "0.6"},
    )  # fmt: skip
    _write_boxes(graph, view.boxes)
    for arrow in view.arrows:
        graph.body.append(f"\t{arrow.source} -> {arrow.target} [{_listed(_arrow(arrow))}]\n")
    _write_legend(graph, view.legend)
    return str(graph.source)


def _write_boxes(graph: graphviz.Digraph, boxes: Iterable[Box]) -> None:
    """Clusters in the order of their first box; each is a graph that is written into its parent at the end."""
    graphs: dict[tuple[str, ...], graphviz.Digraph] = {(): graph}
    for box in boxes:
        for depth in range(1, len(box.cluster) + 1):
            if box.cluster[:depth] not in graphs:
                graphs[box.cluster[:depth]] = _cluster(len(graphs), box.cluster[:depth])
        told = {"label": joined(_lines(box)), "tooltip": quoted(box.tooltip or " ".join(box.lines))}
        graphs[box.cluster].body.append(f"\t{box.id} [{_listed(told | _attributes(box))}]\n")
    for path, inner in sorted(graphs.items(), key=lambda item: -len(item[0])):
        if path:
            graphs[path[:-1]].subgraph(inner)


def _cluster(number: int, path: tuple[str, ...]) -> graphviz.Digraph:
    name = path[0] if len(path) == 1 else ".".join(path[path[0] in SIDES :])
    shade = "#F7F7F7" if len(path) % 2 else "#EDEDED"
    look = {"label": label([clean_path(name)]),
            "style": "rounded,filled", "fillcolor": shade, "color": "#BBBBBB", "fontsize": "10", "labeljust": "l",
            "margin": "6", "fontcolor": "#555555"}  # fmt: skip
    return graphviz.Digraph(f"cluster_{number}", graph_attr=look)


def _lines(box: Box) -> tuple[str, ...]:
    sign = CHANGES[box.change].sign if box.change else ""
    mark = (f"island {box.outline + 1}",) if box.outline is not None else ()
    return (sign + box.lines[0], *box.lines[1:], *mark) if box.lines else mark


def _listed(attributes: dict[str, str]) -> str:
    """Each value in quotes, after `quoted`: the package's own quoting of each would take most of the time."""
    return " ".join([name + '="' + value.replace('"', '\\"') + '"' for name, value in attributes.items()])


def _attributes(box: Box | Key) -> dict[str, str]:
    look = LOOKS.get(box.look)
    shape, style = (look.shape, look.style) if look else ("box", "filled")
    found = {"shape": shape, "style": style, "fillcolor": "#FFFFFF", "color": "#333333", "fontcolor": "#000000"}
    if look:
        found |= {"fillcolor": look.fill, "fontcolor": look.ink, "color": look.border}
    if box.change:
        change = CHANGES[box.change]
        found |= {"fillcolor": change.fill, "fontcolor": "#000000", "penwidth": f"{change.width:g}"}
        found["style"] = ",".join(dict.fromkeys((*style.split(","), change.style)))
    if box.bar is not None:
        found |= {"penwidth": f"{1 + 4 * box.bar:.2f}", "color": blend(0.25 + 0.75 * box.bar)}
    if box.outline is not None:
        found |= {"peripheries": "2", "penwidth": "2.5", "color": OUTLINES[box.outline % len(OUTLINES)]}
    return found


def _arrow(arrow: Arrow) -> dict[str, str]:
    found = dict(ARROWS[arrow.look])
    if arrow.label:
        found["label"] = quoted(f" {arrow.label}")
    if arrow.tooltip:
        found["tooltip"] = quoted(arrow.tooltip)
    return found


def _write_legend(graph: graphviz.Digraph, keys: tuple[Key, ...]) -> None:
    """One box a line, chained by invisible edges into a column."""
    if not keys:
        return
    with graph.subgraph(name="cluster_legend") as legend:
        legend.attr(label="Legend", style="rounded", color="#BBBBBB", fontsize="11", labeljust="l")
        for number, key in enumerate(keys):
            is_drawn = key.look or key.change or key.bar is not None or key.outline is not None
            look = _attributes(key) if is_drawn else {"shape": "plaintext"}
            legend.node(f"key{number}", label=label([key.text]), fontsize="9", **look)
            if number:
                legend.edge(f"key{number - 1}", f"key{number}", style="invis")
