"""Which nodes share a box: constants with the op that reads them, quantize with dequantize, modules at a depth."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.regions import Region, is_observer
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

DEEPEST = 12  # levels of clusters


class Classes:
    """Union-find without recursion; a class is named by its first member."""

    def __init__(self) -> None:
        self._parents: dict[Hashable, Hashable] = {}

    def find(self, key: Hashable) -> Hashable:
        parents = self._parents
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = parents[parent]
            key = parents[key]
        return key

    def join(self, first: Hashable, second: Hashable) -> None:
        self._parents[self.find(second)] = self.find(first)


def path_of(node: NodeRecord) -> tuple[str, ...]:
    """The module levels in which a node stands; () for the model itself."""
    path = node.scope if is_observer(node) or (node.op == "get_attr" and not node.scope) else node.path
    return tuple(path.split(".", DEEPEST)[:DEEPEST]) if path else ()


def folds(snapshot: GraphSnapshot, found: dict[str, Region]) -> list[tuple[str, str]]:
    """(node, the node into whose box it goes): constants into their one reader, dequantize into its quantize."""
    pairs = []
    for node in snapshot:
        readers = [snapshot[name] for name in snapshot.readers[node.name]]
        if found[node.name] is Region.CONSTANT and len(readers) == 1 and readers[0].op != "output":
            pairs.append((node.name, readers[0].name))
        elif readers and is_quantize(node) and all(map(is_dequantize, readers)):
            pairs.extend((reader.name, node.name) for reader in readers)
    return pairs


def containers(nodes: Iterable[NodeRecord]) -> frozenset[tuple[str, ...]]:
    """Paths of modules that hold other modules with nodes."""
    paths = {path_of(node) for node in nodes}
    return frozenset(path[:depth] for path in paths for depth in range(len(path)))


def module_key(node: NodeRecord, depth: int, holders: frozenset[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The module that a node is drawn as at this depth; None: as itself.

    What a container calls between its children (a residual add) is no module: one box for all of that would be read
    by the children and read them, and the picture would run in circles.
    """
    if depth == 0:
        return ()
    path = path_of(node)
    return None if len(path) < depth and path in holders else path[:depth] or None
