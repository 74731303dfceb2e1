"""Where the names of dots can stand in a chart, so that no name covers another, a dot, a line or the frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

Place = tuple[float, float]

_SIDES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_STEPS = (1.05, 1.5, 2.0, 3.0, 4.5, 6.5, 9.0, 12.0)  # times the dot's radius, between a dot and its name
_NEAR = 2.0  # the farthest step that needs no line
_ROOM = 0.4  # of the radius, around each name


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, by its centre and half of its width and height."""

    x: float
    y: float
    half_width: float
    half_height: float

    def overlaps(self, other: Box) -> bool:
        """Do they share more than an edge?"""
        is_beside = abs(self.x - other.x) >= self.half_width + other.half_width
        return not is_beside and abs(self.y - other.y) < self.half_height + other.half_height

    def is_inside(self, frame: Box) -> bool:
        """Does it stand whole in the frame?"""
        is_wide_enough = abs(self.x - frame.x) + self.half_width <= frame.half_width
        return is_wide_enough and abs(self.y - frame.y) + self.half_height <= frame.half_height


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the centre of a name goes; `is_far` where a line should lead to its dot."""

    x: float
    y: float
    is_far: bool


def place(
    dots: Sequence[Place],
    sizes: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[Place]],
    frame: Box,
    *,
    radius: float,
) -> list[Placed]:
    """A place for the name of each dot, in their order; the first free one, near before far.

    Args:
        dots: centres, in any unit of length, the same for all.
        sizes: (width, height) of each name.
        lines: what names keep clear of, each by its corners.
        frame: what they stay inside of.
        radius: of a dot.

    Where nothing is free the last try stands.
    """
    taken = [Box(x, y, radius, radius) for x, y in dots]
    taken += [Box(x, y, radius / 4, radius / 4) for line in lines for x, y in _along(line, radius / 2)]
    found: list[Placed] = []
    for (x, y), (width, height) in zip(dots, sizes, strict=True):
        half = (width / 2 + _ROOM * radius, height / 2 + _ROOM * radius)
        for step, (right, up) in product(_STEPS, _SIDES):
            reach = radius * step
            box = Box(x + right * (reach + half[0]), y + up * (reach + half[1]), *half)
            if box.is_inside(frame) and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        found.append(Placed(box.x, box.y, step > _NEAR))
    return found


def _along(corners: Sequence[Place], step: float) -> Iterator[Place]:
    """Places on a line through these corners, so far from one to the next."""
    for (x, y), (to_x, to_y) in pairwise(corners):
        count = max(1, round(max(abs(to_x - x), abs(to_y - y)) / step))
        yield from ((x + (to_x - x) * k / count, y + (to_y - y) * k / count) for k in range(count + 1))
