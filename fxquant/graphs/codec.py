"""Snapshots as canonical JSON, both ways. Reading checks everything: a snapshot file may come from anyone."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from fxquant.errors import SchemaError
from fxquant.graphs.snapshot import REFERENCE, GraphSnapshot, NodeRecord, TensorInfo

SCHEMA = 2
MOST_NODES = 200_000
MOST_RANK = 64
NAME = re.compile(r"\w+")
OPS = ("placeholder", "get_attr", "call_module", "call_function", "call_method", "output")
_FIELDS = {*NodeRecord.__slots__}
_TEXTS = ("name", "op", "target", "kind", "args", "scope", "where")


def dump(snapshot: GraphSnapshot) -> str:
    """Sorted keys, no spaces, ASCII only: the same bytes for the same graph."""
    payload = {"schema": SCHEMA, "title": snapshot.title, "nodes": [asdict(node) for node in snapshot.nodes]}
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def parse(text: str) -> GraphSnapshot:
    """The snapshot that `dump` wrote. SchemaError FXQ620 on any other text."""
    try:
        payload = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is not JSON: {error}") from error
    if not isinstance(payload, dict) or payload.keys() != {"schema", "title", "nodes"}:
        raise _malformed("it needs exactly the keys 'schema', 'title' and 'nodes'")
    if payload["schema"] != SCHEMA:
        raise _malformed(f"its schema is {payload['schema']!r:.20}, this version reads {SCHEMA}")
    nodes = _listed(payload["nodes"], "nodes")
    if len(nodes) > MOST_NODES:
        raise _malformed(f"it has {len(nodes)} nodes, at most {MOST_NODES} are read")
    snapshot = GraphSnapshot(tuple(_node(item, index) for index, item in enumerate(nodes)), _text(payload, "title"))
    check_order(snapshot)
    return snapshot


def record_from(item: Any) -> NodeRecord:
    """One node, checked by itself. SchemaError FXQ620."""
    return _node(item, 0)


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a key stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _node(item: Any, index: int) -> NodeRecord:
    if not isinstance(item, dict) or item.keys() != _FIELDS:
        raise _malformed(f"node {index} needs exactly the keys {', '.join(sorted(_FIELDS))}")
    if item["op"] not in OPS:
        raise _malformed(f"node {index} has the op {item['op']!r:.40}")
    return NodeRecord(
        **{key: _text(item, key) for key in _TEXTS},
        inputs=_texts(item["inputs"], "inputs"),
        origins=_texts(item["origins"], "origins"),
        attributes=tuple(_pair(pair) for pair in _listed(item["attributes"], "attributes")),
        values=tuple(_tensor(value) for value in _listed(item["values"], "values")),
    )


def _text(item: dict[str, Any], key: str) -> str:
    if not isinstance(item[key], str):
        raise _malformed(f"'{key}' is {type(item[key]).__name__}, not text")
    return str(item[key])


def _listed(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed(f"'{key}' is {type(value).__name__}, not a list")
    return value


def _texts(value: Any, key: str) -> tuple[str, ...]:
    found = _listed(value, key)
    if not all(isinstance(item, str) for item in found):
        raise _malformed(f"'{key}' holds something that is not text")
    return tuple(found)


def _pair(value: Any) -> tuple[str, str]:
    found = _texts(value, "attributes")
    if len(found) != 2:
        raise _malformed("an attribute is a pair of texts")
    return found[0], found[1]


def _tensor(value: Any) -> TensorInfo:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape"}:
        raise _malformed("a value has a dtype and a shape")
    shape = _listed(value["shape"], "shape")
    if len(shape) > MOST_RANK or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise _malformed("a shape is a list of sizes from 0")
    return TensorInfo(_text(value, "dtype"), tuple(shape))


def check_order(snapshot: GraphSnapshot) -> None:
    """Names are unique, and a node stands after those it reads: no cycle, nothing dangling."""
    seen: set[str] = set()
    for node in snapshot:
        if not NAME.fullmatch(node.name):
            raise _malformed(f"{node.name!r:.60} is no name: letters, digits and _ only")
        if node.name in seen:
            raise _malformed(f"the name {node.name!r:.60} stands twice")
        read = {found[1] for found in REFERENCE.finditer(node.args) if found[1]}
        for source in (*node.inputs, *sorted(read)):
            if source not in seen:
                raise _malformed(f"node {node.name!r:.60} reads {source!r:.60}, which does not stand before it")
        seen.add(node.name)


def _malformed(why: str) -> SchemaError:
    from_where = "write one with `fxquant graph MODEL -o snapshot.json`"
    return SchemaError("FXQ620", f"this is no snapshot that fxquant wrote: {why}", hint=from_where)
