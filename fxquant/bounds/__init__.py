"""Derived tolerances: how far a compiled model may be from its float model, from its quantization steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.bounds.bounding import error_bound
    from fxquant.bounds.result import ErrorBound

__all__ = ["ErrorBound", "error_bound"]
_HOMES = {"error_bound": "fxquant.bounds.bounding", "ErrorBound": "fxquant.bounds.result"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
