"""The nesting of a model's arguments and outputs ⇄ JSON: leaves are their numbers, types of the user's are names.

3                   leaf 3            ["l", ...]  a list          ["t", ...]  a tuple
["d", key, value, ...]  a dict        ["o", ...]  an OrderedDict
["r", "Answer", name, value, ...]     a dataclass or dict class   ["n", "Point", ...]  a named tuple
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from fxquant.artifact.limits import MOST_STRUCTURE_DEPTH, check_limit
from fxquant.artifact.text import malformed, text_of
from fxquant.errors import MissingLeafError, UnsavableError, did_you_mean
from fxquant.structure import Structure, flatten

Types = Mapping[str, type]


def encode(structure: Structure) -> Any:
    """JSON of a structure. FXQ611 for containers that are none of these."""
    return _encoded(structure.unflatten(range(structure.size)))


def _encoded(value: Any) -> Any:
    kind = type(value)
    if kind is int:
        return value
    if kind in (list, tuple):
        return ["l" if kind is list else "t", *map(_encoded, value)]
    if kind in (dict, OrderedDict):
        return ["d" if kind is dict else "o", *_items(value.items())]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ["n", kind.__name__, *map(_encoded, value)]
    if dataclasses.is_dataclass(value):
        named = ((item.name, getattr(value, item.name)) for item in dataclasses.fields(value))
        return ["r", kind.__name__, *_items(named)]
    if isinstance(value, dict):
        return ["r", kind.__name__, *_items(value.items())]
    raise UnsavableError(
        "FXQ611",
        f"the model's arguments or outputs are nested in a {kind.__name__}, which a file cannot hold",
        hint="lists, tuples, dicts, named tuples and dataclasses can be saved",
    )


def _items(items: Any) -> Iterator[Any]:
    for key, value in items:
        if type(key) not in (str, int):
            raise UnsavableError("FXQ611", f"a dict of the model's arguments or outputs has the key {key!r:.60}")
        yield from (f"'{key}" if type(key) is str else key, _encoded(value))


def decode(found: Any, types: Types | None, what: str) -> Structure:
    """The structure again. FXQ604 for what `encode` does not write, FXQ609 for a type that was not handed in.

    Without `types` a value of a named type stands as a tuple: to count leaves, not to build.
    """
    leaves, structure = flatten(_Reader(types, what).value(found, 0))
    if leaves != list(range(len(leaves))):
        raise malformed(f"the leaves of {what} are not numbered in order")
    return structure


@dataclasses.dataclass(frozen=True)
class _Reader:
    types: Types | None
    what: str

    def value(self, found: Any, depth: int) -> Any:
        check_limit(f"levels in {self.what}", depth, MOST_STRUCTURE_DEPTH)
        match found:
            case int() if type(found) is int:
                return found
            case ["l", *items]:
                return [self.value(item, depth + 1) for item in items]
            case ["t", *items]:
                return tuple(self.value(item, depth + 1) for item in items)
            case ["d" | "o" as kind, *items]:
                return (dict if kind == "d" else OrderedDict)(self._items(items, depth))
            case ["n", _, *items] if self.types is None:
                return tuple(self.value(item, depth + 1) for item in items)
            case ["r", _, *items] if self.types is None:
                return tuple(value for _, value in self._items(items, depth))
            case ["n", name, *items]:
                return self._named_tuple(self._type(name), [self.value(item, depth + 1) for item in items])
            case ["r", name, *items]:
                return self._record(self._type(name), dict(self._items(items, depth)))
        raise malformed(f"{self.what} has {found!r:.60}")

    def _items(self, items: list[Any], depth: int) -> Iterator[tuple[Any, Any]]:
        if len(items) % 2:
            raise malformed(f"{self.what} has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            yield key if type(key) is int else text_of(key, self.what).removeprefix("'"), self.value(value, depth + 1)

    def _type(self, name: Any) -> type:
        types = self.types or {}
        known = types.get(text_of(name, self.what))
        if known is None:
            near = did_you_mean(name, types) if types else ""
            raise MissingLeafError(
                "FXQ609",
                f"{self.what} is a {name[:60]!r}, a type of the saved model's own, and none was handed in",
                hint=f"fxquant.load(path, types=[{name[:60]}]) {near}".rstrip(),
            )
        return known

    def _named_tuple(self, kind: type, values: list[Any]) -> Any:
        if len(getattr(kind, "_fields", ())) != len(values):
            raise self._misfit(kind, f"it takes {len(getattr(kind, '_fields', ()))} values, the file has {len(values)}")
        return kind._make(values)  # type: ignore[attr-defined]

    def _record(self, kind: type, values: dict[Any, Any]) -> Any:
        """An instance whose constructor did not run, as `Structure` makes them."""
        names = [item.name for item in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
        is_dict = issubclass(kind, dict)
        if (names is None and not is_dict) or (names is not None and names != list(values)):
            raise self._misfit(kind, f"the file has {', '.join(map(str, values))}")
        maker: Any = kind
        made = maker.__new__(maker) if is_dict else object.__new__(kind)
        for name, value in values.items():
            if names is not None:
                object.__setattr__(made, name, value)
            if is_dict:
                (OrderedDict if isinstance(made, OrderedDict) else dict).__setitem__(made, name, value)
        return made

    def _misfit(self, kind: type, why: str) -> MissingLeafError:
        told = f"the type {kind.__name__} that was handed in is not the one that was saved: {why}"
        return MissingLeafError("FXQ609", told, hint="hand in the class that the saved model returned")
