"""What the terminal can show: one console for all verbs, and ASCII stand-ins where its encoding lacks a character.

Verbs print with `print` or this console: `click.echo` sends UTF-8 to a terminal that said it is ASCII.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

ASCII = {
    "×": "x",
    "–": "-",
    "—": "-",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "…": "...",
    "·": "-",
    "±": "+/-",
    "✓": "ok",
    "✗": "no",
    "★": "*",
    "µ": "u",
    "∞": "inf",
    "−": "-",
}
PIPE_WIDTH = 120  # columns where nobody looks: wide enough that a row of a table stays one line


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(ASCII.get(character, "?") for character in missing), error.end


def _opened(stream: TextIO | None) -> TextIO:
    """Python has None for a stream that the shell closed (`>&-`), and prints to stdout what is meant for it."""
    return stream if stream is not None else open(os.devnull, "w", encoding="utf-8")


def prepare_streams() -> None:
    """Characters that stdout or stderr cannot encode become ASCII instead of an exception; a closed one takes all."""
    sys.stdout, sys.stderr = _opened(sys.stdout), _opened(sys.stderr)
    codecs.register_error("fxquant-ascii", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="fxquant-ascii")


def console() -> Console:
    """A rich console on stdout. NO_COLOR is honoured, and a closed pipe is left to the command line's own handler."""
    from rich.console import Console  # rich takes a tenth of a second to import: only verbs that draw pay for it

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    found = PlainConsole(highlight=False)
    if not found.is_terminal:
        found.width = PIPE_WIDTH
    return found
