"""A picture as the content of a file: DOT text, an HTML page, or what the renderer makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxquant.errors import RenderError
from fxquant.tools.output import STDOUT, note, write
from fxquant.tools.page import page

if TYPE_CHECKING:
    from fxquant.drawing.picture import Picture


def file_of(picture: Picture, form: str, output: str, *, title: str, texts: tuple[str, ...]) -> str | bytes:
    """FXQ7xx where nothing can render it: the DOT text is then kept beside `output`."""
    if form == "dot":
        return picture.dot
    try:
        return page(title, picture.svg(), texts).encode() if form == "html" else picture.render(form)
    except RenderError:
        if output != STDOUT:
            write(f"{output}.dot", picture.dot)
            note(f"the DOT text is kept in {output}.dot")
        raise
