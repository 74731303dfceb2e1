"""A frozen picture of a graph at a pass boundary: plain, hashable, canonical JSON, no torch. Tools read these only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node. `args` is canonical text in which other nodes stand as %name; `inputs` are their names in order."""

    name: str
    op: str  # placeholder, get_attr, call_module, call_function, call_method, output
    target: str  # module path, qualified function name, method name or attribute path
    kind: str  # class name of the called module, else the last part of the target
    args: str
    inputs: tuple[str, ...]
    origins: tuple[str, ...]
    scope: str = ""
    where: str = ""
    attributes: tuple[tuple[str, str], ...] = ()  # of the called module: what its repr shows, and its parameters' shapes


@dataclass(frozen=True)
class GraphSnapshot:
    """The nodes of a graph in order."""

    nodes: tuple[NodeRecord, ...]

    def __iter__(self) -> Iterator[NodeRecord]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> NodeRecord:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, NodeRecord]:
        return {node.name: node for node in self.nodes}

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """(producer, consumer), in the consumers' order."""
        return tuple((source, node.name) for node in self.nodes for source in node.inputs)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, the same bytes for the same graph."""
        payload = {"schema": 1, "nodes": [asdict(node) for node in self.nodes]}
        return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> GraphSnapshot:
        """The snapshot that `to_json` wrote."""
        return cls(tuple(_node_from(item) for item in json.loads(text)["nodes"]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the structure: names are replaced by positions, so that a renamed graph has the same digest."""
        position = {node.name: f"%{index}" for index, node in enumerate(self.nodes)}
        lines = []
        for node in self.nodes:
            args = node.args
            for source in sorted(set(node.inputs), key=len, reverse=True):
                args = args.replace(f"%{source}", position[source])
            target = node.target if node.op != "call_module" else ""
            lines.append("\x1f".join((node.op, target, node.kind, args, repr(node.attributes))))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _node_from(item: dict[str, object]) -> NodeRecord:
    attributes = tuple((str(key), str(value)) for key, value in item["attributes"])  # type: ignore[attr-defined]
    plain = {key: str(item[key]) for key in ("name", "op", "target", "kind", "args", "scope", "where")}
    inputs, origins = (tuple(map(str, item[key])) for key in ("inputs", "origins"))  # type: ignore[call-overload]
    return NodeRecord(**plain, inputs=inputs, origins=origins, attributes=attributes)
