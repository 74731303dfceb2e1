"""Checked data → a GraphModule: layers from the registry, leaves from the caller, tensors from the file."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.artifact.layers import fill, make, state_of
from fxquant.artifact.marks import Marks
from fxquant.artifact.ops import functions
from fxquant.artifact.specs import LayerSpec, NodeSpec, Ref
from fxquant.errors import MissingLeafError, UnsafeError
from fxquant.graphmodule import safe_class_name
from fxquant.values import fetched

Leaf = nn.Module | Callable[..., Any]
_OPS = {"in": "placeholder", "get": "get_attr", "method": "call_method", "layer": "call_module", "leaf": "call_module",
        "out": "output"}  # fmt: skip


def build(
    specs: Sequence[NodeSpec],
    root: nn.Module,
    leaves: Mapping[str, Leaf],
    marks: Marks,
    class_name: str,
) -> fx.GraphModule:
    """The graph module. What the graph does not read of `root` stays in it, as it was when it was saved."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for spec in specs:
        node = _node(graph, spec, nodes, leaves)
        if spec.kind != "out" and node.name != spec.name:
            raise UnsafeError("FXQ605", f"{spec.what} has a name that generated code cannot use")
        marks.apply(node, spec.mark)
        nodes.append(node)
    made = fx.GraphModule(root, graph, class_name=safe_class_name(class_name))
    for path, tensor in state_of(root).items():
        if fetched(made, path) is None:
            _put_tensor(made, path, tensor, is_parameter=isinstance(tensor, nn.Parameter))
    return made.eval()


def _node(graph: fx.Graph, spec: NodeSpec, nodes: Sequence[fx.Node], leaves: Mapping[str, Leaf]) -> fx.Node:
    args, kwargs = (_resolved(value, nodes) for value in (spec.args, dict(spec.kwargs)))
    if spec.kind in ("fn", "call"):
        target: Any = functions()[spec.target] if spec.kind == "fn" else leaves[spec.target]
        return graph.create_node("call_function", target, args, kwargs, name=spec.name)
    return graph.create_node(_OPS[spec.kind], spec.target, args, kwargs, name=spec.name)


def _resolved(value: Any, nodes: Sequence[fx.Node]) -> Any:
    return fx.node.map_aggregate(value, lambda leaf: nodes[leaf.index] if isinstance(leaf, Ref) else leaf)


def root_of(
    layers: Mapping[str, LayerSpec],
    leaves: Mapping[str, Leaf],
    tensors: Mapping[str, Tensor],
    parameters: frozenset[str],
) -> nn.Module:
    """A module tree with every layer, leaf and tensor at its path. FXQ605 where two claim one place."""
    root = nn.Module()
    owned: set[str] = set()
    placed = Placed(tensors)
    for path, spec in layers.items():
        found = placed.below(path)
        _check_depth(spec, found, path)
        module = make(spec.name, spec.options, f"layer '{path}'")
        owned |= _fill_at(path, module, found)
        _put_module(root, path, module)
    for path, leaf in leaves.items():
        if isinstance(leaf, nn.Module):
            module = copy.deepcopy(leaf).eval()
            owned |= _fill_leaf(path, module, placed.below(path))
            _put_module(root, path, module)
    for path, tensor in tensors.items():
        if path not in owned:
            _put_tensor(root, path, tensor, is_parameter=path in parameters)
    return root


class Placed:
    """The tensors of a file by path, to be asked for those of one module."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self._paths = tensors, sorted(tensors)

    def below(self, path: str) -> dict[str, Tensor]:
        """Tensors whose paths begin with `path` and a dot, by the rest of theirs."""
        prefix = f"{path}."
        start = bisect_left(self._paths, prefix)
        end = bisect_left(self._paths, f"{path}/", start)  # '/' follows the dot
        names = self._paths[start:end]
        return {name[len(prefix) :]: self.tensors[name] for name in names}


def _check_depth(spec: LayerSpec, found: Mapping[str, Tensor], path: str) -> None:
    """A layer of layers has tensors for each of them: so many are not made to find that they are missing."""
    layers = spec.options.get("num_layers", 1)
    if type(layers) is not int or layers > max(len(found), 1):
        told = f"layer '{path}' is told to have {layers!r:.40} layers, and it has {len(found)} tensors"
        raise UnsafeError("FXQ605", told)


def _fill_at(path: str, module: nn.Module, found: Mapping[str, Tensor]) -> set[str]:
    if not state_of(module):
        return set()
    fill(module, found, f"layer '{path}'")
    return {f"{path}.{name}" for name in found}


def _fill_leaf(path: str, module: nn.Module, found: Mapping[str, Tensor]) -> set[str]:
    """Give a copy of the caller's module the tensors that were saved. FXQ609 where it is built differently."""
    wanted = state_of(module)
    same = found.keys() == wanted.keys() and all(
        found[name].shape == wanted[name].shape and found[name].dtype is wanted[name].dtype for name in found
    )
    if not same:
        told = ", ".join(f"{name} {list(found[name].shape)}" for name in sorted(found)) or "none"
        raise MissingLeafError(
            "FXQ609",
            f"the {type(module).__name__} handed in for '{path}' has other tensors than the saved one: {told}",
            hint="make it with the options of the model that was compiled; its numbers come from the file",
            module=path,
        )
    with torch.no_grad():
        for name, tensor in found.items():
            wanted[name].copy_(tensor)
    return {f"{path}.{name}" for name in found}


def _home(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds what stands at a path, made where it is missing."""
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            if hasattr(root, name):
                raise _claimed(path)
            root.add_module(name, nn.Module())
        root = root._modules[name]  # type: ignore[assignment]
    if hasattr(root, last):
        raise _claimed(path)
    return root, last


def _claimed(path: str) -> UnsafeError:
    return UnsafeError("FXQ605", f"two things of the file stand at '{path}'")


def _put_module(root: nn.Module, path: str, module: nn.Module) -> None:
    home, last = _home(root, path)
    home.add_module(last, module)


def _put_tensor(root: nn.Module, path: str, tensor: Tensor, *, is_parameter: bool) -> None:
    home, last = _home(root, path)
    if is_parameter:
        home.register_parameter(last, nn.Parameter(tensor.detach(), requires_grad=False))
    else:
        home.register_buffer(last, tensor)
