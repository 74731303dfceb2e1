"""The seal: a fixed line near the start of a file that says how long the file is and what its bytes hash to.

    8 bytes   length of the header, as safetensors has it
    MAGIC     {"__metadata__":{"fxquant":"fxq1
    SEAL      16 hex digits of the size, 64 of the SHA-256 (over all bytes, these 64 taken as zeros), 8 of a CRC of both
    ...       the rest of the header, the tensors

The size and the hash are checked before anything is parsed, so a damaged file is told from a truncated one and from one
that was never ours, at every byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from zlib import crc32

from fxquant.errors import ChecksumError, CorruptError, TruncatedError

MAGIC = b'{"__metadata__":{"fxquant":"fxq1 '
_START = 8 + len(MAGIC)
_SIZE, _HASH, _CRC = 16, 64, 8
SEAL_BYTES = _SIZE + _HASH + _CRC
END = _START + SEAL_BYTES  # of the seal within the file
BLANK = "0" * SEAL_BYTES  # what stands there until it is sealed
_HEX = re.compile(rb"[0-9a-f]{%d}" % SEAL_BYTES)
_FEW = 4  # bytes of the magic that may differ in a file that was ours once

_DAMAGED = "take an intact copy, or compile the model again and save it"


def sealed(data: bytes) -> bytes:
    """The file with its seal filled in; `data` has BLANK in its place."""
    size = b"%016x" % len(data)
    digest = _digest(data).encode()
    return b"".join((data[:_START], _line(size, digest), data[END:]))


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """The SHA-256 that the seal of an intact file names."""
    return bytes(data[_START + _SIZE : _START + _SIZE + _HASH]).decode()


def check(data: bytes | bytearray | memoryview, title: str) -> None:
    """FXQ601 for what fxquant never wrote, FXQ602 for a part of a file, FXQ603 for a file with other bytes."""
    check_head(bytes(data[:END]), len(data), title)
    if _digest(data) != digest_of(data):
        raise ChecksumError("FXQ603", f"{title} is damaged: its bytes are not those that were saved", hint=_DAMAGED)


def check_head(head: bytes, found: int, title: str) -> None:
    """What the first END bytes of a file tell, `found` being its size: all of `check` but the hash."""
    _check_magic(head, title)
    line = head[_START:END]
    size, digest = line[:_SIZE], line[_SIZE : _SIZE + _HASH]
    if _HEX.fullmatch(line) is None or _line(size, digest) != line:
        raise ChecksumError("FXQ603", f"{title} is damaged: its seal is not one that fxquant wrote", hint=_DAMAGED)
    promised = int(size, 16)
    if found < promised:
        raise _truncated(title, found, f"{promised:,}")
    if found > promised:
        told = f"{title} is damaged: {found - promised:,} bytes follow its end"
        raise ChecksumError("FXQ603", told, hint=_DAMAGED)


def _check_magic(data: bytes | bytearray | memoryview, title: str) -> None:
    head = bytes(data[8:_START])
    wrong = sum(left != right for left, right in zip(head, MAGIC, strict=False))
    if wrong == 0 and len(data) < END:
        raise _truncated(title, len(data), f"at least {END}")
    if len(data) >= END and 0 < wrong <= _FEW:
        raise ChecksumError("FXQ603", f"{title} is damaged: its first bytes are wrong", hint=_DAMAGED)
    if wrong:
        what = _kind(bytes(data[:64]))
        raise CorruptError(
            "FXQ601",
            f"{title} is no saved model of fxquant's{what}",
            hint="save one with compiled.save(path); nothing in this file was run",
        )


_KINDS: Sequence[tuple[bytes, str]] = (
    (b"PK\x03\x04", ": it is a zip archive, such as torch.save writes"),
    (b"\x80", ": it is a pickle, which is never read"),
    (b"\x7fELF", ": it is a program"),
    (b"<", ": it is HTML or XML"),
)


def _kind(head: bytes) -> str:
    """What the file looks like, where that can be said."""
    if head[8:9] == b"{":
        return ": it is a safetensors file that something else wrote"
    return next((told for start, told in _KINDS if head.startswith(start)), "")


def _truncated(title: str, size: int, wanted: str) -> TruncatedError:
    told = f"{title} is cut off: it has {size:,} bytes of {wanted}"
    return TruncatedError("FXQ602", told, hint="copy it again, whole, or save the model again")


def _line(size: bytes, digest: bytes) -> bytes:
    return size + digest + b"%08x" % crc32(size + digest)


def _digest(data: bytes | bytearray | memoryview) -> str:
    view = memoryview(data)
    found = hashlib.sha256(view[:_START])
    found.update(BLANK.encode())
    found.update(view[END:])
    return found.hexdigest()
