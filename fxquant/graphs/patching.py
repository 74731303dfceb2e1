"""A patch: the changes alone, from which one graph is made of the other. Plain data, to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Any

from fxquant.errors import SchemaError
from fxquant.graphs.codec import MOST_NODES, check_order, no_duplicates, record_from
from fxquant.graphs.snapshot import REFERENCE, GraphSnapshot, NodeRecord

SCHEMA = 1
_FIELDS = tuple(field.name for field in fields(NodeRecord))


@dataclass(frozen=True, slots=True)
class Keep:
    """`count` nodes of the graph before, from position `first`, as they are but for the names that they read."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Edit:
    """The node at a position of the graph before, with other values in some fields."""

    position: int
    changed: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Add:
    """A node that was not there."""

    node: NodeRecord


Step = Keep | Edit | Add


@dataclass(frozen=True, slots=True)
class Patch:
    """The nodes of the graph after, in order, told by those of the graph before. `renamed` are its nodes' new names."""

    steps: tuple[Step, ...]
    renamed: tuple[tuple[str, str], ...]
    title: str

    def apply(self, before: GraphSnapshot) -> GraphSnapshot:
        """The graph after. SchemaError FXQ621 when `before` is not the graph that the patch was made for."""
        names = dict(self.renamed)
        try:
            after = GraphSnapshot(tuple(islice(_nodes(self.steps, before, names), MOST_NODES + 1)), self.title)
            if len(after) > MOST_NODES:
                raise IndexError(MOST_NODES)
            check_order(after)
            return after
        except (IndexError, SchemaError) as error:
            raise SchemaError(
                "FXQ621",
                f"the patch does not fit this graph of {len(before)} nodes",
                hint="apply it to the graph that was the first argument of the diff",
            ) from error

    def to_json(self) -> str:
        """Canonical JSON."""
        steps = [[type(step).__name__.lower(), asdict(step)] for step in self.steps]
        payload = {"schema": SCHEMA, "title": self.title, "renamed": self.renamed, "steps": steps}
        return json.dumps(payload, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Patch:
        """The patch that `to_json` wrote. SchemaError FXQ621 on any other text."""
        try:
            payload = json.loads(text, object_pairs_hook=no_duplicates)
            if payload["schema"] != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            steps = tuple(_step(kind, step) for kind, step in payload["steps"])
            renamed = tuple((_text(old), _text(new)) for old, new in payload["renamed"])
            return cls(steps, renamed, _text(payload["title"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SchemaError) as error:
            why = error.message.partition(": ")[2] if isinstance(error, SchemaError) else error
            raise SchemaError(
                "FXQ621",
                f"this is no patch that fxquant wrote: {str(why)[:200]}",
                hint="write one with GraphDiff.patch.to_json()",
            ) from error


def patch(before: GraphSnapshot, after: GraphSnapshot, counterparts: Mapping[str, str]) -> Patch:
    """The patch from `before` to `after`. `counterparts`: name after → name before, of nodes that are in both."""
    position = {node.name: index for index, node in enumerate(before)}
    names = {old: new for new, old in counterparts.items() if old != new}
    steps: list[Step] = []
    for node in after:
        if node.name not in counterparts:
            steps.append(Add(node))
            continue
        index = position[counterparts[node.name]]
        expected = _renamed(before.nodes[index], names)
        changed = tuple((key, getattr(node, key)) for key in _FIELDS if getattr(node, key) != getattr(expected, key))
        steps.append(Edit(index, changed) if changed else Keep(index, 1))
    return Patch(tuple(_joined(steps)), tuple(sorted(names.items())), after.title)


def _joined(steps: Sequence[Step]) -> Iterator[Step]:
    """Runs of kept nodes as one step."""
    run: Keep | None = None
    for step in steps:
        if isinstance(step, Keep) and run is not None and run.first + run.count == step.first:
            run = Keep(run.first, run.count + 1)
            continue
        if run is not None:
            yield run
        run = step if isinstance(step, Keep) else None
        if run is None:
            yield step
    if run is not None:
        yield run


def _nodes(steps: Sequence[Step], before: GraphSnapshot, names: Mapping[str, str]) -> Iterator[NodeRecord]:
    for step in steps:
        match step:
            case Keep(first, count):
                for index in range(first, first + count):
                    yield _renamed(before.nodes[index], names)
            case Edit(index, changed):
                yield replace(_renamed(before.nodes[index], names), **dict(changed))
            case Add(node):
                yield node


def _renamed(node: NodeRecord, names: Mapping[str, str]) -> NodeRecord:
    """The node under its new name, reading its sources under theirs."""
    if not names or (node.name not in names and not any(source in names for source in node.inputs)):
        return node
    args = REFERENCE.sub(lambda found: f"%{names.get(found[1], found[1])}" if found[1] else "%%", node.args)
    inputs = tuple(names.get(source, source) for source in node.inputs)
    return replace(node, name=names.get(node.name, node.name), args=args, inputs=inputs)


def _step(kind: str, step: dict[str, Any]) -> Step:
    match kind:
        case "keep":
            return Keep(_natural(step["first"]), _natural(step["count"]))
        case "edit":
            changed = no_duplicates([(_text(key), value) for key, value in step["changed"]])
            whole = record_from({**_BLANK, **changed})
            return Edit(_natural(step["position"]), tuple((key, getattr(whole, key)) for key in changed))
        case "add":
            return Add(record_from(step["node"]))
    raise ValueError(f"there is no step {kind!r:.40}")


_BLANK: dict[str, Any] = dict.fromkeys(_FIELDS, "") | {key: [] for key in ("inputs", "origins", "attributes", "values")}
_BLANK["op"] = "call_function"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no position")
    return value
