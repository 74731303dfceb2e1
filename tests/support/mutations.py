"""Mutations of bytes and texts: blind ones, and ones that know JSON or TOML. Hypothesis draws them, so they shrink."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

# Tokens that readers trip over, in either format.
TOKENS = (
    "NaN", "nan", "-Infinity", "inf", "1e999", "-0", "9" * 5000, "0x" + "f" * 400, "1" * 400, "true", "null", "''", '""',
    "[" * 3000, "{" * 3000, '{"a":' * 2000, "[" * 500 + "]" * 500, '"' + "x" * 70_000 + '"', "\0", "\ud800", "\u2028",
    '"\\ud800"', '"', "'", "\\", "=", "#", "\n", "[[rule]]\n", '"""', "__class__", "x=print()", "1979-05-27", "a.b.c = 1\n",
)  # fmt: skip


class Raw(str):
    """A token that goes into the text as it stands."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys may stand twice."""


def _cut(draw: st.DrawFn, size: int) -> tuple[int, int]:
    """A slice of something of this size, mostly a short one."""
    start = draw(st.integers(0, size))
    return start, min(size, start + draw(st.integers(0, 8) | st.integers(0, max(size, 1))))


def _edited(draw: st.DrawFn, source: Any, other: Any, insert: Any, change: Callable[[st.DrawFn, Any, int], Any]) -> Any:
    """One blind edit of a text or of bytes."""
    start, end = _cut(draw, len(source))
    match draw(st.sampled_from(("change", "insert", "delete", "truncate", "splice", "repeat"))):
        case "change" if source:
            return change(draw, source, min(start, len(source) - 1))
        case "insert":
            return source[:start] + insert + source[start:]
        case "delete":
            return source[:start] + source[end:]
        case "truncate":
            return source[:start]
        case "splice":
            return source[:start] + other[draw(st.integers(0, len(other))) :]
        case _:
            return source[:end] + source[start:]


def _flip(draw: st.DrawFn, source: bytes, at: int) -> bytes:
    return source[:at] + bytes([source[at] ^ 1 << draw(st.integers(0, 7))]) + source[at + 1 :]


def _letter(draw: st.DrawFn, source: str, at: int) -> str:
    return source[:at] + draw(st.characters(max_codepoint=0x2FF)) + source[at + 1 :]


@st.composite
def mutated_bytes(draw: st.DrawFn, source: bytes, other: bytes, most: int = 3) -> bytes:
    """A bit flipped, a piece inserted, deleted, repeated, cut off, or spliced with the end of the other."""
    found = source
    for _ in range(draw(st.integers(1, most))):
        insert = draw(st.binary(min_size=1, max_size=8) | st.sampled_from((b"\0" * 8, b"\xff" * 8)))
        found = _edited(draw, found, other, insert, _flip)
    return found


@st.composite
def mutated_text(draw: st.DrawFn, source: str, other: str, most: int = 3) -> str:
    """The same for letters; what is inserted is often a token that readers trip over."""
    found = source
    for _ in range(draw(st.integers(1, most))):
        insert = draw(st.sampled_from(TOKENS) | st.text(min_size=1, max_size=4))
        found = _edited(draw, found, other, insert, _letter)
    return found


@st.composite
def mutated_json(draw: st.DrawFn, source: str, most: int = 3) -> str:
    """Valid JSON, or nearly: values swapped, replaced, nested, keys renamed, dropped or doubled."""
    tree: Any = json.loads(source, object_pairs_hook=Pairs)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(tree))
        holder, at = draw(st.sampled_from(places)) if places else (None, 0)
        if holder is None:
            continue
        match draw(st.sampled_from(("swap", "replace", "nest", "rename", "drop", "double"))):
            case "swap":
                there, position = draw(st.sampled_from(places))
                ours, theirs = _value(holder, at), _value(there, position)
                _put(holder, at, theirs)
                _put(there, position, ours)
            case "replace":
                _put(holder, at, draw(st.sampled_from([Raw(token) for token in TOKENS]) | _scalars))
            case "nest":
                depth = draw(st.sampled_from((1, 70, 3000)))
                _put(holder, at, Raw("[" * depth + "1" + "]" * depth))
            case "rename" if isinstance(holder, Pairs):
                holder[at] = (draw(st.sampled_from(("schema", "", "__class__", "name"))), holder[at][1])
            case "drop":
                del holder[at]
            case _:
                holder.append(holder[at])
        if len(written := _written(tree)) < 1 << 20:
            tree = _reread(written) or tree  # no value in it twice, so that no cycle can come of a swap
    return _written(tree)


_scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6)


def _places(tree: Any) -> Any:
    """(list or object, position) of every value, at any depth."""
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, list):
            for at in range(len(holder)):
                yield holder, at
                waiting.append(_value(holder, at))


def _value(holder: list[Any], at: int) -> Any:
    return holder[at][1] if isinstance(holder, Pairs) else holder[at]


def _put(holder: list[Any], at: int, value: Any) -> None:
    holder[at] = (holder[at][0], value) if isinstance(holder, Pairs) else value


def _written(tree: Any) -> str:
    match tree:
        case Raw():
            return str(tree)
        case Pairs():
            return "{" + ",".join(f"{json.dumps(key)}:{_written(value)}" for key, value in tree) + "}"
        case list():
            return "[" + ",".join(map(_written, tree)) + "]"
    return json.dumps(tree)


def _reread(text: str) -> Any:
    """The text as a tree again; None where it is none any more."""
    try:
        return json.loads(text, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return None


VALUE = re.compile(r"= *(.+)$")


@st.composite
def mutated_toml(draw: st.DrawFn, source: str, most: int = 3) -> str:
    """Lines swapped, doubled and dropped; values swapped and replaced; keys dotted and renamed."""
    lines = source.splitlines()
    for _ in range(draw(st.integers(1, most))):
        if not lines:
            break
        at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        found, theirs = VALUE.search(lines[at]), VALUE.search(lines[other])
        match draw(st.sampled_from(("swap lines", "double", "drop", "swap values", "replace", "dot", "indent"))):
            case "swap lines":
                lines[at], lines[other] = lines[other], lines[at]
            case "double":
                lines.insert(other, lines[at])
            case "drop":
                del lines[at]
            case "swap values" if found and theirs:
                lines[at] = lines[at][: found.start(1)] + theirs[1]
            case "replace" if found:
                lines[at] = lines[at][: found.start(1)] + draw(st.sampled_from(TOKENS))
            case "dot":
                lines[at] = draw(st.sampled_from(("rule.", "strict.", "weight.", '"".'))) + lines[at]
            case _:
                lines[at] = f"x = {{ {lines[at]} }}"
    return "\n".join(lines) + "\n"
