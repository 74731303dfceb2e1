"""The file as safetensors: tensors by name and one text. It is read only where every byte of it has its place.

The library writes and reads the tensors; what it is given was checked here first, down to holes and overlaps.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import safetensors.torch
from torch import Tensor

from fxquant.artifact import seal
from fxquant.artifact.limits import MOST_BYTES, MOST_HEADER_BYTES, MOST_RANK, MOST_TENSORS, check_limit
from fxquant.artifact.text import int_of, list_of, malformed, object_of, parse
from fxquant.errors import CorruptError, LimitError

KEY = "fxquant"
# dtypes of the format that are read, with their bytes
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")
_MARK = "fxq1 "
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_NAME_ONE = "name a file that compiled.save(path) wrote"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the header: its dtype in the format's spelling, its shape, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a sealed file holds. `text` is JSON that nobody has looked at yet."""

    text: str
    entries: Mapping[str, Entry]
    data: bytes

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, each with memory of its own."""
        return safetensors.torch.load(self.data)


def write(text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The sealed file. Tensors are contiguous, on the CPU, and of a dtype of SIZES."""
    blank = _MARK + seal.BLANK + " " + text
    return seal.sealed(safetensors.torch.save(dict(tensors), metadata={KEY: blank}))


def read_file(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The bytes at a path, and how messages call it. FXQ601 where there is no file, FXQ607 where it is too large."""
    title = f"'{os.fspath(path)}'"
    try:
        # a pipe that nobody writes to must not be waited for; what is no plain file is not read at all
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
            size = _size_of(os.fstat(file.fileno()), title)
            head = file.read(seal.END)
            seal.check_head(head, size, title)  # before the rest is read: a large file that is no model costs nothing
            file.seek(0)
            return file.read(size), title  # less of it where somebody cuts it off meanwhile, which the seal tells
    except FileNotFoundError as error:
        raise CorruptError("FXQ601", f"{title[:200]} does not exist", hint=_NAME_ONE) from error
    except IsADirectoryError as error:
        raise CorruptError("FXQ601", f"{title[:200]} is a folder", hint=_NAME_ONE) from error
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise CorruptError("FXQ601", f"{title[:200]} cannot be read: {error}"[:400]) from error
    except MemoryError as error:
        told = f"{title[:200]} is larger than the memory that is left"
        raise LimitError("FXQ607", told, hint="load it on a machine with more memory") from error


def _size_of(facts: os.stat_result, title: str) -> int:
    if not stat.S_ISREG(facts.st_mode):
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "no plain file but a pipe, a socket or a device"
        raise CorruptError("FXQ601", f"{title} is {what}", hint=_NAME_ONE)
    check_limit("bytes", facts.st_size, MOST_BYTES)
    return facts.st_size


def read(data: bytes, title: str) -> Contents:
    """Check size, seal and header, in this order."""
    seal.check(data, title)
    length = int.from_bytes(data[:8], "little")
    check_limit("bytes of header", length, MOST_HEADER_BYTES)
    if 8 + length > len(data):
        raise malformed("its header is longer than the file")
    try:
        header = object_of(parse(data[8 : 8 + length].decode("utf-8"), "the header"), "the header")
    except UnicodeDecodeError as error:
        raise malformed(f"its header is no UTF-8: {error}") from error
    metadata = object_of(header.pop("__metadata__", None), "the metadata", keys=(KEY,))
    text = metadata[KEY]
    start = len(_MARK) + seal.SEAL_BYTES + 1
    if not isinstance(text, str) or text[start - 1 : start] != " ":
        raise malformed("the text of its metadata has no seal")
    check_limit("tensors", len(header), MOST_TENSORS)
    entries = {name: _entry(name, value) for name, value in header.items()}
    _check_tiling(entries, len(data) - 8 - length)
    return Contents(text[start:], entries, data)


def _entry(name: str, value: Any) -> Entry:
    if _NAME.fullmatch(name) is None:
        raise malformed(f"{name[:60]!r} is no name for a tensor")
    item = object_of(value, f"tensor '{name}'", keys=("dtype", "shape", "data_offsets"))
    if item["dtype"] not in SIZES:
        raise malformed(f"tensor '{name}' has the dtype {item['dtype']!r:.40}")
    shape = list_of(item["shape"], f"the shape of tensor '{name}'")
    check_limit(f"dimensions in tensor '{name}'", len(shape), MOST_RANK)
    sizes = tuple(int_of(size, f"a size of tensor '{name}'", 0, 2**40) for size in shape)
    offsets = list_of(item["data_offsets"], f"the offsets of tensor '{name}'", sizes=(2,))
    start, end = (int_of(offset, f"an offset of tensor '{name}'", 0, 2**62) for offset in offsets)
    if end - start != prod(sizes) * SIZES[item["dtype"]]:
        raise malformed(f"tensor '{name}' has {end - start} bytes, which is not what its shape {sizes} takes")
    return Entry(item["dtype"], sizes, start, end)


def _check_tiling(entries: Mapping[str, Entry], size_bytes: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            raise malformed(f"tensor '{name}' leaves a hole, or overlaps another one")
        end = entry.end
    if end != size_bytes:
        raise malformed(f"its tensors take {end:,} bytes, and it has {size_bytes:,}")
