"""Nested values (tuples, lists, dicts, dataclasses, whatever torch's pytree knows) ⇄ a flat list of leaves."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from torch.utils import _pytree as pytree


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a nested value. Build one with `flatten`, give leaves back with `unflatten`."""

    _spec: Any  # torch's TreeSpec over leaves, in which each unregistered dataclass is one leaf
    _inner: tuple[tuple[Any, tuple[str, ...], Structure] | None, ...]  # such a leaf: an empty instance, fields, shape
    size: int

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The nested value with these leaves, which must be `size` many."""
        supply = iter(leaves)
        return pytree.tree_unflatten([_rebuild(inner, supply) for inner in self._inner], self._spec)

    def __str__(self) -> str:
        return str(self.unflatten("*" * self.size))


def _is_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value) not in pytree.SUPPORTED_NODES


def flatten(value: Any) -> tuple[list[Any], Structure]:
    """Leaves in order, and the structure that puts them back. None is a leaf."""
    tops, spec = pytree.tree_flatten(value, is_leaf=_is_dataclass)
    leaves: list[Any] = []
    inner: list[tuple[Any, tuple[str, ...], Structure] | None] = []
    for top in tops:
        if not _is_dataclass(top):
            leaves.append(top)
            inner.append(None)
            continue
        names = tuple(field.name for field in dataclasses.fields(top))
        below, structure = flatten([getattr(top, name) for name in names])
        leaves.extend(below)
        inner.append((_emptied(top, names), names, structure))
    return leaves, Structure(spec, tuple(inner), len(leaves))


def _emptied(instance: Any, names: tuple[str, ...]) -> Any:
    """A copy that holds none of the leaves, so that a structure keeps no tensors alive."""
    empty = copy.copy(instance)
    for name in names:
        object.__setattr__(empty, name, None)
    return empty


def _rebuild(inner: tuple[Any, tuple[str, ...], Structure] | None, supply: Any) -> Any:
    if inner is None:
        return next(supply)
    empty, names, structure = inner
    value = copy.copy(empty)
    for name, item in zip(names, structure.unflatten([next(supply) for _ in range(structure.size)]), strict=True):
        object.__setattr__(value, name, item)
    return value


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The same structure with `function` applied to each leaf."""
    leaves, structure = flatten(value)
    return structure.unflatten([function(leaf) for leaf in leaves])
