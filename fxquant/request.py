"""What to capture, and how: the one argument of every capture strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What to capture, and how.

    `example_args`/`example_kwargs` are one call's arguments (None: not known, every parameter without a default is
    taken to be a tensor); `concrete_args` fixes parameters by name; `leaf_modules` are dotted names, classes, or
    're:' regexes of modules that are not traced into.
    """

    model: nn.Module  # the compiler's own copy, in eval mode
    example_args: tuple[Any, ...] | None = None
    example_kwargs: Mapping[str, Any] | None = None
    concrete_args: Mapping[str, Any] | None = None
    leaf_modules: Sequence[str | type[nn.Module]] = ()
