"""JSON of a file, strict: no duplicate keys, no floats, no NaN, no number beyond 64 bits, and checked by size first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from fxquant.artifact.limits import MOST_CONTAINERS, MOST_HEADER_BYTES, MOST_ITEMS, MOST_TEXT, check_limit
from fxquant.errors import ArtifactError, SchemaError

_MOST_DIGITS = 20


def dump(value: Any) -> str:
    """Canonical: sorted keys, no spaces, ASCII only. The same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parse(text: str, what: str) -> Any:
    """The value of a text that `dump` wrote. FXQ604 on any other JSON, FXQ607 on too much of it."""
    check_limit(f"characters of {what}", len(text), MOST_HEADER_BYTES)
    check_limit(f"lists in {what}", text.count("[") + text.count("{"), MOST_CONTAINERS)
    check_limit(f"items in {what}", text.count(","), MOST_ITEMS)
    try:
        return json.loads(
            text, object_pairs_hook=_no_duplicates, parse_float=_no_float, parse_constant=_no_float, parse_int=_int64
        )
    except (ValueError, RecursionError) as error:
        raise malformed(f"{what} is no JSON of ours: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is written as no number may be")


def _int64(text: str) -> int:
    number = int(text) if len(text) <= _MOST_DIGITS else 2**64
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text[:40]} does not fit into 64 bits")
    return number


# Reading what was parsed ----------------------------------------------------------------------------------------------


HINT = "do not use this file unless you made it; if fxquant did, save the model again"


@contextmanager
def advised() -> Iterator[None]:
    """What is wrong with a file inside has a way out, where nobody knew a better one."""
    try:
        yield
    except ArtifactError as error:
        error.hint = error.hint or HINT
        raise


def malformed(why: str) -> SchemaError:
    """FXQ604, saying what is wrong."""
    return SchemaError("FXQ604", f"the file is not of the form that fxquant writes: {why}")


def texts_of(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(text_of(item, what) for item in list_of(value, what))


def text_of(value: Any, what: str) -> str:
    """A text of bounded length."""
    if not isinstance(value, str):
        raise malformed(f"{what} is {type(value).__name__}, not text")
    check_limit(f"characters in {what}", len(value), MOST_TEXT)
    return value


def list_of(value: Any, what: str, *, sizes: tuple[int, ...] = ()) -> list[Any]:
    """A list, of one of these sizes where any are named."""
    if not isinstance(value, list):
        raise malformed(f"{what} is {type(value).__name__}, not a list")
    if sizes and len(value) not in sizes:
        raise malformed(f"{what} has {len(value)} items, not {' or '.join(map(str, sizes))}")
    return value


def object_of(value: Any, what: str, *, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    """An object, with exactly these keys where they are named."""
    if not isinstance(value, dict):
        raise malformed(f"{what} is {type(value).__name__}, not an object")
    if keys is not None and tuple(sorted(value)) != tuple(sorted(keys)):
        raise malformed(f"{what} needs exactly the keys {', '.join(sorted(keys))}")
    return value


def int_of(value: Any, what: str, low: int, high: int) -> int:
    """A whole number from low to high."""
    if type(value) is not int or not low <= value <= high:
        raise malformed(f"{what} is {value!r:.40}, not a whole number from {low} to {high}")
    return value


def bool_of(value: Any, what: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise malformed(f"{what} is {value!r:.40}, not true or false")
    return value
