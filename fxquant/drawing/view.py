"""What a picture shows, as plain data: boxes, arrows, clusters by path, a legend. Written as DOT in `dot.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """One box: one node, an op with the constants that it reads, or a module.

    `look` names its fill and shape (see `looks.py`), `change` what became of it in a diff, `bar` how far an overlay's
    value lies on the way from good (0) to bad (1), `outline` the number of the island that it is part of.
    """

    id: str
    lines: tuple[str, ...]
    look: str
    cluster: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    change: str = ""
    value: float | None = None
    bar: float | None = None
    outline: int | None = None
    tooltip: str = ""


@dataclass(frozen=True, slots=True)
class Arrow:
    """From a box that gives to a box that reads. `look`: '' as ever; 'old', 'new' in a diff; 'cut' at int8's border."""

    source: str
    target: str
    label: str = ""
    look: str = ""
    tooltip: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the legend, drawn in the look that it explains."""

    text: str
    look: str
    change: str = ""
    bar: float | None = None
    outline: int | None = None


@dataclass(frozen=True)
class View:
    """Everything in the picture, in the order in which it is written."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    legend: tuple[Key, ...] = ()
    title: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Box]:
        return iter(self.boxes)
