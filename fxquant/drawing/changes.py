"""A diff as a view: one merged picture, a box per entry, or both graphs side by side."""

from __future__ import annotations

from dataclasses import replace

from fxquant.drawing.building import MOST_BOXES, Wanted, clustered, legend_of, module_look, view_of
from fxquant.drawing.folding import Classes, containers, folds, module_key, path_of
from fxquant.drawing.labels import node_lines, tooltip
from fxquant.drawing.view import Arrow, Box, Key, View
from fxquant.drawing.words import clean, clean_path, plural
from fxquant.graphs.change import Change, Entry
from fxquant.graphs.diffing import GraphDiff
from fxquant.graphs.kernels import operation
from fxquant.graphs.regions import Region, regions
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

Side = tuple[int, str]  # 0 before, 1 after; the node's name


def difference_of(a: GraphSnapshot, b: GraphSnapshot, diff: GraphDiff, wanted: Wanted, title: str = "") -> View:
    """One picture of both graphs; what is far from any change is collapsed."""
    merged = _Merged(a, b, diff, wanted)
    notes: tuple[str, ...] = ()
    if len(merged.members) > MOST_BOXES:
        count = len(merged.members)
        deepest = max(len(path_of(node)) for node in (*a, *b)) if wanted.depth is None else wanted.depth - 1
        for depth in range(deepest, -1, -1):
            merged = _Merged(a, b, diff, replace(wanted, depth=depth))
            if len(merged.members) <= MOST_BOXES:
                break
        notes = (f"collapsed to modules at depth {depth}: {plural(count, 'box')} would be too many to read",)
    boxes = clustered([merged.drawn(name) for name in merged.members])
    legend = legend_of(boxes, replace(wanted, overlay=None, islands=())) + tuple(Key(note, "") for note in notes)
    return View(tuple(boxes), merged.arrows(), legend, clean(title or f"{a.title} → {b.title}", 120), notes)


