"""The compiler's own copy of the caller's model: deep, in eval mode, without hooks, its parametrizations worked in."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fxquant import arrival
from fxquant.eager_mode import drop_marks
from fxquant.errors import ResourceError, UnsupportedModelError
from fxquant.materializing import materialize
from fxquant.rebinding import rebind
from fxquant.sandbox import untouched_world
from fxquant.wrappers import copies_of_wrapped


def fork(model: nn.Module) -> nn.Module:
    """A copy that computes what the model computes in eval mode. FXQ202 names the attribute that cannot be copied.

    Parametrized, weight-normed and pruned weights become plain parameters of the copy.
    """
    with untouched_world(), torch.no_grad():
        copied = _copied(model)
        copied.eval()
        drop_marks(copied)
        for name, module in list(copied.named_modules()):
            materialize(module, name)
            _drop_hooks(module)
        for parameter in copied.parameters():
            parameter.grad = None
    return copied


def _copied(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed_tensors(model)}
    plan = arrival.plan_for(model)
    memo |= arrival.replacements(model, plan)  # nothing is copied on a device that the copy is not for
    try:
        copies_of_wrapped(model, memo)
        copied = copy.deepcopy(model, memo)
        rebind(copied, memo)
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


def _drop_hooks(module: nn.Module) -> None:
    for registry in (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
        module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs, module._forward_hooks_always_called,
        module._state_dict_hooks, module._state_dict_pre_hooks, module._load_state_dict_pre_hooks,
    ):  # fmt: skip
        registry.clear()
