"""Where in the user's code a thing happened: file, line, function and the text of that line."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_HERE = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Location:
    """One line of the user's code."""

    file: str
    line: int
    function: str

    @property
    def text(self) -> str:
        """The source text of the line, stripped; empty when the source cannot be read."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        head = f"{self.file}:{self.line}, in {self.function}"
        return f"{head}:  {self.text}" if self.text else head


def _is_machinery(file: str) -> bool:
    """Frames of torch, of this package and of generated code are not the user's."""
    if file.startswith("<") or "/torch/" in file.replace("\\", "/"):
        return True
    parent = str(Path(file).parent)
    return parent.startswith(_HERE) or file.startswith(sysconfig.get_path("stdlib") + "/contextlib")


def innermost(frames: Iterable[tuple[str, int, str]]) -> Location | None:
    """The last frame (outermost first) that lies in the user's code, or None."""
    found = None
    for file, line, function in frames:
        if not _is_machinery(file):
            found = Location(file, line, function)
    return found


def of_traceback(traceback: TracebackType | None) -> Location | None:
    """The innermost user frame of an exception's traceback."""
    frames: list[tuple[str, int, str]] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return innermost(frames)
