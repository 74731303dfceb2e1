"""Snapshot, or diff of two, → view: nodes put into boxes, edges between boxes into arrows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fxquant.drawing.folding import Classes, containers, folds, module_key, path_of
from fxquant.drawing.labels import arrow_text, module_lines, node_lines, tooltip
from fxquant.drawing.looks import CHANGES, LAYERED, LOOKS, MIXED
from fxquant.drawing.overlays import Overlay
from fxquant.drawing.view import Arrow, Box, Key, View
from fxquant.drawing.words import clean, plural
from fxquant.graphs.cut import cut_edges
from fxquant.graphs.regions import COMPUTING, Region, regions
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

MOST_BOXES = 1500
CUT = "dashed arrow: the cut between int8 and float, placed by measured times"
MOST_ISLANDS = 6  # that the legend names
Islands = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Wanted:
    """The options of `draw`, as it was called."""

    depth: int | None = None
    overlay: Overlay | None = None
    constants: bool = False
    islands: Islands = ()
    context: int | None = 2


class Plan:
    """A snapshot cut into boxes at one depth: `members` by box, in graph order."""

    def __init__(self, snapshot: GraphSnapshot, found: dict[str, Region], wanted: Wanted) -> None:
        classes, holders = Classes(), containers(snapshot if wanted.depth else ())
        self.modules: dict[str, tuple[str, ...]] = {}
        if not wanted.constants:
            for inner, outer in reversed(folds(snapshot, found)):
                classes.join(outer, inner)
        boxes: dict[object, str] = {}
        self.members: dict[str, list[NodeRecord]] = {}
        self.box: dict[str, str] = {}
        for node in snapshot:
            root = str(classes.find(node.name))
            key = None if wanted.depth is None else module_key(snapshot[root], wanted.depth, holders)
            if node.op in ("placeholder", "output") and wanted.depth:
                key = None
            box = boxes.setdefault(root if key is None else (key,), f"n{len(boxes)}")
            self.members.setdefault(box, []).append(node)
            self.box[node.name] = box
            if key is not None:
                self.modules[box] = key
        self.snapshot, self.found = snapshot, found


def view_of(snapshot: GraphSnapshot, wanted: Wanted, title: str = "", prefix: str = "") -> View:
    """The picture of one graph; collapsed to modules where it would have more than 1,500 boxes."""
    plan, notes = fitted(snapshot, wanted)
    batch = next((node.values[0].shape[0] for node in snapshot if _has_batch(node)), None)
    boxes = _valued([_box(plan, name) for name in plan.members], plan, wanted.overlay)
    boxes = _outlined(boxes, plan, wanted.islands)
    boxes = [replace(box, id=prefix + box.id) for box in clustered(boxes)]
    arrows = tuple(replace(one, source=prefix + one.source, target=prefix + one.target) for one in _arrows(plan, batch))
    legend = legend_of(boxes, wanted)
    if batch is not None and any(" B×" in arrow.label for arrow in arrows):
        legend = (*legend, Key(f"B: the example's batch, {batch}", ""))
    if any(arrow.look == "cut" for arrow in arrows):
        legend = (*legend, Key(CUT, ""))
    legend += tuple(Key(note, "") for note in notes)
    return View(tuple(boxes), arrows, legend, clean(title or snapshot.title, 120), notes)


def fitted(snapshot: GraphSnapshot, wanted: Wanted) -> tuple[Plan, tuple[str, ...]]:
    """The plan that was asked for, or the one of the greatest depth that fits, and a note on that."""
    found = regions(snapshot)
    plan = Plan(snapshot, found, wanted)
    if len(plan.members) <= MOST_BOXES:
        return plan, ()
    count = len(plan.members)
    deepest = max(len(path_of(node)) for node in snapshot) if wanted.depth is None else wanted.depth - 1
    for depth in range(deepest, -1, -1):
        plan = Plan(snapshot, found, replace(wanted, depth=depth))
        if len(plan.members) <= MOST_BOXES:
            break
    return plan, (f"collapsed to modules at depth {depth}: {plural(count, 'box')} would be too many to read",)


def _has_batch(node: NodeRecord) -> bool:
    return node.op == "placeholder" and bool(node.values) and len(node.values[0].shape) > 1


def main_node(members: Sequence[NodeRecord], found: dict[str, Region]) -> NodeRecord:
    """The node that a folded box is about: the one that is no constant, else the last."""
    return next((node for node in members if found[node.name] is not Region.CONSTANT), members[-1])


def _box(plan: Plan, name: str) -> Box:
    members = plan.members[name]
    key = plan.modules.get(name)
    names = tuple(node.name for node in members)
    if key is None:
        node = main_node(members, plan.found)
        lines, look, path = node_lines(node, members, plan.found), plan.found[node.name].value, path_of(node)
    else:
        lines, look, path = module_lines(key, members, plan.found), module_look(members, plan.found), key[:-1]
    return Box(name, lines, look, path, names, tooltip=tooltip(members))


def module_look(members: Sequence[NodeRecord], found: dict[str, Region]) -> str:
    """The one way in which a module computes, or 'mixed'; without any computing node, what it is full of."""
    kinds = {found[node.name] for node in members}
    computing = kinds & COMPUTING
    if len(computing) > 1:
        return MIXED
    return next((region.value for region in Region if region in (computing or kinds)), Region.NEUTRAL.value)


def _arrows(plan: Plan, batch: int | None) -> list[Arrow]:
    told: dict[str, set[str]] = {}  # by box: what is written on its arrows, to it and from it
    seen: dict[tuple[str, str], Arrow] = {}
    cut = {(plan.box[source], plan.box[target]) for source, target in cut_edges(plan.snapshot, plan.found)}
    for source, target in plan.snapshot.edges:
        ends = plan.box[source], plan.box[target]
        if ends[0] == ends[1] or ends in seen:
            continue
        text = arrow_text(plan.snapshot[source], plan.members[ends[0]], batch)
        known = told.setdefault(ends[0], set())
        label = "" if text in known or _is_formal(plan, source, target) else text
        known.update({label} - {""})
        told.setdefault(ends[1], set()).add(text)
        seen[ends] = Arrow(*ends, label, "cut" if ends in cut else "", tooltip=text)
    return list(seen.values())


def _is_formal(plan: Plan, source: str, target: str) -> bool:
    """From a quantized op to the quantize that it is fused with: the codes are written after that."""
    return plan.found[target] is Region.BOUNDARY and plan.found[source] is Region.QUANTIZED


def clustered(boxes: list[Box]) -> list[Box]:
    """Only clusters that hold three ops or more are drawn; a path keeps the levels that are."""
    held: dict[tuple[str, ...], int] = {}
    computing = {region.value for region in COMPUTING} | {MIXED}
    for box in boxes:
        for depth in range(1, len(box.cluster) + 1):
            held[box.cluster[:depth]] = held.get(box.cluster[:depth], 0) + (box.look in computing)
    return [_inside(box, _kept(box.cluster, held)) for box in boxes]


def _inside(box: Box, cluster: tuple[str, ...]) -> Box:
    """A module path is written from the cluster on."""
    path = ".".join(cluster)
    if not cluster:
        return replace(box, cluster=())
    told = [_from(path, line) for line in box.lines[1:] if line != path]
    return replace(box, cluster=cluster, lines=(*box.lines[:1], *told))


def _from(path: str, line: str) -> str:
    """'conv1' for 'layer1.0.conv1' within 'layer1.0'; a bare index would say nothing."""
    rest = line.removeprefix(f"{path}.")
    return line if rest.isdigit() else rest


def _kept(path: tuple[str, ...], held: dict[tuple[str, ...], int]) -> tuple[str, ...]:
    depth = len(path)
    while depth and held[path[:depth]] < 3:
        depth -= 1
    return path[:depth]


def _valued(boxes: list[Box], plan: Plan, overlay: Overlay | None) -> list[Box]:
    if overlay is None:
        return boxes
    values = [overlay.of(plan.members[box.id]) for box in boxes]
    return [
        box if value is None else replace(box, value=value, bar=bar, lines=(*box.lines, overlay.text(value)))
        for box, value, bar in zip(boxes, values, overlay.scaled(values), strict=True)
    ]


def _outlined(boxes: list[Box], plan: Plan, islands: Islands) -> list[Box]:
    of = {plan.box[name]: index for index, (_, names) in enumerate(islands) for name in names if name in plan.box}
    return [replace(box, outline=of[box.id]) if box.id in of else box for box in boxes]


def legend_of(boxes: Sequence[Box], wanted: Wanted) -> tuple[Key, ...]:
    """Only what occurs in the picture."""
    looks, changes = {box.look for box in boxes}, {box.change for box in boxes if box.change}
    keys = [Key(LOOKS[look].words, look) for look in (*LAYERED, MIXED) if look in looks]
    if changes:
        keys = [Key(CHANGES[change].words, "", change) for change in CHANGES if change in changes]
    values = [box.value for box in boxes if box.value is not None]
    if wanted.overlay is not None and values:
        ends = sorted((min(values), max(values)), reverse=wanted.overlay.is_low_bad)
        keys += [Key(wanted.overlay.text(end), "", bar=bar) for end, bar in zip(ends, (0.0, 1.0), strict=True)]
    drawn = {box.outline for box in boxes}
    outlined = [Key(clean(text, 80), "", outline=at) for at, (text, _) in enumerate(wanted.islands) if at in drawn]
    keys += outlined[:MOST_ISLANDS]
    if len(outlined) > MOST_ISLANDS:
        keys.append(Key(f"and {len(outlined) - MOST_ISLANDS} more islands", ""))
    return tuple(keys)
