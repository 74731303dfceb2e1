"""Zeros that stay: which elements of pruned parameters are held at exactly zero while a model trains.

In a pruned parameter, what is zero when the model is made (or when a state is loaded) stays zero. Nothing else is kept:
no module is wrapped and the state_dict has the names of the model, so copies, forks, folding and fake-quantized layers
need to know nothing of it. Gradients of those elements are zero, so that no optimizer gathers momentum there; and
whatever an optimizer writes to them all the same is undone before the next call, save or copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import UsageError
from fxquant.sizes import storage_of

_HOOKED = "_fxq_zeros_held"  # on a Parameter; torch drops it with the hook when the Parameter is copied


class HeldZeros:
    """Masks by parameter name; True stands where an element is held at zero."""

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        found = held_parameters(module, names)
        self.masks = {name: parameter.detach() == 0 for name, parameter in found.items()}

    def __bool__(self) -> bool:
        return bool(self.masks)

    def hold(self, module: nn.Module) -> None:
        """Set what is held to zero. A parameter that is gone by now (its layer was factorized) holds nothing."""
        for name, parameter in self._parameters(module):
            mask = self.masks[name]
            if mask.device != parameter.device:
                mask = self.masks[name] = mask.to(parameter.device)
            parameter.data.masked_fill_(mask, 0.0)  # by .data: a graph that waits for backward() saw the same values
            if parameter.requires_grad and not hasattr(parameter, _HOOKED):
                parameter.register_hook(partial(self._gradient, name))  # type: ignore[no-untyped-call]
                setattr(parameter, _HOOKED, True)

    def restore(self, module: nn.Module) -> int:
        """`hold` for what does not train: sets what is held to zero, and says how many elements were not."""
        revived = 0
        for name, parameter in self._parameters(module):
            revived += int(torch.count_nonzero(parameter.detach()[self.masks[name]]))
            parameter.data.masked_fill_(self.masks[name], 0.0)
        return revived

    def _gradient(self, name: str, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(self.masks[name], 0.0)

    def take(self, module: nn.Module, state: Mapping[str, Any], prefix: str) -> None:
        """Hold the zeros of a state that is about to be loaded. FXQ135 where it has fewer of them than are held."""
        taken = {}
        for name, parameter in self._parameters(module):
            value = state.get(f"{prefix}{name}")
            if isinstance(value, Tensor) and value.shape == parameter.shape:  # else torch says what is wrong with it
                taken[name] = value.detach() == 0
                _check_as_sparse(name, int(taken[name].sum()), int(self.masks[name].sum()))
        self.masks |= taken

    def _parameters(self, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        for name, mask in list(self.masks.items()):
            parameter = parameter_at(module, name)
            if parameter is not None and parameter.shape == mask.shape:
                yield name, parameter


def held_parameters(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of these names, those that there are."""
    found = ((name, parameter_at(module, name)) for name in sorted(names))
    return {name: parameter for name, parameter in found if parameter is not None}


def followed(module: nn.Module, before: Mapping[str, nn.Parameter]) -> dict[str, tuple[str, ...]]:
    """For each of these names that is gone: what the same memory is called now (attention written out, a fused pair).

    `before` has to hold the parameters, so that their memory was not given to others meanwhile.
    """
    gone = {name: storage_of(value) for name, value in before.items() if parameter_at(module, name) is None}
    if not gone:
        return {}
    now = [(name, storage_of(value)) for name, value in module.named_parameters()]
    return {old: tuple(name for name, place in now if place == where) for old, where in gone.items()}


def parameter_at(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter of a dotted name; where its layer was fused since, that of the layer within. None: it is gone."""
    owner, _, last = name.rpartition(".")
    for place in (owner, f"{owner}.0" if owner else "0"):
        try:
            found = module.get_submodule(place)._parameters.get(last)
        except AttributeError:  # no module of that name
            continue
        if found is not None:
            return found
    return None


def _check_as_sparse(name: str, loaded: int, held: int) -> None:
    if loaded < held:
        raise UsageError(
            "FXQ135",
            f"the state to load has {loaded:,} zeros in '{name}', of which {held:,} weights were pruned: "
            f"it would revive {held - loaded:,} of them",
            hint="load it into the float model and prune that, or load a state of the pruned model",
            module=name.rpartition(".")[0],
        )
