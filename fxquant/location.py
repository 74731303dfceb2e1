"""Where in the user's code a thing happened: file, line, function and the text of that line."""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FrameType, TracebackType

_MACHINERY = os.path.realpath(os.path.dirname(__file__)) + os.sep
_MODELS = os.path.join(_MACHINERY, "tools", "")  # the demo's models are like any user's; a wheel has them in here


@dataclass(frozen=True, slots=True)
class Location:
    """One line of the user's code."""

    file: str
    line: int
    function: str
    is_saved: bool = False  # from a saved model: the file lies elsewhere, if it still does

    @property
    def text(self) -> str:
        """The source text of the line, stripped; empty when the source cannot be read."""
        return "" if self.is_saved else linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        head = f"{self.file}:{self.line}, in {self.function}"
        return f"{head}:  {self.text}" if self.text else head


@lru_cache(maxsize=4096)
def _is_machinery(file: str, torch_file: str | None) -> bool:
    """Frames of torch, of this package and of generated code are not the user's."""
    if file.startswith("<") or file == contextlib.__file__:
        return True
    real = os.path.realpath(file)
    if torch_file is not None and real.startswith(os.path.dirname(os.path.realpath(torch_file)) + os.sep):
        return True
    return real.startswith(_MACHINERY) and not real.startswith(_MODELS)


def _is_user(file: str) -> bool:
    torch = sys.modules.get("torch")  # not imported here: the command line's help does not wait for it
    return not _is_machinery(file, getattr(torch, "__file__", None))


def innermost(frames: Iterable[tuple[str, int, str]]) -> Location | None:
    """The last frame (outermost first) that lies in the user's code, or None."""
    found = None
    for file, line, function in frames:
        if _is_user(file):
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


def of_frame(frame: FrameType | None, *, stop: CodeType) -> Location | None:
    """The innermost user frame from `frame` outwards, not further than the call of `stop`. Cheap: reads no source."""
    while frame is not None and frame.f_code is not stop:
        if _is_user(frame.f_code.co_filename):
            return Location(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None


def of_function(function: object) -> Location | None:
    """The line where a function is defined, for what has no line of its own (an argument)."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if not isinstance(code, CodeType) or not _is_user(code.co_filename):
        return None
    return Location(code.co_filename, code.co_firstlineno, code.co_name)


def here() -> Location | None:
    """The user's line that is running now: the innermost frame of theirs on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_user(frame.f_code.co_filename):
            return Location(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None
