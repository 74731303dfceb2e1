"""Calls that fx cannot see: custom autograd functions, scripted functions, factories fed with sizes, isinstance.

While the block is open they are recorded as plain call_function nodes, so they stay what they are: float, with a row.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
from torch import fx

from fxquant.packing import RECORDED
from fxquant.proxies import is_sizelike

_FACTORIES = (
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm",
    "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
)  # fmt: skip


@contextmanager
def recorded_calls() -> Iterator[None]:
    """Patch what fx cannot see; put everything back on the way out."""
    apply, is_tensor = torch.autograd.Function.__dict__.get("apply"), torch.is_tensor
    script_call, finfo = torch.jit.ScriptFunction.__call__, torch.finfo
    factories = {name: getattr(torch, name) for name in _FACTORIES}
    packers = {function.__name__: function for function in RECORDED}
    try:
        torch.autograd.Function.apply = classmethod(_recorded_apply(apply))  # type: ignore[assignment,method-assign]
        torch.jit.ScriptFunction.__call__ = _recorded_script(script_call)  # type: ignore[method-assign]
        torch.is_tensor = _is_tensor  # type: ignore[assignment]
        torch.finfo = _recorded_finfo(finfo)  # type: ignore[assignment,misc]
        for name, factory in factories.items():
            setattr(torch, name, _recorded(factory))
        for name, packer in packers.items():
            setattr(torch.nn.utils.rnn, name, _recorded(packer))
        yield
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[assignment,method-assign]
        torch.jit.ScriptFunction.__call__ = script_call  # type: ignore[method-assign]
        torch.is_tensor, torch.finfo = is_tensor, finfo  # type: ignore[misc]
        for name, factory in factories.items():
            setattr(torch, name, factory)
        for name, packer in packers.items():
            setattr(torch.nn.utils.rnn, name, packer)


def proxy_in(*values: Any) -> fx.Proxy | None:
    """Any proxy among values and the containers in them."""
    for value in values:
        if isinstance(value, fx.Proxy):
            return value
        inner = value.values() if isinstance(value, dict) else value
        found = proxy_in(*inner) if isinstance(value, (tuple, list, dict)) and inner else None
        if found is not None:
            return found
    return None


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        proxy = proxy_in(args, kwargs)
        return function(*args, **kwargs) if proxy is None else proxy.tracer.create_proxy(
            "call_function", function, args, kwargs
        )  # fmt: skip

    return call


def _recorded_finfo(original: Any) -> Callable[..., Any]:
    """`torch.finfo(scores.dtype).min`: limits of a dtype that an example tells are constants of the graph."""

    def finfo(*dtype: Any) -> Any:
        proxy = proxy_in(dtype)
        known = None if proxy is None else proxy.tracer.ranks.dtype_of(proxy.node)  # type: ignore[attr-defined]
        return original(*dtype) if known is None else original(known)

    return finfo


@cache
def _leaf_of(kind: type[torch.autograd.Function]) -> Callable[..., Any]:
    """One plain function for each autograd Function, so that the same call has the same target every time."""

    def apply(*args: Any) -> Any:
        return kind.apply(*args)  # type: ignore[no-untyped-call]  # torch leaves it so

    apply.__name__ = apply.__qualname__ = kind.__name__
    apply.__module__ = kind.__module__
    return apply


def _recorded_apply(original: Any) -> Callable[..., Any]:
    def apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        proxy = proxy_in(args, kwargs)
        if proxy is None:
            return original.__get__(None, kind)(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", _leaf_of(kind), args, kwargs)

    return apply


def _recorded_script(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        proxy = proxy_in(args, kwargs)
        if proxy is None:
            return original(self, *args, **kwargs)
        return proxy.tracer.create_proxy("call_function", _script_leaf(self), args, kwargs)

    return call


@cache
def _script_leaf(function: Any) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__name__ = call.__qualname__ = str(function.name)
    call.__module__ = __name__
    return call


def _is_tensor(value: Any) -> bool:
    return isinstance_of_proxy(value, torch.Tensor)


def isinstance_of_proxy(value: Any, kinds: Any) -> bool:
    """isinstance that answers for the tensor a proxy stands for; fx answers False, and the wrong branch is traced."""
    if builtins.isinstance(value, kinds):
        return True
    if not builtins.isinstance(value, fx.Proxy) or is_sizelike(value.node):
        return False
    chosen = kinds if builtins.isinstance(kinds, tuple) else (kinds,)
    return any(builtins.isinstance(kind, type) and issubclass(torch.Tensor, kind) for kind in chosen)


@contextmanager
def shadowed_names() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that shadows, in a module's globals, `isinstance` and what packs sequences.

    All shadows go when the block ends.
    """
    seen: dict[int, dict[str, Any]] = {}
    replaced: list[tuple[dict[str, Any], str, Any]] = []

    def shadow(space: dict[str, Any]) -> None:
        if id(space) in seen:
            return
        seen[id(space)] = space
        for name, value in list(space.items()):
            if any(value is function for function in RECORDED):  # it may be anything, and compare as it likes
                replaced.append((space, name, value))
                space[name] = _recorded(value)
        if "isinstance" not in space:
            replaced.append((space, "isinstance", None))
            space["isinstance"] = isinstance_of_proxy

    try:
        yield shadow
    finally:
        for space, name, value in replaced:
            if value is None:
                del space[name]
            else:
                space[name] = value
