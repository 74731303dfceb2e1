"""Which modules are not traced into: torch's own layers, scripted ones, and those that the user names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set

import torch
from torch import nn

from fxquant.eager_mode import is_stub
from fxquant.errors import RecipeError, UnknownTargetError, did_you_mean
from fxquant.ledger import Ledger


def is_leaf_by_default(module: nn.Module) -> bool:
    """torch.nn's layers stay whole, its containers do not; a scripted module has no Python to trace.

    A layer whose forward() was replaced on the instance is no more what its class says.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return True
    if "forward" in module.__dict__:
        return False
    if is_stub(module):
        return True
    home = type(module).__module__
    is_torch = home == "torch.nn" or home.startswith(("torch.nn.", "torch.ao.nn"))
    return is_torch and not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))


def named_leaves(model: nn.Module, chosen: Sequence[str | type[nn.Module]]) -> frozenset[int]:
    """The ids of the modules that `leaf_modules` names: dotted name, class, or 're:' and a regex on the whole name.

    FXQ110 with the nearest names for one that matches nothing, FXQ101 for a regex that does not parse.
    """
    known = [(name, module) for name, module in model.named_modules(remove_duplicate=False) if name]
    found: set[int] = set()
    for item in chosen:
        if isinstance(item, str) and item.startswith("re:"):
            pattern = _compiled(item)
            matches = [module for name, module in known if pattern.fullmatch(name)]
        elif isinstance(item, str):
            matches = [module for name, module in known if name == item]
        else:
            matches = [module for _, module in known if isinstance(module, item)]
        if not matches:
            raise _matches_nothing(item, model, [name for name, _ in known])
        found.update(map(id, matches))
    return frozenset(found)


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text.removeprefix("re:"))
    except re.error as error:
        raise RecipeError(
            "FXQ101",
            f"leaf_modules has the regex {text!r}, which does not parse: {error}",
            hint="after 're:' stands a Python regular expression for the whole module name",
        ) from error


def _matches_nothing(item: str | type[nn.Module], model: nn.Module, names: list[str]) -> UnknownTargetError:
    if isinstance(item, str):
        told = f"leaf_modules names {item!r}, which matches no module of {type(model).__name__}"
        return UnknownTargetError("FXQ110", told, hint=did_you_mean(item.removeprefix("re:"), names))
    kinds = list(dict.fromkeys(type(module).__name__ for module in model.modules()))
    told = f"leaf_modules names the class {item.__name__}, of which {type(model).__name__} has no module"
    return UnknownTargetError("FXQ110", told, hint=did_you_mean(item.__name__, kinds))


def tell_unused(model: nn.Module, called: Set[int], leaf_ids: Set[int], read: Iterable[str], ledger: Ledger) -> None:
    """Submodules with weights that forward() does not reach: they are not in the compiled model."""
    fetched = {target.rpartition(".")[0] for target in read}
    unseen = [("", model, False)]
    while unseen:
        name, module, is_inside = unseen.pop()
        is_inside = is_inside or (id(module) in called and (id(module) in leaf_ids or is_leaf_by_default(module)))
        has_own = any(parameter is not None for parameter in module._parameters.values())
        if name and has_own and not is_inside and id(module) not in called and name not in fetched:
            ledger.notice("FXQ227", f"submodule '{name}' is not used by forward(): it is left out", module=name)
        children = [(f"{name}.{key}".lstrip("."), child, is_inside) for key, child in module.named_children()]
        unseen.extend(reversed(children))
