"""A frozen graph: plain, hashable, no torch. Passes mutate graphs; diffs, pictures and analyses read snapshots."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

REFERENCE = re.compile(r"%%|%(\w+)")  # in `NodeRecord.args`: %name is a node, %% a per cent sign


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What one tensor is: its dtype as torch prints it without 'torch.' ('float32', 'quint8'), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{'×'.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node. `args` is canonical text in which other nodes stand as %name; `inputs` are their names in order.

    `values` are the tensors that it gives, for the example that the model was captured with: one for most nodes,
    several for a tuple, none where it gives no tensor or nobody knows. `attributes` are (name, value) pairs: the
    options and tensors of a called module, scale and zero point of a quantize, the range of a small constant.
    """

    name: str
    op: str  # placeholder, get_attr, call_module, call_function, call_method, output
    target: str  # module path, qualified function name, method name or attribute path
    kind: str  # class name of the called module, else the last part of the target
    args: str = ""
    inputs: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()  # ids of the traced nodes it stands for; () for one that a pass inserted
    scope: str = ""  # dotted name of the user's module in whose forward() the call stands; '' is the model itself
    where: str = ""  # 'file:line' of the user's code
    attributes: tuple[tuple[str, str], ...] = ()
    values: tuple[TensorInfo, ...] = ()

    @property
    def site(self) -> str:
        """The id under which plan and ledger know it: its first origin, or its name where a pass inserted it."""
        return self.origins[0] if self.origins else self.name

    @property
    def path(self) -> str:
        """Dotted module path for clusters: the module that it calls, else the one in whose forward() it stands."""
        return self.target if self.op == "call_module" else self.scope

    def attribute(self, name: str) -> str:
        """The value of an attribute; '' where there is none of that name."""
        return dict(self.attributes).get(name, "")


@dataclass(frozen=True)
class GraphSnapshot:
    """The nodes of a graph in order: every node stands after those it reads. Names are unique."""

    nodes: tuple[NodeRecord, ...]
    title: str = ""  # the model's class, and the stage

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

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """Who reads each node, in graph order."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for source, reader in self.edges:
            found[source].append(reader)
        return {name: tuple(readers) for name, readers in found.items()}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, the same bytes for the same graph."""
        from fxquant.graphs.codec import dump

        return dump(self)

    @classmethod
    def from_json(cls, text: str) -> GraphSnapshot:
        """The snapshot that `to_json` wrote. SchemaError FXQ620 on any other text."""
        from fxquant.graphs.codec import parse

        return parse(text)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the structure. Nodes count by position, so a renamed graph has the same digest."""
        position = {node.name: f"%{index}" for index, node in enumerate(self.nodes)}
        lines = []
        for node in self.nodes:
            args = REFERENCE.sub(lambda found: position.get(found[1], "%?") if found[1] else "%%", node.args)
            target = node.target if node.op in ("call_function", "call_method") else ""
            lines.append("\x1f".join((node.op, target, node.kind, args, repr(node.attributes), repr(node.values))))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()
