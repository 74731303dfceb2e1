"""The difference between two graphs: exact where nodes carry origins, by structure where they do not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

from fxquant.graphs.change import SIGNS, Change, Delta, Entry, Rewire
from fxquant.graphs.hashing import literal, references
from fxquant.graphs.matching import Group, match
from fxquant.graphs.patching import Patch, patch
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord


@dataclass(frozen=True)
class GraphDiff:
    """Every node of both graphs is in exactly one entry. `rewires` are edges that no entry explains."""

    before: GraphSnapshot = field(repr=False)
    after: GraphSnapshot = field(repr=False)
    entries: tuple[Entry, ...]
    rewires: tuple[Rewire, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def of(self, change: Change) -> tuple[Entry, ...]:
        """The entries of one kind."""
        return tuple(entry for entry in self.entries if entry.change is change)

    @property
    def is_empty(self) -> bool:
        """Are the two graphs the same, but for names, the order of nodes and the lines that they come from?"""
        return not self.rewires and all(entry.change is Change.UNCHANGED for entry in self.entries)

    @property
    def counts(self) -> dict[str, int]:
        """How many entries of each kind, and how many rewired edges."""
        return {change.value: len(self.of(change)) for change in Change} | {"rewired": len(self.rewires)}

    @cached_property
    def patch(self) -> Patch:
        """The changes alone: `diff(a, b).patch.apply(a)` is b, names and lines included."""
        kept = {entry.after[0]: entry.before[0] for entry in self.entries if entry.change in _SINGLE}
        return patch(self.before, self.after, kept)

    def inverse(self) -> GraphDiff:
        """The difference from `after` to `before`."""
        entries = (entry.inverse() for entry in self.entries)
        rewires = tuple(sorted((rewire.inverse() for rewire in self.rewires), key=_place_of_rewire(self.before)))
        return GraphDiff(self.after, self.before, _in_order(entries, self.after, self.before), rewires)

    def to_json(self) -> str:
        """Canonical JSON of what changed; unchanged nodes are counted only."""
        changed = [asdict(entry) for entry in self.entries if entry.change is not Change.UNCHANGED]
        payload = {
            "schema": 1,
            "before": {"title": self.before.title, "digest": self.before.digest, "nodes": len(self.before)},
            "after": {"title": self.after.title, "digest": self.after.digest, "nodes": len(self.after)},
            "counts": self.counts,
            "entries": changed,
            "rewires": [asdict(rewire) for rewire in self.rewires],
        }
        return json.dumps(payload, sort_keys=True, separators=(",", ":"))

    def __str__(self) -> str:
        lines = [line for entry in self.entries for line in self.lines(entry) if entry.change is not Change.UNCHANGED]
        counted = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)
        return "\n".join([*lines, *(str(rewire) for rewire in self.rewires), f"({counted or 'nothing in either'})"])

    def lines(self, entry: Entry) -> Iterator[str]:
        """An entry for reading: its nodes with their classes, the user's line, and below it what differs."""
        left, right = (" + ".join(_told(side[name]) for name in names)
                       for side, names in ((self.before, entry.before), (self.after, entry.after)))  # fmt: skip
        told = left if entry.change is Change.UNCHANGED else " → ".join(part for part in (left, right) if part)
        if entry.change is Change.RETYPED and left == right:
            told = left
        where = next((self.before[name].where for name in entry.before if self.before[name].where), "")
        yield f"{SIGNS[entry.change]} {told}" + (f"  ({where.rpartition('/')[2]})" if where else "")
        for what, old, new in entry.deltas:
            yield f"    {what}: {old or 'none'} → {new or 'none'}"


def _told(node: NodeRecord) -> str:
    """A node for reading: its name, its class, and its module where the name does not say it."""
    kind = "" if node.op in ("placeholder", "output", "get_attr") or node.kind == node.name else f" {node.kind}"
    return f"{node.name}{kind}"


_SINGLE = (Change.UNCHANGED, Change.RETYPED)


def diff(before: Any, after: Any) -> GraphDiff:
    """What became of each node of `before` on the way to `after`.

    Both are snapshots, or anything that `fxquant.snapshot` takes. Where nodes carry origins (all graphs of one
    compilation) these decide what belongs together, n nodes to m; other nodes are matched by module path, op, class,
    arity and neighbourhood, so that renaming a graph changes nothing.
    """
    left, right = _snapshot(before), _snapshot(after)
    groups = match(left, right)
    where = _Groups(groups)
    entries = _in_order((entry for group in groups for entry in _entries(group)), left, right)
    rewires = (rewire for group in groups if group.before and group.after for rewire in where.rewires(group))
    return GraphDiff(left, right, entries, tuple(sorted(rewires, key=_place_of_rewire(right))))


def _snapshot(x: Any) -> GraphSnapshot:
    if isinstance(x, GraphSnapshot):
        return x
    from fxquant.graphs.snapping import snapshot  # it imports torch

    return snapshot(x)


