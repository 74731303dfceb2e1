"""Edits of drawn snapshots whose diff is known beforehand. Torch-free, like what they test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from fxquant.graphs.change import Change
from fxquant.graphs.snapshot import REFERENCE, GraphSnapshot, NodeRecord, TensorInfo
from fxquant.testing.snapshot_strategies import call as node
from fxquant.testing.snapshot_strategies import snapshots as snapshots


@dataclass(frozen=True)
class Planted:
    """A graph after an edit, and what a diff has to say: kinds of entries with their nodes, and rewired readers."""

    graph: GraphSnapshot
    entries: tuple[tuple[Change, tuple[str, ...], tuple[str, ...]], ...] = ()
    rewires: tuple[tuple[str, str, str], ...] = ()  # reader, old, new
    touched: frozenset[str] = frozenset()


Edit = Callable[[st.DrawFn, GraphSnapshot, NodeRecord, str], Planted]


def _put(graph: GraphSnapshot, changed: NodeRecord) -> GraphSnapshot:
    return GraphSnapshot(tuple(changed if n.name == changed.name else n for n in graph), graph.title)


def _reading(record: NodeRecord, old: str, new: str, *, place: int | None = None) -> NodeRecord:
    """The node with one source exchanged, everywhere or at one place."""
    sources = [match[1] for match in REFERENCE.finditer(record.args)]
    swapped = [new if s == old and place in (None, i) else s for i, s in enumerate(sources)]
    args = "(" + ", ".join(f"%{source}" for source in swapped) + ")"
    return replace(record, args=args, inputs=tuple(dict.fromkeys(swapped)))


def retype(draw: st.DrawFn, graph: GraphSnapshot, at: NodeRecord, fresh: str) -> Planted:
    """Another attribute, dtype or class."""
    other = "float32" if at.values[0].dtype == "quint8" else "quint8"
    changed = draw(
        st.sampled_from(
            [
                replace(at, attributes=(("option", "changed"),)),
                replace(at, values=(TensorInfo(other, at.values[0].shape),)),
                replace(at, kind="gelu", target="torch.gelu"),
            ]
        )
    )
    return Planted(_put(graph, changed), ((Change.RETYPED, (at.name,), (at.name,)),), (), frozenset({at.name}))


def rename(draw: st.DrawFn, graph: GraphSnapshot, at: NodeRecord, fresh: str) -> Planted:
    """Another name: no change at all."""
    nodes = tuple(replace(n, name=fresh) if n.name == at.name else _reading(n, at.name, fresh) for n in graph)
    return Planted(GraphSnapshot(nodes, graph.title), (), (), frozenset({at.name}))


def insert(draw: st.DrawFn, graph: GraphSnapshot, at: NodeRecord, fresh: str) -> Planted:
    """A new node on one of the edges into `at`."""
    sources = [match[1] for match in REFERENCE.finditer(at.args)]
    place = draw(st.integers(0, len(sources) - 1))
    new = node(fresh, draw(st.sampled_from(("observer", "quantize", "sigmoid"))), sources[place])
    nodes: list[NodeRecord] = []
    for n in graph:
        nodes += [new, _reading(n, sources[place], fresh, place=place)] if n.name == at.name else [n]
    entry = (Change.INSERTED, (), (fresh,))
    return Planted(GraphSnapshot(tuple(nodes), graph.title), (entry,), (), frozenset({at.name, sources[place]}))


def remove(draw: st.DrawFn, graph: GraphSnapshot, at: NodeRecord, fresh: str) -> Planted:
    """`at` is gone; its readers read what it read first."""
    source = at.inputs[0]
    nodes = tuple(_reading(n, at.name, source) for n in graph if n.name != at.name)
    around = {at.name, *graph.readers[at.name], *at.inputs}
    return Planted(GraphSnapshot(nodes, graph.title), ((Change.REMOVED, (at.name,), ()),), (), frozenset(around))


def rewire(draw: st.DrawFn, graph: GraphSnapshot, at: NodeRecord, fresh: str) -> Planted:
    """One of its edges comes from another node."""
    sources = [match[1] for match in REFERENCE.finditer(at.args)]
    place = draw(st.integers(0, len(sources) - 1))
    earlier = [n.name for n in graph.nodes[: graph.nodes.index(at)] if n.name != sources[place]]
    if not earlier:
        return Planted(graph)
    other = draw(st.sampled_from(earlier))
    changed = _reading(at, sources[place], other, place=place)
    return Planted(
        _put(graph, changed), (), ((at.name, sources[place], other),), frozenset({at.name, sources[place], other})
    )


EDITS: tuple[Edit, ...] = (retype, rename, insert, remove, rewire)


@st.composite
def planted(draw: st.DrawFn, graph: GraphSnapshot, *, most: int = 4, edits: tuple[Edit, ...] = EDITS) -> Planted:
    """Some edits at different places of a graph, and all that they amount to."""
    done = Planted(graph)
    for index in range(draw(st.integers(1, most))):
        free = [
            n for n in done.graph
            if n.op == "call_function" and n.values and not {n.name, *n.inputs, *done.graph.readers[n.name]} & done.touched
        ]  # fmt: skip
        if not free:
            break
        edit = draw(st.sampled_from(edits))
        at = draw(st.sampled_from(free))
        made = edit(draw, done.graph, at, f"fresh{index}")
        done = Planted(
            made.graph, done.entries + made.entries, done.rewires + made.rewires,
            done.touched | made.touched | {f"fresh{index}"},
        )  # fmt: skip
    return done
