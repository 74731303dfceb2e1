"""Writing a file whole or not at all: what stood there before stays until all of the new one is on the disk."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from fxquant.errors import FxQuantError, UsageError


def write_whole(
    path: str | os.PathLike[str], data: bytes, *, failure: type[FxQuantError] = UsageError, code: str = "FXQ118"
) -> Path:
    """Put `data` into the file at `path` and return that. A link stays a link; a pipe or a device is written to.

    Raises `failure` (UsageError FXQ118) when it cannot be written; the old file is as it was, and no other is left.
    """
    return write_together([(path, data)], failure=failure, code=code)


def write_together(
    files: Iterable[tuple[str | os.PathLike[str], bytes]],
    *,
    failure: type[FxQuantError] = UsageError,
    code: str = "FXQ118",
) -> Path:
    """`write_whole` for files that belong together: all are on the disk before the first takes its place.

    Returns the last one's path.
    """
    scratches: dict[Path, Path] = {}
    path: str | os.PathLike[str] = ""
    try:
        for path, data in files:
            target = Path(os.path.realpath(path))
            if target.exists() and not target.is_file() and not target.is_dir():
                target.write_bytes(data)
            else:
                scratches[_scratch(target, data)] = target
        for scratch, target in scratches.items():
            os.replace(scratch, target)
            _sync_folder(target.parent)
    except (OSError, ValueError, TypeError) as error:  # a zero byte is a ValueError, what is no path a TypeError
        told = f"{_named(path)} cannot be written: {getattr(error, 'strerror', None) or error}"
        raise failure(code, told, hint="what stood there before is as it was") from error
    finally:
        for scratch in scratches:
            scratch.unlink(missing_ok=True)
    return Path(path)


def _scratch(target: Path, data: bytes) -> Path:
    """A file with these bytes beside the target, which may take its place."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    made = target.with_name(f".{secrets.token_hex(4)}-{target.name[-100:]}")
    handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made


def _named(path: object) -> str:
    """A path in quotes; what is none as Python writes it."""
    if isinstance(path, (str, os.PathLike)) and isinstance(name := os.fspath(path), str):
        return f"'{shown(name)}'"
    return shown(repr(path))


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too, on systems that can open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_MOST_SHOWN = 120  # characters of a path in a message


def shown(path: str) -> str:
    """A path as a message shows it: its end where it is long."""
    return path if len(path) <= _MOST_SHOWN else f"...{path[-_MOST_SHOWN:]}"