class _Merged:
    """The nodes of both sides put into boxes: by entry, by what folds into what, by module, by being far away."""

    def __init__(self, a: GraphSnapshot, b: GraphSnapshot, diff: GraphDiff, wanted: Wanted) -> None:
        self.sides, self.found = (a, b), (regions(a), regions(b))
        self.entry: dict[Side, Entry] = {}
        classes = Classes()
        for entry in diff.entries:
            sides = [*((0, name) for name in entry.before), *((1, name) for name in entry.after)]
            for side in sides:
                self.entry[side] = entry
                classes.join(sides[0], side)
        if not wanted.constants:
            for at, snapshot in enumerate(self.sides):
                for inner, outer in folds(snapshot, self.found[at]):
                    classes.join((at, outer), (at, inner))
        self.depth, self.holders = wanted.depth, containers((*a, *b))
        self._modules(classes)
        self._fill(classes)
        if wanted.context is not None:
            self._collapse(classes, wanted.context)

    def node(self, side: Side) -> NodeRecord:
        return self.sides[side[0]][side[1]]

    def _modules(self, classes: Classes) -> None:
        if self.depth is None:
            return
        firsts: dict[tuple[str, ...], Side] = {}
        for at in (1, 0):
            for node in self.sides[at]:
                key = module_key(node, self.depth, self.holders)
                if key is not None and (self.depth == 0 or node.op not in ("placeholder", "output")):
                    classes.join(firsts.setdefault(key, (at, node.name)), (at, node.name))

    def _fill(self, classes: Classes) -> None:
        names: dict[object, str] = {}
        self.members: dict[str, list[Side]] = {}
        self.box: dict[Side, str] = {}
        for side in (*((1, node.name) for node in self.sides[1]), *((0, node.name) for node in self.sides[0])):
            name = names.setdefault(classes.find(side), f"n{len(names)}")
            self.box[side] = name
            self.members.setdefault(name, []).append(side)

    def _edges(self, at: int) -> dict[tuple[str, str], None]:
        ends = ((self.box[at, source], self.box[at, target]) for source, target in self.sides[at].edges)
        return {pair: None for pair in ends if pair[0] != pair[1]}

    def _collapse(self, classes: Classes, context: int) -> None:
        """Unchanged boxes more than `context` arrows from a change: one box for each connected part of them."""
        edges = [*self._edges(1), *self._edges(0)]
        near = {name for name in self.members if self.change(name) is not Change.UNCHANGED}
        if not near:
            return
        for _ in range(context):
            near |= {end for pair in edges if near.intersection(pair) for end in pair}
        for source, target in edges:
            if source not in near and target not in near:
                classes.join(self.members[source][0], self.members[target][0])
        self._fill(classes)

    def change(self, name: str) -> Change:
        """Of a box, from the entries of its nodes; what was folded into it counts as retyped."""
        kinds = {self.entry[side].change for side in self.members[name] if side in self.entry}
        if len(kinds) <= 1:
            return next(iter(kinds), Change.UNCHANGED)
        return Change.REPLACED if Change.REPLACED in kinds else Change.RETYPED

    def drawn(self, name: str) -> Box:
        sides, change = self.members[name], self.change(name)
        at = max(side[0] for side in sides)
        nodes = [self.node(side) for side in sides if side[0] == at]
        main = next((node for node in nodes if self.found[at][node.name] is not Region.CONSTANT), nodes[-1])
        entries = list(dict.fromkeys(self.entry[side] for side in sides if side in self.entry))
        lines = self._lines(main, nodes, entries, change, at)
        look = self.found[at][main.name].value if len(entries) < 9 else module_look(nodes, self.found[at])
        names = tuple(f"{'-+'[side]}{one}" for side, one in sides)
        path = path_of(main)[: self.depth]
        tip = tooltip([self.node(side) for side in sides])
        return Box(name, lines, look, path, names, change.value, tooltip=tip)

    def _lines(
        self, main: NodeRecord, nodes: list[NodeRecord], entries: list[Entry], change: Change, at: int
    ) -> tuple[str, ...]:
        computing = [entry for entry in entries if self._is_about_an_op(entry)]
        if (self.depth is not None and module_key(main, self.depth, self.holders) is not None) or len(computing) > 2:
            counts = [(kind.value, sum(entry.change is kind for entry in entries)) for kind in Change]
            key = module_key(main, self.depth, self.holders) if self.depth is not None else None
            head = clean_path(".".join(key)) or "the model" if key is not None else f"… {plural(len(nodes), 'node')}"
            return (head, *(f"{count:,} {kind}" for kind, count in counts if count))
        lines = node_lines(main, nodes, self.found[at])
        old = [operation(self.sides[0][name]) for entry in computing for name in entry.before]
        if change is Change.REPLACED and old:
            return (clean(f"{' + '.join(old)} → {lines[0]}", 64), *lines[1:])
        deltas = [delta for entry in computing for delta in entry.deltas if delta[0] not in ("inputs", "arguments")]
        return (*lines, *(clean(f"{what}: {old_} → {new}", 56) for what, old_, new in deltas[:3]))

    def _is_about_an_op(self, entry: Entry) -> bool:
        sides = [(0, name) for name in entry.before] + [(1, name) for name in entry.after]
        return any(self.found[at][name] not in (Region.CONSTANT, Region.BOUNDARY) for at, name in sides)

    def arrows(self) -> tuple[Arrow, ...]:
        """Edges of both sides; an old edge that now leads through inserted boxes only is not drawn as removed."""
        old, new = self._edges(0), self._edges(1)
        through = self._through(new, Change.INSERTED)
        past = self._through(old, Change.REMOVED)
        kept = [Arrow(*pair, look="" if self._is_expected(pair, old, past) else "new") for pair in new]
        gone = [Arrow(*pair, look="old") for pair in old if pair not in new and pair not in through]
        return (*kept, *gone)

    def _is_expected(self, pair: tuple[str, str], old: dict[tuple[str, str], None], past: set[tuple[str, str]]) -> bool:
        fresh = any(self.change(end) is Change.INSERTED for end in pair)
        return fresh or pair in old or pair in past

    def _through(self, edges: dict[tuple[str, str], None], change: Change) -> set[tuple[str, str]]:
        """Pairs that are joined by a path whose inner boxes all have that change."""
        sources: dict[str, list[str]] = {}
        for source, target in edges:
            sources.setdefault(target, []).append(source)
        found = set()
        for target in sources:
            seen, todo = {target}, list(sources[target])
            while todo:
                box = todo.pop()
                if box in seen:
                    continue
                seen.add(box)
                found.add((box, target))
                todo.extend(sources.get(box, ()) if self.change(box) is change else ())
        return found


def side_by_side_of(a: GraphSnapshot, b: GraphSnapshot, diff: GraphDiff, wanted: Wanted, title: str = "") -> View:
    """Both graphs in clusters 'before' and 'after'; a changed pair bears the same number: '↔ 12'."""
    views = [view_of(one, replace(wanted, islands=()), prefix=prefix) for one, prefix in ((a, "a"), (b, "b"))]
    of = [{name: box.id for box in view.boxes for name in box.members} for view in views]
    changes: tuple[dict[str, Change], ...] = ({}, {})
    marks: tuple[dict[str, str], ...] = ({}, {})
    for number, entry in enumerate(diff.entries, 1):
        for at, names in enumerate((entry.before, entry.after)):
            for name in names:
                box_id = of[at][name]
                changes[at][box_id] = _worse(changes[at].get(box_id), entry.change)
                if entry.before and entry.after and entry.change is not Change.UNCHANGED:
                    marks[at].setdefault(box_id, f"↔ {number}")
    boxes = [
        replace(
            box,
            cluster=(side, *box.cluster),
            change=changes[at].get(box.id, Change.UNCHANGED).value,
            lines=(*box.lines, marks[at][box.id]) if box.id in marks[at] else box.lines,
        )
        for at, (side, view) in enumerate(zip(("before", "after"), views, strict=True))
        for box in view.boxes
    ]
    arrows = (*views[0].arrows, *views[1].arrows)
    notes = tuple(dict.fromkeys(views[0].notes + views[1].notes))
    return View(tuple(boxes), arrows, legend_of(boxes, wanted), clean(title or f"{a.title} → {b.title}", 120), notes)


def _worse(first: Change | None, second: Change) -> Change:
    if first is None or first is second:
        return second
    return Change.REPLACED if Change.REPLACED in (first, second) else Change.RETYPED
