"""Texts of others on a terminal: what would move the cursor, or hide or reverse what stands there, is escaped."""

from __future__ import annotations

import unicodedata

# controls, invisible formats (direction marks among them), halves of pairs, line separators, private use
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def printable(text: str) -> str:
    """The text with every such character but a line's end as '\\x1b' or '\\u202e'."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in _UNSEEN else ascii(letter)[1:-1]
        for letter in text
    )
