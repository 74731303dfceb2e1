"""Writes that were made pure (fxquant.aliasing): errors are written to the places where the values are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from fxquant import aliasing
from fxquant.bounds.bounded import PARTS, RULES, Bounded, NoBound, exact, lifted, rule


def _all(value: Any) -> Any:
    """Lifted; plain tensors that share memory are views of one lifted memory, with their places in it as before."""
    memories: dict[int, Bounded] = {}

    def lift(leaf: Any) -> Any:
        if isinstance(leaf, Bounded) or not leaf.is_floating_point():
            return leaf
        storage = leaf.untyped_storage()
        if storage._cdata not in memories:
            size = storage.nbytes() // leaf.element_size()
            memories[storage._cdata] = exact(leaf.detach().as_strided((size,), (1,), 0))
        whole, place = memories[storage._cdata], (leaf.size(), leaf.stride(), leaf.storage_offset())
        return Bounded(*(getattr(whole, part).as_strided(*place) for part in PARTS))

    return tree_map_only((Bounded, Tensor), lift, value)


@rule("rewritten")
def rewritten(written: Any, value: Any, members: Sequence[Any]) -> tuple[Any, ...]:
    """Views of the errors lie in their storage as views of the values do in theirs; where not, there is no bound."""
    written, members = _all((written, list(members)))
    value = lifted(value)
    results = []
    for part in PARTS:
        given = tree_map_only(Bounded, attrgetter(part), members)
        results.append(aliasing.rewritten(getattr(written, part), getattr(value, part), given))
    if len({_changes(result, members, part) for result, part in zip(results, PARTS, strict=True)}) > 1:
        raise NoBound("what shares memory with what is written cannot be followed")
    flat = [tree_flatten(list(result))[0] for result in results]
    joined = iter([Bounded(*three) for three in zip(*flat, strict=True)])
    return tuple(tree_map_only(Bounded, lambda _: next(joined), members))


def _changes(result: Any, members: Any, part: str) -> tuple[bool, ...]:
    """Which members are new."""
    before = [getattr(leaf, part) for leaf in tree_flatten(members)[0] if isinstance(leaf, Bounded)]
    after = [leaf for leaf in tree_flatten(list(result))[0] if isinstance(leaf, Tensor)]
    return tuple(new is not old for new, old in zip(after, before, strict=False))


@rule("with_item")
def with_item(tensor: Any, index: Any, value: Any) -> Bounded:
    """A copy with one item replaced."""
    if any(isinstance(leaf, Bounded) for leaf in tree_flatten(index)[0]):
        raise NoBound("the place of a write depends on the numbers")
    base, item = lifted(tensor), lifted(value)
    value, error, variance = (aliasing.with_item(getattr(base, part), index, getattr(item, part)) for part in PARTS)
    return Bounded(value, error, variance)


@rule("applied")
def applied(method: str, tensor: Any, *args: Any, **kwargs: Any) -> Bounded:
    """The methods without an out-of-place twin: constants and copies only."""
    base = lifted(tensor)
    if method in ("fill_", "zero_"):
        item = lifted(args[0] if args else 0.0)
    elif method == "copy_":
        item = lifted(args[0])
    else:
        raise NoBound(f"the in-place method {method}")
    value, error, variance = (torch.empty_like(base.value).copy_(getattr(item, part)) for part in PARTS)
    return Bounded(value, error, variance)


@rule("store")
def store(buffer: Any, value: Any) -> None:
    """For the next call; this one does not see it."""


def _new(name: str) -> Callable[..., Tensor]:
    def new(input: Bounded, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = getattr(torch.empty(0, dtype=input.dtype), name)(*args, **kwargs)
        return found

    return new


def _like(name: str) -> Callable[..., Tensor]:
    def like(input: Bounded, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = getattr(torch, name)(input.value.float(), *args, **kwargs)
        return found

    return like


for _name in ("new_zeros", "new_ones", "new_full", "new_tensor", "new_empty"):
    RULES[_name] = _new(_name)
for _name in ("zeros_like", "ones_like", "full_like", "empty_like"):
    RULES[_name] = _like(_name)
