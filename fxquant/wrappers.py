"""Wrappers around a model or its parts: torch.compile and data parallelism are taken off, shards are refused."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from fxquant.errors import UnsupportedModelError
from fxquant.ledger import Ledger

_WRAPPERS = ("torch.nn.parallel.", "torch.nn.DataParallel", "torch.distributed.fsdp")


def inner_of(model: nn.Module) -> nn.Module | None:
    """The module inside a wrapper; None for what is none. FXQ213 for a wrapper that holds shards."""
    if "_orig_mod" in model._modules:  # torch.compile's OptimizedModule
        return model._modules["_orig_mod"]
    home = f"{type(model).__module__}.{type(model).__name__}"
    if not home.startswith(_WRAPPERS):
        return None
    if set(model._modules) == {"module"} and "fsdp" not in home:
        return model._modules["module"]
    raise UnsupportedModelError(
        "FXQ213",
        f"{home} shards or wraps the model in a way that cannot be taken off",
        hint="compile the plain nn.Module, before it is wrapped or after its full state is gathered",
    )


def innermost(model: nn.Module) -> nn.Module:
    """What is in the wrappers around this module, however many; the module itself where there is none."""
    while (inner := inner_of(model)) is not None:
        model = inner
    return model


def tell_wrapped(model: nn.Module, ledger: Ledger) -> None:
    """Say which parts of a model are wrapped, and refuse shards that need no wrapper (FSDP2)."""
    for name, module in model.named_modules():
        if module is not model and inner_of(module) is not None:
            ledger.notice(
                "FXQ229",
                f"{type(module).__name__} was taken off '{name}': what is compiled is the "
                f"{type(innermost(module)).__name__} in it, under the name '{name}'",
                module=name,
            )
    for name, parameter in model.named_parameters():
        if type(parameter).__module__.startswith("torch.distributed"):
            raise UnsupportedModelError(
                "FXQ213",
                f"parameter '{name}' is a {type(parameter).__name__}: this process holds a shard of it",
                hint="compile the plain nn.Module, with its full state gathered",
                module=name.rpartition(".")[0],
            )


def copies_of_wrapped(model: nn.Module, memo: dict[int, Any]) -> None:
    """Let a deep copy of the model find a copy of the inner module where a wrapper stands.

    Wrappers hold process groups and compiled code, which do not copy.
    """
    wrapped = [module for module in model.modules() if inner_of(module) is not None]
    for module in reversed(wrapped):  # the inner ones first
        if id(module) not in memo:
            memo[id(module)] = copy.deepcopy(innermost(module), memo)
