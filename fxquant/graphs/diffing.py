"""What changed between two snapshots of one compilation: exact, because nodes carry their origins.

Nodes that share an origin belong together; each such group is unchanged, retyped, replaced (n → m) or removed. Nodes
without an origin were inserted by a pass, and are matched by name where both sides have them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord


class Change(StrEnum):
    """What became of a group of nodes."""

    UNCHANGED = "unchanged"
    RETYPED = "retyped"  # one node each, same op; class, arguments or attributes differ
    REPLACED = "replaced"  # n nodes became m
    INSERTED = "inserted"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One group: its nodes before and after, by name."""

    change: Change
    before: tuple[str, ...]
    after: tuple[str, ...]
    deltas: tuple[tuple[str, str, str], ...] = ()  # (what, old, new), for RETYPED

    def __str__(self) -> str:
        left, right = " + ".join(self.before), " + ".join(self.after)
        told = "".join(f"\n    {what}: {old} → {new}" for what, old, new in self.deltas)
        match self.change:
            case Change.INSERTED:
                return f"+ {right}"
            case Change.REMOVED:
                return f"- {left}"
            case Change.UNCHANGED:
                return f"  {left}"
            case _:
                return f"~ {left} → {right}{told}"


@dataclass(frozen=True, slots=True)
class GraphDiff:
    """Every node of both snapshots is in exactly one entry."""

    entries: tuple[Entry, ...]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def of(self, change: Change) -> tuple[Entry, ...]:
        """The entries of one kind."""
        return tuple(entry for entry in self.entries if entry.change is change)

    @property
    def is_empty(self) -> bool:
        """Are the two graphs the same?"""
        return all(entry.change is Change.UNCHANGED for entry in self.entries)

    @property
    def counts(self) -> dict[str, int]:
        """How many entries of each kind."""
        return {change.value: len(self.of(change)) for change in Change}

    def __str__(self) -> str:
        lines = [str(entry) for entry in self.entries if entry.change is not Change.UNCHANGED]
        unchanged = len(self.of(Change.UNCHANGED))
        return "\n".join([*lines, f"({unchanged} unchanged)"])


def diff(before: GraphSnapshot, after: GraphSnapshot) -> GraphDiff:
    """The difference between two snapshots of one compilation, in the order of `after` (removed nodes first)."""
    renamed = _Names(before, after)
    entries = [_entry(left, right, renamed) for left, right in renamed.groups]
    position = {name: index for index, name in enumerate(node.name for node in after)}
    return GraphDiff(tuple(sorted(entries, key=lambda entry: position[entry.after[0]] if entry.after else -1)))


Group = tuple[tuple[NodeRecord, ...], tuple[NodeRecord, ...]]


class _Names:
    """Groups of nodes that belong together, and which group a node's name is in on either side."""

    def __init__(self, before: GraphSnapshot, after: GraphSnapshot) -> None:
        parents: dict[str, str] = {}
        for node in (*before, *after):
            keys = node.origins or (f"inserted {node.name}",)
            for key in keys:
                parents.setdefault(key, key)
                parents[_root(parents, key)] = _root(parents, keys[0])
        members: dict[str, Group] = defaultdict(lambda: ((), ()))
        for index, snapshot in enumerate((before, after)):
            for node in snapshot:
                key = _root(parents, (node.origins or (f"inserted {node.name}",))[0])
                left, right = members[key]
                members[key] = (left, (*right, node)) if index else ((*left, node), right)
        self.groups = tuple(members.values())
        self.left = {node.name: number for number, (left, _) in enumerate(self.groups) for node in left}
        self.right = {node.name: number for number, (_, right) in enumerate(self.groups) for node in right}


def _root(parents: dict[str, str], key: str) -> str:
    while parents[key] != key:
        parents[key] = parents[parents[key]]
        key = parents[key]
    return key


def _entry(left: tuple[NodeRecord, ...], right: tuple[NodeRecord, ...], names: _Names) -> Entry:
    sides = tuple(node.name for node in left), tuple(node.name for node in right)
    if not left:
        return Entry(Change.INSERTED, *sides)
    if not right:
        return Entry(Change.REMOVED, *sides)
    if len(left) != 1 or len(right) != 1 or left[0].op != right[0].op:
        return Entry(Change.REPLACED, *sides)
    deltas = tuple(_deltas(left[0], right[0], names))
    return Entry(Change.RETYPED if deltas else Change.UNCHANGED, *sides, deltas)


def _deltas(old: NodeRecord, new: NodeRecord, names: _Names) -> Iterator[tuple[str, str, str]]:
    if old.kind != new.kind:
        yield "kind", old.kind, new.kind
    before, after = dict(old.attributes), dict(new.attributes)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield key or "options", before.get(key, ""), after.get(key, "")
    inputs = [names.left[name] for name in old.inputs], [names.right[name] for name in new.inputs]
    if inputs[0] != inputs[1]:
        yield "inputs", ", ".join(old.inputs), ", ".join(new.inputs)
    elif _without_names(old) != _without_names(new):
        yield "arguments", old.args, new.args


def _without_names(node: NodeRecord) -> str:
    text = node.args
    for index, name in sorted(enumerate(node.inputs), key=lambda item: -len(item[1])):
        text = text.replace(f"%{name}", f"%{index}")
    return text
