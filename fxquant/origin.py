"""Identity is carried: every node knows which traced nodes it came from, and which line of the user's code.

Capture gives each node one origin id (its traced name, unique and the same on every run). A pass that makes a node
says `carry(new, old, ...)`; so n nodes fused into one keep n origins, and a diff between any two stages is exact.
"""

from __future__ import annotations

from torch import fx

from fxquant.location import Location

_ORIGIN, _WHERE, _SCOPE, _PART = "fxq_origin", "fxq_where", "fxq_scope", "fxq_part"


def origins(node: fx.Node) -> tuple[str, ...]:
    """The origin ids of a node; empty for a node that a pass inserted (an observer, a quantize)."""
    found: tuple[str, ...] = node.meta.get(_ORIGIN, ())
    return found


def site_of(node: fx.Node) -> str:
    """The origin id that names this node in plan and ledger: its first, or its own name where it was inserted."""
    found = origins(node)
    return found[0] if found else node.name


def where(node: fx.Node) -> Location | None:
    """The line of the user's forward() that made this node."""
    found: Location | None = node.meta.get(_WHERE)
    return found


def scope(node: fx.Node) -> str:
    """Dotted name of the user's module in whose forward() the call stands; '' is the model itself."""
    found: str = node.meta.get(_SCOPE, "")
    return found


def part_of(node: fx.Node) -> str:
    """Which part of its site a node is ('q_proj'), where a pass expanded one call into several; '' for the whole."""
    found: str = node.meta.get(_PART, "")
    return found


def part_key(node: fx.Node, origin: str) -> str:
    """The name of an origin, or of the part of it that a node is: 'encoder/layers.0.linear1'."""
    return f"{origin}/{part_of(node)}" if part_of(node) else origin


def as_part(node: fx.Node, part: str) -> fx.Node:
    """Let `node` be one part of its site. Returns `node`."""
    node.meta[_PART] = part
    return node


def mark(node: fx.Node, *, at: Location | None, scope_name: str) -> None:
    """Give a freshly traced node its identity. For capture only."""
    node.meta[_ORIGIN] = (node.name,)
    node.meta[_WHERE], node.meta[_SCOPE] = at, scope_name


def restore(node: fx.Node, origin_ids: tuple[str, ...], *, at: Location | None, scope_name: str) -> None:
    """Give a node the identity that it had when its graph was saved. For loading only."""
    if origin_ids:
        node.meta[_ORIGIN] = origin_ids
    node.meta[_WHERE], node.meta[_SCOPE] = at, scope_name


def carry(new: fx.Node, *olds: fx.Node) -> fx.Node:
    """Let `new` stand for `olds`: all their origins in order, the first one's line and scope. Returns `new`."""
    merged = dict.fromkeys(origin for old in (*olds, new) for origin in origins(old))
    first = olds[0].meta
    new.meta.update({key: first[key] for key in (_WHERE, _SCOPE, _PART) if key in first})
    new.meta[_ORIGIN] = tuple(merged)
    return new


def adopt(inserted: fx.Node, like: fx.Node) -> fx.Node:
    """Give an inserted node the line and scope of the node it serves; it has no origin. Returns `inserted`."""
    inserted.meta.update({key: like.meta[key] for key in (_WHERE, _SCOPE) if key in like.meta})
    inserted.meta.pop(_ORIGIN, None)
    return inserted


def split_last(first: fx.Node, second: fx.Node) -> fx.Node:
    """Undo a fusion of two: `second` alone stands for the last origin that both have. Returns `second`."""
    found = origins(first)
    if len(found) > 1:
        first.meta[_ORIGIN], second.meta[_ORIGIN] = found[:-1], found[-1:]
    return second
