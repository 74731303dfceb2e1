"""Pictures in the report: which are drawn, how deep, and what stands in their place where one cannot be drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from fxquant.errors import FxQuantError
from fxquant.reporting.inlining import inline_svg, natural_size

Draw = Callable[..., Any]  # (snapshot or diff, **options) → what has .svg(timeout), .dot and .notes

MOST_SECONDS = 20.0  # for one picture
MOST_BYTES = 1_500_000  # of one picture in the page
MOST_DOT = 200_000  # characters of DOT text that stand in for a picture


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, or why there is none and the text that it would be drawn from."""

    id: str
    title: str
    svg: Markup | None = None
    width: int = 0  # in points
    height: int = 0
    notes: tuple[str, ...] = ()
    why: str = ""
    dot: str = ""


def figure_of(subject: Any, draw: Draw, *, id: str, title: str, **options: Any) -> Figure:
    """The subject drawn; where the renderer is missing, fails or hangs, why, and the DOT text. Never raises."""
    dot, notes = "", tuple[str, ...]()
    try:
        picture = draw(subject, **options)
        dot, notes = str(picture.dot)[:MOST_DOT], tuple(str(note) for note in picture.notes)
        text = str(picture.svg(timeout=MOST_SECONDS))
        if len(text) > MOST_BYTES:
            return Figure(id, title, notes=notes, why=_too_large(len(text)), dot=dot)
        svg = inline_svg(text, id)
    except (FxQuantError, ElementTree.ParseError) as error:
        return Figure(id, title, notes=notes, why=_told(error), dot=dot)
    width, height = natural_size(svg)
    return Figure(id, title, svg, width, height, notes)


def _told(error: Exception) -> str:
    if not isinstance(error, FxQuantError):
        return f"The renderer gave no readable SVG: {error}"
    hint = f"\nTry: {error.hint}" if error.hint else ""
    return f"{error.code} {error.message}{hint}"


def _too_large(size: int) -> str:
    return f"The picture takes {size / 1e6:.1f} MB and was left out, so that this file stays small."
