"""Writing a file whole or not at all: what stood there before stays until all of the new one is on the disk."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fxquant.errors import FxQuantError, UsageError


def write_whole(
    path: str | os.PathLike[str], data: bytes, *, failure: type[FxQuantError] = UsageError, code: str = "FXQ118"
) -> Path:
    """Put `data` into the file at `path` and return that. A link stays a link; a pipe or a device is written to.

    Raises `failure` (UsageError FXQ118) when it cannot be written; the old file is as it was, and no other is left.
    """
    target = Path(os.path.realpath(path))
    scratch = target.with_name(f".{secrets.token_hex(4)}-{target.name[-100:]}")
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)
            return Path(path)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
        _sync_folder(target.parent)
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        told = f"'{shown(os.fspath(path))}' cannot be written: {getattr(error, 'strerror', None) or error}"
        raise failure(code, told, hint="what stood there before is as it was") from error
    finally:
        scratch.unlink(missing_ok=True)
    return Path(path)


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
