"""The compiler's own copy of the caller's model: deep, in eval mode, without hooks, its parametrizations worked in."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from fxquant import arrival
from fxquant.errors import ResourceError, UnsupportedModelError
from fxquant.sandbox import untouched_world


def fork(model: nn.Module) -> nn.Module:
    """A copy that computes what the model computes in eval mode. FXQ202 names the attribute that cannot be copied.

    Parametrized, weight-normed and pruned weights become plain parameters of the copy.
    """
    with untouched_world(), torch.no_grad():
        copied = _copied(model)
        copied.eval()
        for module in list(copied.modules()):
            _materialize(module)
            _drop_hooks(module)
        for parameter in copied.parameters():
            parameter.grad = None
    return copied


def _copied(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed_tensors(model)}
    plan = arrival.plan_for(model)
    memo |= arrival.replacements(model, plan)  # nothing is copied on a device that the copy is not for
    try:
        copied = copy.deepcopy(model, memo)
        arrival.remember(copied, plan)
        return copied
    except RecursionError as error:
        raise ResourceError(
            "FXQ803",
            f"{type(model).__name__} is nested deeper than Python's recursion limit ({sys.getrecursionlimit()})",
            hint="raise sys.setrecursionlimit()",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a user's __deepcopy__ or __reduce__ may raise anything
        raise _uncopyable(model, error) from error


def _computed_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Attributes that autograd computed, such as the weight of weight_norm: deepcopy refuses them."""
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                yield value
        yield from (buffer for buffer in module._buffers.values() if buffer is not None and not buffer.is_leaf)


def _uncopyable(model: nn.Module, error: Exception) -> UnsupportedModelError:
    name, value = _culprit(model)
    module, _, attribute = name.rpartition(".")
    what = f"attribute '{name}' ({type(value).__name__})" if name else type(model).__name__
    return UnsupportedModelError(
        "FXQ202",
        f"{type(model).__name__} cannot be copied, because of {what}: {error}",
        hint=f"delete '{attribute}' before compiling, or keep it outside the model"
        if name
        else "make it deep-copyable",
        module=module,
    )


def _culprit(model: nn.Module) -> tuple[str, object]:
    """The first attribute that does not deep-copy by itself."""
    for path, module in model.named_modules():
        own = {n: v for n, v in module.__dict__.items() if n not in ("_modules", "_parameters", "_buffers")}
        for name, value in (*own.items(), *module._parameters.items(), *module._buffers.items()):
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                continue
            try:
                copy.deepcopy(value)
            except Exception:  # whatever it raises, this attribute is the one
                return f"{path}.{name}".lstrip("."), value
    return "", model


def _materialize(module: nn.Module) -> None:
    """Turn a computed weight into a plain parameter with the value that it has in eval mode."""
    from torch.nn.utils import parametrize

    if parametrize.is_parametrized(module):
        _own_class(module)
        lists = cast(nn.ModuleDict, module.parametrizations)
        for name, parametrization in list(lists.items()):
            trainable = any(parameter.requires_grad for parameter in parametrization.parameters())
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            value = getattr(module, name).detach()  # torch leaves a buffer where it computed this from several tensors
            delattr(module, name)
            module.register_parameter(name, nn.Parameter(value, requires_grad=trainable))
    for key, hook in list(module._forward_pre_hooks.items()):
        if type(hook).__module__ in _REPARAMETRIZATIONS:
            hook.remove(module)  # type: ignore[attr-defined]
            del module._forward_pre_hooks[key]


_REPARAMETRIZATIONS = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm", "torch.nn.utils.prune")


def _own_class(module: nn.Module) -> None:
    """torch keeps a parametrized tensor as a property of a class made for the module, which a deep copy shares.

    Removing the property from the copy's class would break the caller's module, so the copy gets a class of its own.
    """
    shared = type(module)
    members = {name: member for name, member in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


def _drop_hooks(module: nn.Module) -> None:
    for registry in (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
        module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs, module._forward_hooks_always_called,
        module._state_dict_hooks, module._state_dict_pre_hooks, module._load_state_dict_pre_hooks,
    ):  # fmt: skip
        registry.clear()
