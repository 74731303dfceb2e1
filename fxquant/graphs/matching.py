"""Which nodes of two graphs belong together: by their origins, else by what they are and what stands around them.

Nodes that share an origin form a group (n before, m after). What has no origin on either side is found by hashes of its
surroundings where these are unique, then from neighbour to neighbour: first nodes of equal content, then nodes of one
kind, then whatever stands in the same place. Both sides are treated alike, so the inverse is matched inversely.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fxquant.graphs.hashing import content, references, role, seed, surroundings
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

Nodes = tuple[NodeRecord, ...]
Place = tuple[str, int, str]  # 'reads' or 'readers', at which argument, what stands there
LEVELS: tuple[Callable[[NodeRecord], str], ...] = (content, seed, role)
LOOSE = len(LEVELS) - 1


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that belong together."""

    before: Nodes
    after: Nodes


def match(before: GraphSnapshot, after: GraphSnapshot) -> tuple[Group, ...]:
    """Every node of both graphs in exactly one group. A node without a counterpart is a group of its own."""
    found = _Matching(before, after)
    if _are_of_one_capture(before, after):
        found.by_origins()
    found.ends()
    if not found.is_done:
        found.by_structure()
    return (
        *found.groups,
        *(Group((node,), ()) for node in found.left.open()),
        *(Group((), (node,)) for node in found.right.open()),
    )


class _Side:
    """One of the two graphs: which group each of its nodes is in, and who reads whom."""

    def __init__(self, snapshot: GraphSnapshot) -> None:
        self.snapshot = snapshot
        self.group: dict[str, int] = {}
        self._keys: dict[int, dict[str, str]] = {}
        self.reads = {node.name: references(node) for node in snapshot}
        self.readers: dict[str, list[tuple[int, str]]] = {node.name: [] for node in snapshot}
        for name, sources in self.reads.items():
            for place, source in enumerate(sources):
                self.readers[source].append((place, name))

    def keys(self, level: int) -> dict[str, str]:
        """What nodes are compared by at a level."""
        if level not in self._keys:
            self._keys[level] = {node.name: LEVELS[level](node) for node in self.snapshot}
        return self._keys[level]

    @property
    def is_done(self) -> bool:
        """Is every node in a group?"""
        return len(self.group) == len(self.snapshot)

    def open(self) -> Iterator[NodeRecord]:
        """Nodes that are in no group yet, in graph order."""
        return (node for node in self.snapshot if node.name not in self.group)

    def around(self, nodes: Nodes, level: int) -> dict[Place, list[str]]:
        """Open neighbours of a group by the place at which they stand and what they are."""
        found: dict[Place, dict[str, None]] = defaultdict(dict)
        keys, is_single = self.keys(level), len(nodes) == 1
        for node in nodes:
            for place, source in enumerate(self.reads[node.name]):
                if source not in self.group:
                    found["reads", place if is_single else 0, keys[source]].setdefault(source)
            for place, reader in self.readers[node.name]:
                if reader not in self.group:
                    found["readers", place, keys[reader]].setdefault(reader)
        return {key: list(names) for key, names in found.items()}


