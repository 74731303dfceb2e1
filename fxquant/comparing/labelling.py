"""Names beside the dots of a matplotlib axis; where they can stand, `placing` knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxquant.comparing.placing import Box, place

_RADIUS = 6.5  # of a dot, in points
_FONT_SIZE = 9
_LEADER = "#98a2b0"


def label_points(
    axis: Any, points: Sequence[tuple[str, float, float]], lines: Sequence[Sequence[tuple[float, float]]], colour: str
) -> None:
    """Write each (name, x, y) near its dot; one that stands far from it gets a thin line to it.

    The axis has its final limits and place. `lines` are what names keep clear of, each by its corners.
    """
    renderer = axis.figure.canvas.get_renderer()
    area = axis.get_window_extent(renderer)
    frame = Box((area.x0 + area.x1) / 2, (area.y0 + area.y1) / 2, area.width / 2, area.height / 2)
    dots = [tuple(axis.transData.transform((x, y))) for _, x, y in points]
    drawn = [[tuple(axis.transData.transform(at)) for at in line] for line in lines]
    notes = [_note(axis, name, (x, y), colour) for name, x, y in points]
    extents = [note.get_window_extent(renderer) for note in notes]
    sizes = [(extent.width, extent.height) for extent in extents]
    points_each = 72 / axis.figure.dpi  # points in a pixel; the file may be drawn with other pixels
    placed = place(dots, sizes, drawn, frame, radius=_RADIUS / points_each)
    for note, dot, at in zip(notes, dots, placed, strict=True):
        note.set_position(((at.x - dot[0]) * points_each, (at.y - dot[1]) * points_each))
        note.arrow_patch.set_visible(at.is_far)


def _note(axis: Any, name: str, at: tuple[float, float], colour: str) -> Any:
    note = axis.annotate(
        name,
        at,
        textcoords="offset points",
        xytext=(0, 0),
        ha="center",
        va="center",
        fontsize=_FONT_SIZE,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": _LEADER, "linewidth": 0.7, "shrinkB": 4},
        zorder=4,
    )
    note.arrow_patch.set_visible(False)
    return note
