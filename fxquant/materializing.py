"""Computed weights (parametrizations, weight_norm, pruning masks ...) become plain ones, on the compiler's copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fxquant.errors import UnsupportedModelError
from fxquant.ledger import Ledger

_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
_FEW = 6  # layers that the notice names


def is_reparametrization(hook: object) -> bool:
    """Does this forward hook compute a weight, in one of torch's ways?"""
    return isinstance(hook, _HOOKS)


def tell_computed(model: nn.Module, ledger: Ledger) -> None:
    """Say which weights are computed, and how: in the compiled model they are plain."""
    found = [f"'{name}.{weight}'".replace("'.", "'") + f" ({how})" for name, weight, how in _computed(model)]
    if found:
        more = f" and {len(found) - _FEW} more" if len(found) > _FEW else ""
        ledger.notice(
            "FXQ236",
            f"{len(found)} tensors are computed from others and are plain in the compiled model, with the values that "
            f"they have in eval mode: {', '.join(found[:_FEW])}{more}",
        )


def _computed(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """(module, tensor, how) of each computed tensor."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for tensor, steps in cast(nn.ModuleDict, module.parametrizations).items():
                yield name, tensor, ", ".join(type(step).__name__.strip("_") for step in cast(nn.ModuleList, steps))
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _HOOKS):
                yield name, _tensor_of(hook), _told(hook)


def _tensor_of(hook: Any) -> str:
    return str(getattr(hook, "_tensor_name", None) or getattr(hook, "name", "weight"))


def _told(hook: Any) -> str:
    return "pruned" if isinstance(hook, BasePruningMethod) else type(hook).__name__


def materialize(module: nn.Module, name: str) -> None:
    """Turn each computed tensor of the module called `name` into a plain one. FXQ237 where it cannot be computed."""
    if parametrize.is_parametrized(module):
        _own_class(module)
        for tensor in list(cast(nn.ModuleDict, module.parametrizations)):
            _materialize_parametrized(module, name, tensor)
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _HOOKS):
            try:
                hook.remove(module)
            except Exception as error:  # a pruning method may be the user's own
                raise _uncomputable(name, _tensor_of(hook), type(hook).__name__, error) from error
            module._forward_pre_hooks.pop(key, None)


def _materialize_parametrized(module: nn.Module, name: str, tensor: str) -> None:
    steps = cast(nn.ModuleDict, module.parametrizations)[tensor]
    is_trainable = any(parameter.requires_grad for parameter in steps.parameters())
    is_buffer = isinstance(getattr(steps, "original", None), torch.Tensor) and "original" in steps._buffers
    kinds = ", ".join(type(step).__name__ for step in cast(nn.ModuleList, steps))
    try:
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    except Exception as error:  # the user's own parametrization runs here
        raise _uncomputable(name, tensor, kinds, error) from error
    value = getattr(module, tensor).detach()  # torch leaves a buffer where it computed this from several tensors
    delattr(module, tensor)
    if is_buffer:
        module.register_buffer(tensor, value)
    else:
        module.register_parameter(tensor, nn.Parameter(value, requires_grad=is_trainable))


def _uncomputable(name: str, tensor: str, how: str, error: Exception) -> UnsupportedModelError:
    full = f"{name}.{tensor}" if name else tensor
    return UnsupportedModelError(
        "FXQ237",
        f"'{full}' cannot be computed: its {how} raises {type(error).__name__}: {error}",
        hint="the model itself cannot run like this: repair the parametrization, or remove it",
        module=name,
    )


def _own_class(module: nn.Module) -> None:
    """torch keeps a parametrized tensor as a property of a class made for the module, which a deep copy shares.

    Removing the property from the copy's class would break the caller's module, so the copy gets a class of its own.
    """
    shared = type(module)
    members = {name: member for name, member in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)
