"""A line on stderr that names the pass that is running, where stderr is a terminal; nothing anywhere else.

No escape sequences: it looks the same under NO_COLOR and on every terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxquant.pipeline import PassRecord

_LAST = "lower-native"  # of the compiler's own pipeline
_QUIET = ("calibrate",)  # has a bar of its own


class PassProgress:
    """An observer of a compilation; as a context it takes its line away in the end."""

    def __init__(self) -> None:
        self._width = 0

    def __enter__(self) -> PassProgress:
        self._show("compiling")
        return self

    def __exit__(self, *error: object) -> None:
        self._show("")

    def __call__(self, record: PassRecord) -> None:
        """Called after each pass."""
        from fxquant.registry import BUILT_IN

        names = list(BUILT_IN)
        names = names[: names.index(_LAST) + 1]  # those after it compress, and are in no pipeline of their own accord
        index = names.index(record.name) + 1 if record.name in names else len(names)
        following = names[index] if index < len(names) else ""
        self._show("" if not following or following in _QUIET else f"compiling: {following}")

    def _show(self, text: str) -> None:
        if not sys.stderr.isatty():
            return
        blank = " " * self._width
        sys.stderr.write(f"\r{blank}\r{text}")
        sys.stderr.flush()
        self._width = len(text)
