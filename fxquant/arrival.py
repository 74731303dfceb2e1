"""Models and batches of another dtype or on another device: what is cast to float32, what is copied to the CPU.

The plan is made from names, dtypes and devices alone, so that it is the same with and without such a device here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxquant.errors import DeviceError, DtypeError
from fxquant.ledger import Ledger
from fxquant.sizes import storage_of

_NARROW = (torch.float16, torch.bfloat16)
CAST = (*_NARROW, torch.float64)
_COMPLEX = {torch.complex32: torch.float16, torch.complex128: torch.float64}  # become complex64 with these
_MARK = "_fxq_arrival"


@dataclass(frozen=True, slots=True)
class Described:
    """What a plan needs to know of a parameter or buffer."""

    name: str
    dtype: torch.dtype
    device: str  # its type: 'cpu', 'cuda', 'meta'
    is_parameter: bool = True


@dataclass(frozen=True, slots=True)
class Arrival:
    """What becomes of the tensors of one model: dtypes that are cast to float32, devices that are left for `home`."""

    cast: frozenset[torch.dtype] = frozenset()
    moved: frozenset[str] = frozenset()
    home: str = "cpu"  # 'meta' for a model without values, of which only the graph is looked at

    @property
    def is_plain(self) -> bool:
        """Everything is as the compiler wants it."""
        return not self.cast and not self.moved

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What a dtype becomes."""
        if dtype in self.cast:
            return torch.float32
        return torch.complex64 if _COMPLEX.get(dtype) in self.cast else dtype

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as the compiler takes it: the same one where nothing has to change."""
        return tensor.to(device=self.home, dtype=self.dtype(tensor.dtype))

    def changes(self, tensor: torch.Tensor) -> bool:
        """Does `tensor()` give another one?"""
        return tensor.device.type != self.home or self.dtype(tensor.dtype) != tensor.dtype


def planned(tensors: Iterable[Described]) -> Arrival:
    """What has to be cast and moved. FXQ221 for dtypes that no cast makes float32, FXQ222 for tensors without data.

    Half-precision buffers are cast whatever the parameters are, since float32 holds each of their values; float64
    buffers beside float32 parameters stay, since code that computes in float64 means it.
    """
    found = tuple(tensors)
    for item in found:
        _check_castable(item)
    _check_have_data(found)
    cast = {item.dtype for item in found if item.dtype in (CAST if item.is_parameter else _NARROW)}
    return Arrival(frozenset(cast), frozenset(item.device for item in found if item.device != "cpu"))


def described(model: nn.Module) -> Iterator[Described]:
    """A model's parameters and buffers."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield Described(name, tensor.dtype, tensor.device.type, isinstance(tensor, nn.Parameter))


def _check_castable(item: Described) -> None:
    is_float8 = item.dtype.is_floating_point and item.dtype.itemsize == 1
    if not item.is_parameter or not (item.dtype.is_complex or is_float8):
        return
    raise DtypeError(
        "FXQ221",
        f"parameter '{item.name}' is {item.dtype}, which no cast makes torch.float32",
        hint="a complex model cannot be quantized"
        if item.dtype.is_complex
        else "float8 weights are quantized already: compile the float model that they were made from",
        module=item.name.rpartition(".")[0],
    )


def _check_have_data(found: tuple[Described, ...]) -> None:
    empty = next((item for item in found if item.device == "meta"), None)
    if empty is None:
        return
    counts = Counter(item.device for item in found)
    told = ", ".join(f"{count} on {device}" for device, count in sorted(counts.items()))
    raise DeviceError(
        "FXQ222",
        f"'{empty.name}' is on meta, where tensors have no values ({told})",
        hint="load the weights first: a meta model has none",
        module=empty.name.rpartition(".")[0],
    )


def check(model: nn.Module, ledger: Ledger, *, strict: bool) -> None:
    """Say what will be cast and moved on the compiler's own copy. With `strict` other dtypes are FXQ221 as an error."""
    found = tuple(described(model))
    plan = planned(found)
    if plan.cast:
        _tell_cast(found, plan, ledger, strict)
    if plan.moved:
        counts = Counter(item.device for item in found)
        told = ", ".join(f"{counts[device]} from {device}" for device in sorted(plan.moved))
        ledger.notice(
            "FXQ234",
            f"{sum(counts[device] for device in plan.moved)} parameters and buffers were copied to the CPU ({told}): "
            "the compiled model runs there",
            hint="give it inputs on the CPU; your model stays where it is",
        )


