"""Nested values (tuples, lists, dicts, dataclasses, whatever torch's pytree knows) ⇄ a flat list of leaves."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


@dataclasses.dataclass(frozen=True, slots=True)
class _Record:
    """An unregistered dataclass or dict subclass, without its leaves: how to make one again."""

    kind: type
    names: tuple[Any, ...]  # keys of the items, or names of the fields
    inner: Structure  # of a list of the values
    attributes: frozenset[Any]  # the names that are (also) attributes
    rest: dict[str, Any] = dataclasses.field(compare=False, repr=False)  # attributes that are no leaves

    def rebuild(self, leaves: Iterator[Any]) -> Any:
        """An instance with these leaves; no constructor of the user's runs."""
        values = self.inner.unflatten([next(leaves) for _ in range(self.inner.size)])
        made: Any = object.__new__(self.kind) if not issubclass(self.kind, dict) else self.kind.__new__(self.kind)
        for name, value in self.rest.items():
            object.__setattr__(made, name, value)
        if issubclass(self.kind, dict):
            put = OrderedDict.__setitem__ if issubclass(self.kind, OrderedDict) else dict.__setitem__
            for name, value in zip(self.names, values, strict=True):
                put(made, name, value)
        for name, value in zip(self.names, values, strict=True):
            if name in self.attributes:
                object.__setattr__(made, name, value)
        return made


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a nested value. Build one with `flatten`, give leaves back with `unflatten`."""

    _spec: Any  # torch's TreeSpec over leaves, in which each _Record is one leaf
    _records: tuple[_Record | None, ...]
    size: int

    @property
    def is_leaf(self) -> bool:
        """One value, nested in nothing."""
        return self.size == 1 and self._records == (None,) and bool(self._spec.is_leaf())

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The nested value with these leaves, which must be `size` many."""
        supply = iter(leaves)
        tops = [next(supply) if record is None else record.rebuild(supply) for record in self._records]
        return pytree.tree_unflatten(tops, self._spec)

    def __str__(self) -> str:
        return str(self.unflatten(_Star() for _ in range(self.size)))


class _Star:
    """How a leaf is shown in the text of a structure."""

    def __repr__(self) -> str:
        return "*"


def _is_record(value: object) -> bool:
    if isinstance(value, type) or type(value) in pytree.SUPPORTED_NODES:
        return False
    return dataclasses.is_dataclass(value) or isinstance(value, dict)


def flatten(value: Any) -> tuple[list[Any], Structure]:
    """Leaves in order, and the structure that puts them back. None is a leaf."""
    leaves, _, structure = flatten_with_paths(value)
    return leaves, structure


def flatten_with_paths(value: Any, prefix: str = "") -> tuple[list[Any], list[str], Structure]:
    """`flatten`, and for each leaf how Python would reach it: "[0]['image'].mask"."""
    tops, spec = pytree.tree_flatten_with_path(value, is_leaf=_is_record)
    leaves: list[Any] = []
    paths: list[str] = []
    records: list[_Record | None] = []
    for keys, top in tops:
        path = prefix + str(pytree.keystr(keys))
        if not _is_record(top):
            leaves.append(top)
            paths.append(path)
            records.append(None)
            continue
        below, below_paths, record = _take_apart(top, path)
        leaves.extend(below)
        paths.extend(below_paths)
        records.append(record)
    return leaves, paths, Structure(spec, tuple(records), len(leaves))


def _take_apart(value: Any, path: str) -> tuple[list[Any], list[str], _Record]:
    if isinstance(value, dict):
        items = {key: dict.__getitem__(value, key) for key in value}
        steps = [f"{path}[{key!r}]" for key in items]
    else:
        items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        steps = [f"{path}.{name}" for name in items]
    leaves: list[Any] = []
    paths: list[str] = []
    for item, step in zip(items.values(), steps, strict=True):
        below, below_paths, _ = flatten_with_paths(item, step)
        leaves.extend(below)
        paths.extend(below_paths)
    rest = {name: kept for name, kept in getattr(value, "__dict__", {}).items() if name not in items}
    inner = flatten(list(items.values()))[1]
    mirrored = getattr(value, "__dict__", {}) if isinstance(value, dict) else items
    attributes = frozenset(name for name in items if name in mirrored)
    return leaves, paths, _Record(type(value), tuple(items), inner, attributes, rest)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The same structure with `function` applied to each leaf."""
    leaves, structure = flatten(value)
    return structure.unflatten([function(leaf) for leaf in leaves])


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a nested value, in order."""
    return [leaf for leaf in flatten(value)[0] if isinstance(leaf, Tensor)]


def copied(value: Any) -> Any:
    """The same nested value with tensors of its own."""
    return map_leaves(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value)
