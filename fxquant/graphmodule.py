"""Traced graph → GraphModule. Names that Python or GraphModule would trip over are changed here, and said."""

from __future__ import annotations

import copy
import keyword
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from fxquant.ledger import Ledger


def build(root: nn.Module, graph: fx.Graph, class_name: str, ledger: Ledger) -> fx.GraphModule:
    """A GraphModule with just the modules and tensors that the graph uses, in eval mode.

    A submodule called 'class' would make the generated code a syntax error, one called 'graph' or 'code' would hide
    GraphModule's own attribute: such names get a trailing underscore.
    """
    used: dict[str, Any] = {}
    names = _safe_names(str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr"))
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            original = str(node.target)
            node.target = names[original]
            if node.target != original:
                told = f"'{original}' is called '{node.target}' in the graph: Python or torch.fx owns that name"
                ledger.notice("FXQ225", told, module=original)
            used[node.target] = fetch(root, original)
    graph_module = fx.GraphModule(used, graph, class_name=safe_class_name(class_name))
    graph_module.eval()
    return graph_module


def copied(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A deep copy, of the class name that the original has: fx forgets it."""
    made = copy.deepcopy(graph_module)
    type(made).__name__ = type(graph_module).__name__
    return made


def drop_unused_modules(graph_module: fx.GraphModule) -> None:
    """Delete every submodule that no node calls or reads from, under each of its names.

    torch's own `delete_all_unused_submodules` sees a module that stands under two names (a shared observer) only once,
    and leaves it under the other.
    """
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    owners = {str(node.target).rpartition(".")[0] for node in graph_module.graph.nodes if node.op == "get_attr"}
    needed = {name[:end] for name in called | owners for end in _ends(name)}
    for name in [name for name, _ in graph_module.named_modules(remove_duplicate=False) if name]:
        parent, _, last = name.rpartition(".")
        is_within = any(name[:end] in called for end in _ends(parent))
        if name not in needed and not is_within and (not parent or parent in needed):  # else it went with its parent
            graph_module.get_submodule(parent)._modules.pop(last, None)


def _ends(name: str) -> list[int]:
    """Where each dotted prefix of a name ends."""
    return [index for index, letter in enumerate(name) if letter == "."] + [len(name)]


def _safe_names(targets: Iterable[str]) -> dict[str, str]:
    """A name for each target that generated code can hold; two targets never get the same."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for target in sorted(
        set(targets), key=lambda target: (safe_name(target) != target, target)
    ):  # safe ones keep theirs
        name = safe_name(target)
        while name in taken:
            name += "_"
        taken.add(name)
        found[target] = name
    return found


_BREAKS_CODE = re.compile('["\\\\\x00-\x1f\x7f\ud800-\udfff]')  # within a string of generated Python


def safe_name(target: str) -> str:
    """A dotted name as generated code and GraphModule can hold it: the same one where they can."""
    first, *rest = _BREAKS_CODE.sub("_", target).split(".")
    if first not in nn.Module.__dict__ and (hasattr(fx.GraphModule, first) or first in _OWN):
        first = f"{first}_"
    return ".".join(f"{atom}_" if keyword.iskeyword(atom) else atom for atom in (first, *rest))


_OWN = frozenset(fx.GraphModule(nn.Module(), fx.Graph()).__dict__)


def safe_class_name(name: str) -> str:
    """A class's name that Python can print as code."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else "Model"


def fetch(root: nn.Module, target: str) -> Any:
    """The module or tensor at a dotted name. A child of any name counts before an attribute of torch's own."""
    found: Any = root
    for atom in target.split("."):
        found = _own(found, atom) if isinstance(found, nn.Module) else getattr(found, atom)
    if isinstance(found, torch.Tensor) and not isinstance(found, nn.Parameter) and found.requires_grad:
        return found.detach()
    return found


def _own(module: nn.Module, name: str) -> Any:
    """Read from the registries, since a tracer that is at work answers getattr with a proxy."""
    for registry in (module._modules, module._parameters, module._buffers):
        if name in registry:
            return registry[name]
    return getattr(module, name)
