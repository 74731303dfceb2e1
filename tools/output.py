"""Where a verb's result goes: a file that is replaced whole or not at all, or stdout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fxquant.errors import UsageError, did_you_mean
from fxquant.files import shown, write_whole

STDOUT = "-"


def check_output(path: str, suffixes: tuple[str, ...]) -> str:
    """The suffix, lower case and without its dot; '' for stdout. FXQ118 before any work when it cannot be written."""
    if path == STDOUT:
        return ""
    if not path or "\0" in path:
        raise UsageError("FXQ118", f"{path!r} is no path of a file", hint="-o x.svg, or -o - for stdout")
    target = Path(path)
    if (refusal := refused(target)) is not None:
        raise UsageError("FXQ118", f"'{shown(path)}' cannot be written: {refusal}", hint="name another place")
    if target.is_dir():
        raise UsageError("FXQ118", f"'{path}' is a folder", hint=f"name a file in it: {target / f'x.{suffixes[0]}'}")
    suffix = target.suffix.lower().removeprefix(".")
    if suffix not in suffixes:
        told = f"'{path}' ends in '.{suffix}'" if suffix else f"'{path}' has no suffix"
        hint = did_you_mean(suffix, suffixes) if suffix else f"one of {', '.join(f'.{known}' for known in suffixes)}"
        raise UsageError("FXQ118", f"{told}, which is no format that is written", hint=hint)
    if not target.parent.is_dir():
        raise UsageError("FXQ118", f"the folder of '{path}' does not exist", hint=f"mkdir -p {target.parent}")
    locked = next(
        (place for place in (target, target.parent) if place.exists() and not os.access(place, os.W_OK)), None
    )
    if locked is not None:
        raise UsageError("FXQ118", f"'{path}' cannot be written: '{locked}' is read-only", hint="name another place")
    return suffix


def refused(path: Path) -> str | None:
    """Why the system does not even look at this path (a name that is too long, a folder that is closed); else None."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror or str(error)
    return None


def write(path: str, content: str | bytes) -> None:
    """Put this into the file, which is the old one or the new one and never a part. FXQ118 when that cannot be done."""
    write_whole(path, content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def put(content: str | bytes) -> None:
    """To stdout: text as the terminal can show it, bytes as they are."""
    if isinstance(content, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return
    print(content.rstrip("\n"))


def note(text: str) -> None:
    """One line for the user, on stderr."""
    print(f"note: {text}", file=sys.stderr)
