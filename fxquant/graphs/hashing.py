"""What nodes are compared by: keys of their contents, and Weisfeiler–Lehman hashes of what lies before and after them.

Hashes are BLAKE2b, the same in every process. Names of nodes are in none of them.
(B. Weisfeiler, A. Lehman, "A reduction of a graph to a canonical form", 1968; N. Shervashidze et al., JMLR 12, 2011.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from hashlib import blake2b

from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.regions import is_observer
from fxquant.graphs.snapshot import REFERENCE, GraphSnapshot, NodeRecord


def references(node: NodeRecord) -> tuple[str, ...]:
    """The nodes that it reads in the order of its arguments, one that it reads twice twice."""
    if len(node.inputs) == 1 and node.args.count("%") == 1:
        return node.inputs
    found = tuple(match[1] for match in REFERENCE.finditer(node.args) if match[1])
    return found if set(found) == set(node.inputs) else node.inputs


def literal(node: NodeRecord) -> str:
    """Its arguments with every node among them as '%'."""
    return REFERENCE.sub(lambda found: "%" if found[1] else "%%", node.args)


def content(node: NodeRecord) -> str:
    """All that it is, but for its name, place and line: nodes with one content differ in their neighbours only."""
    target = node.target if node.op in ("call_function", "call_method") else ""
    values = ",".join(map(str, node.values))
    return _joined(node.op, _kind(node), target, literal(node), repr(node.attributes), values)


def seed(node: NodeRecord) -> str:
    """What it stays when it is retyped: where it stands, what it is, how much it reads."""
    return _joined(node.op, _kind(node), node.path, str(len(node.inputs)))


def role(node: NodeRecord) -> str:
    """What it stays when its class changes too: an observer or a quantize never becomes a layer."""
    is_boundary = is_observer(node) or is_quantize(node) or is_dequantize(node)
    return _joined(node.op, node.kind if is_boundary else "", str(len(node.inputs)))


def surroundings(snapshot: GraphSnapshot, contents: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """For each node the hash of all that leads to it, and of all that follows from it."""
    upstream: dict[str, str] = {}
    read = {node.name: references(node) for node in snapshot}
    for node in snapshot:
        upstream[node.name] = _hashed(contents[node.name], *(upstream[source] for source in read[node.name]))
    downstream: dict[str, str] = {}
    waiting: dict[str, list[str]] = defaultdict(list)
    for node in reversed(snapshot.nodes):
        downstream[node.name] = _hashed(contents[node.name], *sorted(waiting.pop(node.name, ())))
        for place, source in enumerate(read[node.name]):
            waiting[source].append(f"{place} {downstream[node.name]}")
    return upstream, downstream


def _kind(node: NodeRecord) -> str:
    return "" if node.op in ("placeholder", "get_attr") else node.kind  # there it is but a name


def _joined(*parts: str) -> str:
    return "\x1f".join(parts)


def _hashed(*parts: str) -> str:
    return blake2b(_joined(*parts).encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
