"""Checks of the caller's model before anything is copied or traced. They read the model and never write to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from fxquant import arrival
from fxquant.eager_mode import is_float_functional, tell_marks
from fxquant.errors import (
    AlreadyQuantizedError,
    MemoryBudgetError,
    NonFiniteError,
    TrainingModeError,
    UnsupportedModelError,
)
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.materializing import is_reparametrization, tell_computed
from fxquant.wrappers import inner_of, tell_wrapped

__all__ = ["check", "fingerprint", "fork", "unwrapped"]

COPIES = 5  # fork, traced, prepared, reference and lowered model may live at once
OUTLIER = 100.0  # so many times the median channel: per tensor, the others keep few steps

_QUANTIZED_HOMES = (
    "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat",
    "torch.ao.nn.sparse", "torch.ao.nn.quantizable", "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize", "torchao.quantization",
)  # fmt: skip


def check(model: object, ledger: Ledger, *, strict: bool = False, memory_limit: int | None = None) -> nn.Module:
    """The module to compile, unwrapped, or the error that says why not. What can be lived with is a notice.

    `memory_limit` is in bytes. Raises UnsupportedModelError (FXQ2xx), NonFiniteError or MemoryBudgetError.
    """
    module = unwrapped(model, ledger)
    tell_wrapped(module, ledger)
    _check_not_quantized(module)
    _check_initialized(module)
    arrival.check(module, ledger, strict=strict)
    _check_memory(module, memory_limit)
    _check_finite(module)
    _check_mode(module, ledger, strict)
    _tell_hooks(module, ledger)
    tell_computed(module, ledger)
    tell_marks(module, ledger)
    _tell_outliers(module, ledger)
    if next(module.parameters(), None) is None:
        ledger.notice("FXQ228", f"{type(module).__name__} has no parameters: there are no weights to quantize")
    return module


def unwrapped(model: object, ledger: Ledger) -> nn.Module:
    """The plain module inside torch.compile and DataParallel wrappers. FXQ201, FXQ213, FXQ230."""
    if isinstance(model, type):
        is_module = issubclass(model, nn.Module)
        raise UnsupportedModelError(
            "FXQ201",
            f"expected an nn.Module, got the class {model.__name__} itself",
            hint=f"pass an instance: {model.__name__}(...)" if is_module else "pass an nn.Module instance",
        )
    if not isinstance(model, nn.Module):
        is_state = isinstance(model, dict)
        raise UnsupportedModelError(
            "FXQ201",
            f"expected an nn.Module, got {type(model).__name__}",
            hint="this looks like a state dict: build the model and load_state_dict() it" if is_state
            else "wrap the function in an nn.Module whose forward() calls it",
        )  # fmt: skip
    if (type(model).__module__, type(model).__name__) in (
        ("fxquant.model", "CompiledModel"),
        ("fxquant.qat", "QATModel"),
    ):
        raise _already(type(model).__name__, "it was compiled by fxquant", "")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            "FXQ213",
            f"{type(model).__name__} is a TorchScript module: there is no Python left to trace",
            hint="compile the nn.Module that it was scripted or traced from",
        )
    inner = inner_of(model)
    if inner is None:
        return model
    ledger.notice(
        "FXQ229", f"{type(model).__name__} was taken off: what is compiled is the {type(inner).__name__} in it"
    )
    return unwrapped(inner, ledger)


def _check_not_quantized(model: nn.Module) -> None:
    for name, module in model.named_modules():
        home = type(module).__module__
        if is_float_functional(module):
            continue
        if home.startswith(_QUANTIZED_HOMES) or "LinearPackedParams" in type(module).__name__:
            raise _already(type(model).__name__, f"it has a {home}.{type(module).__name__}", name)
        if isinstance(module, fx.GraphModule) and {"_observed_graph_module_attrs", "qconfig_mapping"} & set(
            module.meta
        ):
            raise _already(type(model).__name__, "torch.ao's prepare_fx or convert_fx made it", name)
        if getattr(module, "is_quantized", False) is True or getattr(module, "quantization_method", None) is not None:
            raise _already(type(model).__name__, "it says so itself (is_quantized)", name)
    for name, tensor in _tensors(model):
        if tensor.is_quantized:
            raise _already(type(model).__name__, f"'{name}' is a {tensor.dtype} tensor", name)


def _already(model: str, why: str, module: str) -> AlreadyQuantizedError:
    place = f" (module '{module}')" if module else ""
    return AlreadyQuantizedError(
        "FXQ230",
        f"{model} is already quantized, prepared or converted: {why}{place}",
        hint="compile the float model that it was made from",
        module=module,
    )


def _check_initialized(model: nn.Module) -> None:
    lazy = [name for name, p in _tensors(model) if isinstance(p, (nn.UninitializedParameter, nn.UninitializedBuffer))]
    if lazy:
        raise UnsupportedModelError(
            "FXQ223",
            f"parameter '{lazy[0]}' is not initialized yet ({len(lazy)} such): a lazy module has not seen an input",
            hint="call the model once on a real input, then compile it",
            module=lazy[0].rpartition(".")[0],
        )


def _check_memory(model: nn.Module, limit: int | None) -> None:
    if limit is None:
        return
    size = sum(tensor.numel() * tensor.element_size() for _, tensor in _tensors(model))
    if size * COPIES > limit:
        raise MemoryBudgetError(
            "FXQ801",
            f"compiling needs about {size * COPIES / 2**20:.1f} MiB ({size / 2**20:.1f} MiB of weights, "
            f"{COPIES} copies at the peak); memory_limit is {limit / 2**20:.1f} MiB",
            hint=f"give memory_limit={size * COPIES} or more, or compile the model in parts",
        )


def _check_finite(model: nn.Module) -> None:
    """NaN or infinity in parameters and running statistics. A mask buffer may hold -inf."""
    for name, tensor in _tensors(model):
        is_statistic = name.rpartition(".")[2] in ("running_mean", "running_var")
        if not (isinstance(tensor, nn.Parameter) or is_statistic) or not tensor.is_floating_point():
            continue
        values = tensor.detach().float() if tensor.dtype is torch.float64 else tensor.detach()  # as it will be
        is_on_cpu = values.device.type == "cpu"  # not every device has float64
        if is_on_cpu and bool(torch.isfinite(values.sum(dtype=torch.float64))):  # no copy in the usual case
            continue
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            beyond = " or beyond float32's range" if tensor.dtype is torch.float64 else ""
            raise NonFiniteError(
                "FXQ302",
                f"'{name}' holds {bad} of {tensor.numel()} values that are NaN or infinite{beyond}",
                hint="the checkpoint is damaged or training diverged: no range can be found for such weights",
                module=name.rpartition(".")[0],
            )


def _check_mode(model: nn.Module, ledger: Ledger, strict: bool) -> None:
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if not training:
        return
    told = f"{len(training)} modules are in training mode, first '{training[0]}'"
    if strict:
        raise TrainingModeError("FXQ220", told, hint="call model.eval() before compiling", module=training[0])
    ledger.notice(
        "FXQ220", f"{told}: the compiled copy is in eval mode", hint="call model.eval() to say that you mean it"
    )


def _tell_hooks(model: nn.Module, ledger: Ledger) -> None:
    for name, module in model.named_modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        told = [getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks if not is_reparametrization(hook)]
        if told:
            place = f"'{name}'" if name else "the model"
            ledger.notice(
                "FXQ224",
                f"forward hooks on {place} are not part of the compiled model: {', '.join(told)}",
                module=name,
                hint="what a hook changes has to be written in forward()",
            )


def _tell_outliers(model: nn.Module, ledger: Ledger) -> None:
    """A weight with one channel far out of range: per-tensor quantization would give the others almost no steps."""
    for name, module in model.named_modules():
        weight = (
            getattr(module, "weight", None) if "weight" in module._parameters else None
        )  # scripted ones have no get
        if weight is None or weight.dim() < 2 or weight.shape[0] < 3:
            continue
        peaks = weight.detach().flatten(1).abs().amax(1) if weight.numel() else torch.zeros(1)
        middle, most = float(peaks.median()), float(peaks.max())
        if most > OUTLIER * middle > 0:
            ledger.notice(
                "FXQ311",
                f"RangeOutlier: channel {int(peaks.argmax())} of '{name}.weight' reaches {most:.3g}, "
                f"the median channel {middle:.3g}",
                module=name,
                hint="quantize these weights per channel, or keep the layer in float",
            )


def _tensors(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """What tells that a model changed meanwhile: identities, versions, types and flags; no tensor is read."""
    return tuple(
        (
            name,
            id(module),
            type(module),
            module.training,
            tuple((key, id(t), -1 if t is None else _version(t)) for key, t in _own(module)),
            tuple(module._forward_hooks),
            tuple(module._forward_pre_hooks),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    )


def _own(module: nn.Module) -> list[tuple[str, torch.Tensor | None]]:
    return [*module._parameters.items(), *module._buffers.items()]


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
