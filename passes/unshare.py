"""unshare: a module that is called at several sites becomes one module per site, over the same parameters."""

from __future__ import annotations

import copy
import dis
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import torch
from torch import fx, nn

from fxquant.errors import PassError
from fxquant.ledger import Ledger
from fxquant.origin import site_of
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage
from fxquant.sizes import size_bytes, ties


@dataclass(frozen=True)
class Unshare(Pass):
    """One module per call site, so that each site can have its own scale and zero point.

        y = fc(x); z = fc(y)   →   y = fc(x); z = fc_2(y)      with fc_2.weight is fc.weight

    Copies hold the very same Parameter and buffer objects, so they take no memory and the tie stays in `size_bytes`.
    A module registered under two names and called by both counts as shared. Parameters tied between different
    modules are left tied.
    """

    name: ClassVar[str] = "unshare"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    def run(self, program: Program, ledger: Ledger) -> Program:
        graph_module = program.graph_module
        for names in ties(graph_module):
            if len({name.rpartition(".")[0] for name in names if name in _tensors_called(graph_module)}) > 1:
                _tell_tied(names, ledger)
        for sites in _shared(graph_module):
            _split(graph_module, sites, ledger)
        return program

    def verify(self, program: Program) -> None:
        left = next(iter(_shared(program.graph_module)), None)
        if left is not None:
            names = ", ".join(site.name for site in left)
            raise PassError("FXQ403", f"module '{left[0].target}' is still called at several sites: {names}")


def _shared(graph_module: fx.GraphModule) -> list[list[fx.Node]]:
    """The call sites of each module that has more than one, in graph order; modules that keep state are left alone."""
    sites: dict[int, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            sites.setdefault(id(graph_module.get_submodule(str(node.target))), []).append(node)
    several = (found for found in sites.values() if len(found) > 1)
    return [found for found in several if not keeps_state(graph_module.get_submodule(str(found[0].target)))]


def keeps_state(module: nn.Module) -> bool:
    """Whether a forward() that is not torch's own assigns to an attribute of self: a copy would go its own way."""
    kinds = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    codes = [kind.forward.__code__ for kind in kinds if hasattr(kind.forward, "__code__")]
    return any(step.opname in ("STORE_ATTR", "DELETE_ATTR") for code in codes for step in dis.get_instructions(code))


def _split(graph_module: fx.GraphModule, sites: list[fx.Node], ledger: Ledger) -> None:
    first = str(sites[0].target)
    module = graph_module.get_submodule(first)
    names = [first]
    for site in sites[1:]:
        name = str(site.target)
        names.append(name if name not in names else _free_name(graph_module, name))
        site.target = names[-1]
        put(graph_module, names[-1], same_tensors(module))
    if size_bytes(module) == 0:  # a ReLU at many sites: its copies are nothing to know about
        return
    told = ", ".join(f"'{name}' at {site_of(site)}" for name, site in zip(names, sites, strict=True))
    ledger.notice(
        "FXQ218",
        f"module '{first}' is called at {len(sites)} sites; each has its own copy over the same parameters: {told}",
        module=first,
    )


def _tensors_called(graph_module: fx.GraphModule) -> set[str]:
    """Names of the parameters and buffers of called modules."""
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    parts = ((name, graph_module.get_submodule(name)) for name in sorted(called))
    return {
        f"{name}.{tensor}"
        for name, part in parts
        for tensor, _ in (*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False))
    }


def _tell_tied(names: tuple[str, ...], ledger: Ledger) -> None:
    told = ", ".join(f"'{name}'" for name in names)
    ledger.notice(
        "FXQ217",
        f"{told} are one tensor: it is stored once for all layers that quantize it alike",
        module=names[0].rpartition(".")[0],
    )


def same_tensors(module: nn.Module) -> nn.Module:
    """A copy of a module and its submodules that holds the same Parameter and buffer objects."""
    plain = (value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor))
    tensors = (*module.parameters(), *module.buffers(), *plain)
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def put(graph_module: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Register a module under a dotted name whose parent is there."""
    parent, _, leaf = name.rpartition(".")
    graph_module.get_submodule(parent).add_module(leaf, module)


def _free_name(graph_module: fx.GraphModule, name: str) -> str:
    """'block.conv' → 'block.conv_2', or the next number that is free; '0' → '_0_2', since a name is an identifier."""
    parent, _, leaf = name.rpartition(".")
    owner = graph_module.get_submodule(parent)
    stem = leaf if leaf.isidentifier() else f"_{leaf}"
    free = next(f"{stem}_{number}" for number in count(2) if not hasattr(owner, f"{stem}_{number}"))
    return f"{parent}.{free}" if parent else free