def _in_order(entries: Any, before: GraphSnapshot, after: GraphSnapshot) -> tuple[Entry, ...]:
    """In the order of `after`; what was removed stands first, in its own order."""
    old = {node.name: index for index, node in enumerate(before)}
    new = {node.name: index for index, node in enumerate(after)}
    return tuple(
        sorted(entries, key=lambda entry: (1, new[entry.after[0]]) if entry.after else (0, old[entry.before[0]]))
    )


def _place_of_rewire(after: GraphSnapshot) -> Any:
    position = {node.name: index for index, node in enumerate(after)}
    return lambda rewire: (position[rewire.after], rewire.new or "", rewire.old or "")


def _entries(group: Group) -> Iterator[Entry]:
    before, after = (tuple(node.name for node in side) for side in (group.before, group.after))
    match len(before), len(after):
        case (0, _):
            yield from (Entry(Change.INSERTED, (), (name,)) for name in after)
        case (_, 0):
            yield from (Entry(Change.REMOVED, (name,), ()) for name in before)
        case (1, 1) if group.before[0].op == group.after[0].op:
            deltas = tuple(_deltas(group.before[0], group.after[0]))
            yield Entry(Change.RETYPED if deltas else Change.UNCHANGED, before, after, deltas)
        case _:
            yield Entry(Change.REPLACED, before, after)


def _deltas(old: NodeRecord, new: NodeRecord) -> Iterator[Delta]:
    if old.op not in ("placeholder", "get_attr") and old.kind != new.kind:
        yield "class" if old.op == "call_module" else "op", old.kind, new.kind
    elif old.op.startswith("call") and old.op != "call_module" and old.target != new.target:
        yield "op", old.target, new.target
    attributes = list(_changed(dict(old.attributes), dict(new.attributes)))
    yield from attributes
    if not attributes and literal(old) != literal(new):
        yield "arguments", old.args, new.args
    if old.values != new.values:
        yield from _value_deltas(old, new)


def _value_deltas(old: NodeRecord, new: NodeRecord) -> Iterator[Delta]:
    if len(old.values) != 1 or len(new.values) != 1:
        yield "values", ", ".join(map(str, old.values)), ", ".join(map(str, new.values))
        return
    before, after = old.values[0], new.values[0]
    if before.dtype != after.dtype:
        yield "dtype", before.dtype, after.dtype
    if before.shape != after.shape:
        yield "shape", str(list(before.shape)), str(list(after.shape))


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Delta]:
    for key in sorted(old.keys() | new.keys()):  # by name: neither side's order comes first, so that it inverts
        if old.get(key) != new.get(key):
            yield key, old.get(key, ""), new.get(key, "")


_Source = tuple[str, int | None]  # what a node reads: its name, and its group where both graphs have it


def _only_in(ours: list[_Source], theirs: list[_Source]) -> list[_Source]:
    known = {number for _, number in theirs}
    return list(dict.fromkeys(source for source in ours if source[1] is not None and source[1] not in known))


def _is_one_op(group: Group) -> bool:
    """The same op on both sides, so that its first input means the same?"""
    kinds = [(node.op, node.kind if node.op == "call_function" else "") for node in (*group.before, *group.after)]
    return len(kinds) == 2 and kinds[0] == kinds[1]


class _Groups:
    """Edges as edges between groups, past what was inserted or removed on the way."""

    def __init__(self, groups: tuple[Group, ...]) -> None:
        self.groups = groups
        self.left = {node.name: number for number, group in enumerate(groups) for node in group.before}
        self.right = {node.name: number for number, group in enumerate(groups) for node in group.after}

    def rewires(self, group: Group) -> Iterator[Rewire]:
        """The edges into a group that lead somewhere else."""
        old, new = self._sources(group.before, self.left, 0), self._sources(group.after, self.right, 1)
        if _is_one_op(group) and len(old) == len(new):
            pairs: Iterable[tuple[_Source | None, _Source | None]] = zip(old, new, strict=True)
        else:  # another op reads its inputs in another order
            pairs = zip_longest(_only_in(old, new), _only_in(new, old))
        for source, other in pairs:
            if source is None or other is None or source[1] != other[1]:
                yield Rewire(group.before[0].name, group.after[0].name, source and source[0], other and other[0])

    def _sources(self, nodes: tuple[NodeRecord, ...], number: Mapping[str, int], side: int) -> list[_Source]:
        """What the nodes read from outside of themselves: (name, group); None for what exists on one side only."""
        own = {node.name for node in nodes}
        return [
            (source, self._resolved(source, number, side))
            for node in nodes
            for source in references(node)
            if source not in own
        ]

    def _resolved(self, name: str, number: Mapping[str, int], side: int) -> int | None:
        """The group that a value comes from, looking through nodes that the other graph does not have."""
        while True:
            group = self.groups[number[name]]
            if group.before and group.after:
                return number[name]
            node = (group.after if side else group.before)[0]
            read = references(node)
            if not read:
                return None
            name = read[0]