def _tell_cast(found: tuple[Described, ...], plan: Arrival, ledger: Ledger, strict: bool) -> None:
    changed = [item for item in found if plan.dtype(item.dtype) != item.dtype]
    first = next((item for item in changed if item.is_parameter), changed[0])
    counts = Counter(_short(item.dtype) for item in changed)
    told = ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items()))
    if strict:
        raise DtypeError(
            "FXQ221",
            f"'{first.name}' is {first.dtype}, and {len(changed)} parameters and buffers in all are not torch.float32",
            hint="compile a float32 copy, copy.deepcopy(model).float(), or leave strict off: then it is made for you",
            module=first.name.rpartition(".")[0],
        )
    ledger.notice(
        "FXQ221",
        f"{len(changed)} parameters and buffers were cast to float32 ({told}; first '{first.name}'): "
        f"outputs are float32 now, and inputs of {_listed(plan.cast)} are cast when they come in",
        hint="cast the output back where your code needs it: compiled(x).to(dtype)",
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(dtypes: Iterable[torch.dtype]) -> str:
    return " or ".join(sorted(map(_short, dtypes)))


def taken_in(
    leaves: Sequence[torch.Tensor], paths: Sequence[str], cast: Iterable[torch.dtype] = (), home: str = "cpu"
) -> tuple[torch.Tensor, ...]:
    """Inputs on `home`, those of the dtypes in `cast` as float32. FXQ222 names the first one that has no values."""
    for leaf, path in zip(leaves, paths, strict=True):
        if leaf.device.type == "meta" != home:
            raise DeviceError(
                "FXQ222",
                f"input '{path}' is on device 'meta', where tensors have no values",
                hint="give tensors with values",
                module=path,
            )
    own = Arrival(frozenset(cast), home=home)
    return tuple(own.tensor(leaf) for leaf in leaves)


# On the compiler's own copy ------------------------------------------------------------------------------------------


def plan_for(model: nn.Module) -> Arrival:
    """The plan for a model that `check` has seen. One without any values, to be looked at only, stays as it is."""
    found = tuple(described(model))
    is_empty = bool(found) and all(item.device == "meta" for item in found)
    return Arrival(home="meta") if is_empty else planned(found)


def remember(copied: nn.Module, plan: Arrival) -> None:
    """Let the compiler's copy know what was done to it."""
    copied.__dict__[_MARK] = plan


def arrival_of(copied: nn.Module) -> Arrival:
    """What was done to the compiler's copy when it was made."""
    found: Arrival = copied.__dict__.get(_MARK, Arrival())
    return found


def replacements(model: nn.Module, plan: Arrival) -> dict[int, torch.Tensor]:
    """id of each tensor that changes → the tensor that stands for it in the copy.

    So do tensors that look into one storage (`a.weight.data = b.weight.data`): deepcopy would part Parameters.
    """
    tensors = {id(tensor): tensor for tensor in _all_tensors(model)}
    users = Counter(storage_of(tensor) for tensor in tensors.values() if _is_plain(tensor))
    bases: dict[Any, torch.Tensor] = {}
    return {
        key: _replaced(tensor, plan, bases)
        for key, tensor in tensors.items()
        if plan.changes(tensor) or (_is_plain(tensor) and users[storage_of(tensor)] > 1)
    }


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_quantized


def _replaced(tensor: torch.Tensor, plan: Arrival, bases: dict[Any, torch.Tensor]) -> torch.Tensor:
    """The storage is converted or copied once, and each tensor is cut out of it again."""
    plain = tensor.detach()
    if _is_plain(plain):
        key = storage_of(plain), plain.dtype
        if key not in bases:
            whole = torch.empty(0, dtype=plain.dtype, device=plain.device).set_(plain.untyped_storage())
            bases[key] = plan.tensor(whole) if plan.changes(whole) else whole.clone()
        made = bases[key].as_strided(plain.size(), plain.stride(), plain.storage_offset())
    else:
        made = plan.tensor(plain)
    return nn.Parameter(made, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _all_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers, and what modules hold as plain attributes, in containers too."""
    for module in model.modules():
        for registry in (module._parameters, module._buffers):
            yield from (tensor for tensor in registry.values() if tensor is not None)
        for name, value in module.__dict__.items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from _tensors_in(value)


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)
    elif type(value) is dict:
        for item in value.values():
            yield from _tensors_in(item)
