"""What each pass did to the size of a float model: parameters, those that are not zero, multiplications, bytes, layers.

Computed from the records of the passes, never self-reported: whoever's pass changes weights or work is a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fxquant.graphs.costs import costs
from fxquant.graphs.snapshot import GraphSnapshot

if TYPE_CHECKING:
    from fxquant.pipeline import PassRecord
    from fxquant.weighing import Weights


@dataclass(frozen=True, slots=True)
class Size:
    """Of a float model. MACs are for the example that it was captured with; None where no shapes are known."""

    parameters: int
    nonzero: int
    macs: int | None
    size_bytes: int

    @property
    def numbers(self) -> tuple[int | None, ...]:
        """Parameters, those that are not zero, MACs, bytes."""
        return self.parameters, self.nonzero, self.macs, self.size_bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One pass that changed weights or the work that is done with them."""

    name: str
    before: Size
    after: Size
    layers: tuple[str, ...]  # whose weights changed, by their names before the pass where they had one

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def steps_of(history: Iterable[PassRecord]) -> tuple[Step, ...]:
    """The passes that changed a float model's weights or its multiplications, in order."""
    found = []
    for record in history:
        if record.weights_before is None or record.weights_after is None:
            continue
        before = _size(record.before, record.weights_before)
        after = _size(record.after, record.weights_after)
        is_same = Counter(record.weights_before.values()) == Counter(record.weights_after.values())
        if not is_same or before != after:
            touched = _touched(record.weights_before, record.weights_after)
            found.append(Step(record.name, before, after, _in_order(touched, record.before)))
    return tuple(found)


def _size(graph: GraphSnapshot, weights: Weights) -> Size:
    known = [cost.macs for cost in costs(graph).values() if cost.macs is not None]
    has_shapes = any(node.values for node in graph if node.op == "placeholder")
    each = weights.values()
    return Size(
        parameters=sum(weight.elements for weight in each),
        nonzero=sum(weight.nonzero for weight in each),
        macs=sum(known) if has_shapes else None,
        size_bytes=sum(weight.size_bytes for weight in each),
    )


def _touched(before: Weights, after: Weights) -> tuple[str, ...]:
    """Modules with a parameter that changed, came or went; one that was only renamed did not change."""
    lost = Counter(weight for name, weight in before.items() if after.get(name) != weight)
    won = Counter(weight for name, weight in after.items() if before.get(name) != weight)
    renamed = lost & won
    old = _owners(name for name, weight in before.items() if after.get(name) != weight and not renamed[weight])
    new = _owners(name for name, weight in after.items() if before.get(name) != weight and not renamed[weight])
    return (*old, *(name for name in new if not _is_within(name, old)))


def _in_order(names: Iterable[str], graph: GraphSnapshot) -> tuple[str, ...]:
    """As the graph calls them; what it does not call by this name comes last."""
    targets = [node.target for node in graph if node.op == "call_module"]

    def place(name: str) -> int:
        near = (
            index for index, target in enumerate(targets) if _is_within(name, [target]) or _is_within(target, [name])
        )
        return next(near, len(targets))

    return tuple(sorted(names, key=place))


def _owners(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _is_within(name: str, others: Sequence[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in others)
