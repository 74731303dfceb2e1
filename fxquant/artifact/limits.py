"""How large a saved model may be, in every respect that is cheap to check before memory is spent on it."""

from __future__ import annotations

from fxquant.errors import LimitError

MOST_BYTES = 1 << 36  # of a file: 64 GiB
MOST_HEADER_BYTES = 1 << 24
MOST_CONTAINERS = 600_000  # JSON lists and objects of the header: some 100 bytes of memory each
MOST_ITEMS = 2_000_000
MOST_NODES = 100_000
MOST_TENSORS = 100_000
MOST_RANK = 8
MOST_DEPTH = 8  # of nested lists in an argument
MOST_STRUCTURE_DEPTH = 32  # of the model's arguments and outputs
MOST_TEXT = 1 << 16  # characters of one text


def check_limit(what: str, found: int, most: int) -> None:
    """FXQ607 when there is more of something than is read."""
    if found > most:
        raise LimitError("FXQ607", f"the file has {found:,} {what}; at most {most:,} are read")