class _Matching:
    """Groups so far, and those whose neighbours are to be looked at next, for each level."""

    def __init__(self, before: GraphSnapshot, after: GraphSnapshot) -> None:
        self.left, self.right = _Side(before), _Side(after)
        self.groups: list[Group] = []
        self.pending: tuple[deque[int], ...] = tuple(deque() for _ in LEVELS)

    def add(self, before: Nodes, after: Nodes) -> None:
        number = len(self.groups)
        self.groups.append(Group(before, after))
        for side, nodes in ((self.left, before), (self.right, after)):
            for node in nodes:
                side.group[node.name] = number
        self.pending[0].append(number)

    def pair(self, left: str, right: str) -> None:
        self.add((self.left.snapshot[left],), (self.right.snapshot[right],))

    def by_origins(self) -> None:
        """Groups of nodes that share origins; those of them that are the same on both sides stand alone."""
        for left, right in _sharing(self.left.snapshot, self.right.snapshot):
            pairs, left, right = _same(left, right)
            for one, other in pairs:
                self.add((one,), (other,))
            if left and right:
                self.add(left, right)

    def ends(self) -> None:
        """Inputs pair by their names in the signature, then in order where both graphs have as many; outputs too."""
        for op in ("placeholder", "output"):
            left, right = ([node for node in side.open() if node.op == op] for side in (self.left, self.right))
            known = {node.target for node in left} & {node.target for node in right}
            for target in sorted(known):
                self.pair(*(next(node.name for node in side if node.target == target) for side in (left, right)))
            rest = [[node for node in side if node.target not in known] for side in (left, right)]
            if len(rest[0]) == len(rest[1]):
                for one, other in zip(*rest, strict=True):
                    self.pair(one.name, other.name)

    def by_unique(self, left: Mapping[str, str], right: Mapping[str, str]) -> None:
        """Pair open nodes whose hash stands once on either side."""
        found = [
            _once({node.name: hashes[node.name] for node in side.open() if node.name in hashes})
            for side, hashes in ((self.left, left), (self.right, right))
        ]
        for value in sorted(found[0].keys() & found[1].keys()):
            self.pair(found[0][value], found[1][value])

    def grow(self, levels: int = len(LEVELS)) -> None:
        """From each group to its neighbours; a looser level only where no stricter one has anything left to do."""
        while not self.is_done:
            level = next((level for level in range(levels) if self.pending[level]), None)
            if level is None:
                return
            number = self.pending[level].popleft()
            ours = self.left.around(self.groups[number].before, level)
            theirs = self.right.around(self.groups[number].after, level)
            for key in sorted(ours.keys() & theirs.keys()):
                self._pair_in_order(ours[key], theirs[key], level)
            if ours and theirs and level < LOOSE:
                self.pending[level + 1].append(number)

    def _pair_in_order(self, ours: list[str], theirs: list[str], level: int) -> None:
        if len(ours) != len(theirs) and level > 0:
            return
        for left, right in zip(ours, theirs, strict=False):
            if left in self.left.group or right in self.right.group:
                continue
            if level < LOOSE or self._is_in_place(left, right):
                self.pair(left, right)

    def _is_in_place(self, left: str, right: str) -> bool:
        """May these be one node that changed its class? Not where one of them was rather inserted before the other."""
        if self._follows(self.left, left, self.right, right) or self._follows(self.right, right, self.left, left):
            return False
        return bool(self.left.readers[left]) == bool(self.right.readers[right])

    def _follows(self, side: _Side, name: str, other: _Side, inserted: str) -> bool:
        """Does a node like `name` read `inserted`?"""
        kind = side.keys(1)[name]
        return any(other.keys(1)[reader] == kind and reader not in other.group for _, reader in other.readers[inserted])

    def by_structure(self) -> None:
        """What is left: by hashes that stand once, from neighbour to neighbour, strictly first, and last in order."""
        sides = (self.left, self.right)
        up, down = zip(*(surroundings(side.snapshot, side.keys(0)) for side in sides), strict=True)
        self.by_unique(*({name: up[i][name] + down[i][name] for name in up[i]} for i in (0, 1)))
        self.by_unique(*up)
        self.by_unique(*down)
        self.grow(levels=1)
        self.by_unique(self.left.keys(0), self.right.keys(0))
        self.grow(levels=1)
        self.by_unique(*({node.name: seed(node) for node in side.open() if node.path} for side in sides))
        self.grow(levels=1)
        self.by_unique(*({node.name: node.path for node in side.open() if node.op == "call_module"} for side in sides))
        self.grow(levels=1)
        self.grow()
        while self.split_a_tie():
            self.grow()

    @property
    def is_done(self) -> bool:
        """Is there nothing left to pair?"""
        return self.left.is_done or self.right.is_done

    def split_a_tie(self) -> bool:
        """Among open nodes of equal content, where several could pair, pair the first two."""
        ours, theirs = ({}, {})  # type: dict[str, str], dict[str, str]
        for side, found in ((self.left, ours), (self.right, theirs)):
            for node in side.open():
                found.setdefault(side.keys(0)[node.name], node.name)
        for key in sorted(ours.keys() & theirs.keys()):
            self.pair(ours[key], theirs[key])
            return True
        return False


def _once(values: dict[str, str]) -> dict[str, str]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        names[value].append(name)
    return {value: found[0] for value, found in names.items() if len(found) == 1}


def _are_of_one_capture(before: GraphSnapshot, after: GraphSnapshot) -> bool:
    """May origins be trusted? They are traced names, which two models can have in common by chance.

    In graphs of one capture most nodes that share their first origin stand on the same line of the user's code.
    """
    first = {node.origins[0]: node for node in before if node.origins}
    pairs = [(first[node.origins[0]], node) for node in after if node.origins and node.origins[0] in first]
    agreeing = sum((one.scope, one.where) == (other.scope, other.where) for one, other in pairs)
    return 2 * agreeing >= len(pairs)


def _sharing(before: GraphSnapshot, after: GraphSnapshot) -> Iterator[tuple[Nodes, Nodes]]:
    """Nodes with origins, joined where they share one."""
    parents: dict[str, str] = {}
    for node in (*before, *after):
        for origin in node.origins:
            parents.setdefault(origin, origin)
            parents[_root(parents, origin)] = _root(parents, node.origins[0])
    members: dict[str, tuple[list[NodeRecord], list[NodeRecord]]] = {}
    for index, snapshot in enumerate((before, after)):
        for node in snapshot:
            if node.origins:
                members.setdefault(_root(parents, node.origins[0]), ([], []))[index].append(node)
    both = ((tuple(left), tuple(right)) for left, right in members.values() if left and right)
    return iter(
        sorted(both, key=lambda sides: min(origin for side in sides for node in side for origin in node.origins))
    )


def _root(parents: dict[str, str], key: str) -> str:
    while parents[key] != key:
        parents[key] = parents[parents[key]]
        key = parents[key]
    return key


def _same(left: Nodes, right: Nodes) -> tuple[list[tuple[NodeRecord, NodeRecord]], Nodes, Nodes]:
    """Pairs of nodes with the same origins (of equal content first), and what is left on either side."""
    pairs: list[tuple[NodeRecord, NodeRecord]] = []
    if len(left) == len(right) == 1:
        return [(left[0], right[0])], (), ()
    for level in (content, seed):
        waiting: dict[tuple[tuple[str, ...], str], deque[NodeRecord]] = defaultdict(deque)
        for node in right:
            waiting[(node.origins, level(node))].append(node)
        paired = [
            (node, waiting[key].popleft()) for node in left for key in [(node.origins, level(node))] if waiting[key]
        ]
        pairs += paired
        taken = {id(node) for pair in paired for node in pair}
        left, right = (tuple(node for node in side if id(node) not in taken) for side in (left, right))
    return pairs, left, right
