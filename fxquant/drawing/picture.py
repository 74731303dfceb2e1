"""`draw`: a graph or a diff as a picture. The DOT text is there at once; rendering waits until it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from fxquant.drawing.building import Wanted, view_of
from fxquant.drawing.changes import difference_of, side_by_side_of
from fxquant.drawing.dot import dot_text
from fxquant.drawing.overlays import Overlay
from fxquant.drawing.rendering import FORMATS, SECONDS, TEXTS, check_format, render
from fxquant.drawing.svg import tidy
from fxquant.drawing.view import View
from fxquant.errors import FxQuantError, RenderError, UsageError
from fxquant.files import write_whole
from fxquant.graphs.diffing import GraphDiff
from fxquant.graphs.snapshot import GraphSnapshot

NOTEBOOK_SECONDS = 20.0


@dataclass(frozen=True)
class Picture:
    """A picture that can be saved, shown in a notebook, or taken as text.

    `dot` is byte-stable for the same graph; `notes` say what was done so that it can be drawn at all; `view` is the
    picture as data.
    """

    dot: str = field(repr=False)
    notes: tuple[str, ...] = ()
    view: View = field(default_factory=lambda: View((), ()), repr=False)

    def svg(self, timeout: float = SECONDS) -> str:
        """One <svg> element for a page: no scripts, no links, ids of its own."""
        rendered = render(self.dot, "svg", timeout=timeout)
        return tidy(rendered, "g" + sha256(self.dot.encode("utf-8")).hexdigest()[:8])

    def render(self, format: str, timeout: float = SECONDS) -> bytes:
        """The bytes of an 'svg', 'png' or 'pdf'. FXQ116: another format; FXQ701–703 as `save`."""
        check_format(format, FORMATS)
        return self.svg(timeout).encode("utf-8") if format == "svg" else render(self.dot, format, timeout=timeout)

    def save(self, path: str | os.PathLike[str], timeout: float = SECONDS) -> Path:
        """Write it, whole or not at all; the suffix says how: .svg .png .pdf, .dot or .gv for the text.

        Raises:
            UsageError: FXQ116, another suffix; FXQ118, a path that cannot be written.
            RenderError: FXQ701 no renderer, FXQ702 too slow, FXQ703 it failed; the DOT text is kept in `path`.dot.
        """
        goal = Path(path)
        kind = goal.suffix.removeprefix(".").lower()
        check_format(kind, (*FORMATS, *TEXTS))
        if kind in TEXTS:
            return write_whole(goal, self.dot.encode("utf-8"))
        try:
            return write_whole(goal, self.render(kind, timeout))
        except RenderError as error:
            kept = write_whole(goal.with_name(f"{goal.name}.dot"), self.dot.encode("utf-8"))
            raise type(error)(
                error.code, f"{error.message}; the DOT text is kept in {kept}", hint=error.hint
            ) from error

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def _repr_svg_(self) -> str | None:
        return self._shown()[0]

    def _repr_html_(self) -> str:
        shown, problem = self._shown()
        return shown or f"<div><p>{escape(problem)}</p><pre>{escape(self.dot[:100_000])}</pre></div>"

    def _shown(self) -> tuple[str | None, str]:
        try:
            return self.svg(NOTEBOOK_SECONDS), ""
        except (FxQuantError, OSError, ValueError) as error:
            return None, str(error)


def draw(
    x: Any,
    *,
    depth: int | None = None,
    overlay: Overlay | Mapping[str, float] | None = None,
    constants: bool = False,
    side_by_side: bool = False,
    islands: Iterable[tuple[str, Iterable[str]]] = (),
    context: int | None = 2,
    title: str = "",
) -> Picture:
    """A picture of a graph, or of a diff.

    Args:
        x: a `GraphSnapshot`, a `GraphDiff`, `(before, after, diff)`, or anything that `fxquant.snapshot` takes.
        depth: collapse to module paths of so many levels; 0 is one box for the model. None: every op.
        overlay: a value per node, by name, site or module path; `Overlay.sqnr(...)` and the like know the unit.
        constants: draw each weight, scale and dequantize of weights as a box of its own.
        side_by_side: of a diff, both graphs beside each other instead of one merged picture.
        islands: (label, node names) to outline.
        context: of a diff, how many unchanged boxes to show around a change; None: all.

    Raises:
        UsageError: FXQ115, `x` holds no graph; FXQ116, a negative depth.
    """
    if depth is not None and depth < 0:
        raise UsageError("FXQ116", f"no picture of depth {depth}", hint="0 is one box, None is every op")
    known = overlay if overlay is None or isinstance(overlay, Overlay) else Overlay(overlay)
    outlined = tuple((label, tuple(names)) for label, names in islands)
    wanted = Wanted(depth, known, constants, outlined, context)
    view = _view(x, wanted, side_by_side, title)
    return Picture(dot_text(view), view.notes, view)


def _view(x: Any, wanted: Wanted, side_by_side: bool, title: str) -> View:
    if isinstance(x, GraphDiff):
        x = (getattr(x, "before", None), getattr(x, "after", None), x)
    match x:
        case (GraphSnapshot() as before, GraphSnapshot() as after, GraphDiff() as diff):
            return (side_by_side_of if side_by_side else difference_of)(before, after, diff, wanted, title)
    if not isinstance(x, GraphSnapshot):
        from fxquant.graphs.snapping import snapshot

        x = snapshot(x)
    return view_of(x, wanted, title)
