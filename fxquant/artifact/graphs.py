"""A canonical graph ⇄ plain data: one list for each node, a table of layers, and marks of where each node came from.

["in", "x"]   ["get", "w", "fc.weight"]   ["fn", "linear", "nn.linear", ["%0", "%1", null], ["d"]]
["method", "view", "view", [...], ["d"]]   ["layer", "relu", "block.relu", [...], ["d"]]
["leaf", ...] a module of the user's own   ["call", ...] a function of theirs   ["out", "output", [...]]
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from fxquant.aliasing import applied
from fxquant.artifact.layers import describe
from fxquant.artifact.literals import encode
from fxquant.artifact.marks import Marks
from fxquant.artifact.names import is_node_name, is_path
from fxquant.artifact.ops import APPLIED, ATTRIBUTES, METHODS, name_of
from fxquant.errors import UnsavableError
from fxquant.values import fetched

_NOT_IN_FILES = "leave it out of the traced graph: wrap it in a module of your own and name that in leaf_modules="


@dataclass
class GraphWriter:
    """Writes one graph module. After `nodes()`: `layers` by path, `leaves` by name with their class or function."""

    graph_module: fx.GraphModule
    layers: dict[str, Any] = field(default_factory=dict)
    leaves: dict[str, str] = field(default_factory=dict)
    marks: Marks = field(default_factory=Marks)
    _index: dict[fx.Node, int] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _functions: dict[Callable[..., Any], str] = field(default_factory=dict)

    def nodes(self) -> list[list[Any]]:
        """Every node in order. FXQ611 for what has no form in a file."""
        found = []
        for node in self.graph_module.graph.nodes:
            found.append([*self._record(node), self.marks.written(node)])
            self._index[node] = len(found) - 1
        return found

    def _record(self, node: fx.Node) -> list[Any]:
        name = self._name(node)
        match node.op:
            case "placeholder":
                return ["in", name]
            case "get_attr":
                return ["get", name, self._tensor_path(node)]
            case "output":
                return ["out", name, self._value(node, node.args[0])]
            case "call_module":
                return [self._module_kind(node), name, str(node.target), *self._arguments(node)]
            case "call_method":
                return ["method", name, self._method(node), *self._arguments(node)]
        return [*self._function(node, name), *self._arguments(node)]

    def _name(self, node: fx.Node) -> str:
        name = node.name if is_node_name(node.name) else f"node_{len(self._index)}"
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _arguments(self, node: fx.Node) -> tuple[list[Any], Any]:
        args = [self._value(node, argument) for argument in node.args]
        return args, self._value(node, dict(node.kwargs))

    def _value(self, node: fx.Node, value: Any) -> Any:
        return encode(value, self._index, f"node '{node.name}'")

    def _tensor_path(self, node: fx.Node) -> str:
        path = str(node.target)
        if not isinstance(fetched(self.graph_module, path), Tensor):
            kind = type(fetched(self.graph_module, path)).__name__
            raise UnsavableError("FXQ611", f"'{path}' is no tensor but {kind}", hint=_NOT_IN_FILES, node=node.name)
        return _checked_path(path)

    def _method(self, node: fx.Node) -> str:
        if node.target not in METHODS:
            told = f"the method '{node.target}' of tensors has no form in a file"
            raise UnsavableError("FXQ611", told, hint=_NOT_IN_FILES, node=node.name)
        return str(node.target)

    def _module_kind(self, node: fx.Node) -> str:
        path = _checked_path(str(node.target))
        module = self.graph_module.get_submodule(path)
        described = describe(module)
        if described is None:
            self.leaves[path] = type(module).__name__
            return "leaf"
        if path not in self.layers:
            name, options = described
            self.layers[path] = [name, encode(options, {}, f"module '{path}'")]
        return "layer"

    def _function(self, node: fx.Node, name: str) -> list[Any]:
        """A function of the table, or one of the user's own that load() is handed."""
        known = name_of(node.target)
        is_refused = (node.target is builtins.getattr and node.args[1] not in ATTRIBUTES) or (
            node.target is applied and node.args[0] not in APPLIED
        )
        if is_refused:
            told = f"{name_of(node.target)} of {node.args[:2]!r:.60} has no form in a file"
            raise UnsavableError("FXQ611", told, hint=_NOT_IN_FILES, node=node.name)
        if known is not None:
            return ["fn", name, known]
        home = str(getattr(node.target, "__module__", "") or "")
        if home.split(".")[0] in ("torch", "math", "_operator", "builtins", "fxquant"):
            told = f"{home}.{getattr(node.target, '__name__', node.target)} has no form in a file"
            raise UnsavableError("FXQ611", told, hint=_NOT_IN_FILES, node=node.name)
        return ["call", name, self._leaf_function(node.target)]  # type: ignore[arg-type]

    def _leaf_function(self, function: Callable[..., Any]) -> str:
        if function not in self._functions:
            name = getattr(function, "__name__", type(function).__name__).strip("<>")
            while name in self.leaves or not is_path(name):
                name = f"{name}_" if name.isidentifier() else "function"
            self._functions[function], self.leaves[name] = name, "function"
        return self._functions[function]


def _checked_path(path: str) -> str:
    if not is_path(path):
        raise UnsavableError("FXQ611", f"'{path[:80]}' is a name that a file cannot hold", hint="rename the module")
    return path


def tensors_of(graph_module: fx.GraphModule) -> Mapping[str, Tensor]:
    """Every tensor of the module by its path."""
    named = (
        *graph_module.named_parameters(remove_duplicate=False),
        *graph_module.named_buffers(remove_duplicate=False),
    )
    for path, _ in named:
        _checked_path(path)
    return dict(named)


def is_parameter(module: nn.Module, path: str) -> bool:
    """Is the tensor at this path a parameter?"""
    owner, _, last = path.rpartition(".")
    return last in module.get_submodule(owner)._parameters
