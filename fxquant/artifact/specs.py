"""Nodes of a file as checked data: kinds, names and ops are known, references run backwards, nothing is built yet."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fxquant.aliasing import applied
from fxquant.artifact.layers import LAYERS
from fxquant.artifact.limits import MOST_NODES, check_limit
from fxquant.artifact.literals import Decoder
from fxquant.artifact.names import is_node_name, node_name, path_of
from fxquant.artifact.ops import APPLIED, ATTRIBUTES, METHODS, functions
from fxquant.artifact.text import list_of, malformed, object_of, text_of
from fxquant.errors import UnsafeError

KINDS = ("in", "get", "fn", "method", "layer", "leaf", "call", "out")
_CALLS = ("fn", "method", "layer", "leaf", "call")


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an earlier node."""

    index: int


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: what it calls, and with what. Arguments hold Refs in the places of nodes."""

    kind: str
    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    mark: Any

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"node '{self.name}'"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One of torch's own modules by its registered name, with its options."""

    name: str
    options: Mapping[str, Any]


def layers_of(found: Any) -> dict[str, LayerSpec]:
    """The table of layers by path."""
    layers = {}
    for path, value in object_of(found, "the layers").items():
        name, options = list_of(value, f"layer '{path[:60]}'", sizes=(2,))
        given = Decoder((), f"layer '{path[:60]}'").value(options)
        if text_of(name, "a layer").removesuffix("+relu") not in LAYERS or not isinstance(given, dict):
            raise malformed(f"layer '{path[:60]}' is a {name!r:.60}, and there is no such layer")
        if not all(isinstance(option, str) for option in given):
            raise malformed(f"layer '{path[:60]}' has an option that is no name")
        layers[path_of(path, "a layer")] = LayerSpec(name, given)
    return layers


def leaves_of(found: Any) -> dict[str, str]:
    """The table of what load() is handed: name → class name, or 'function'."""
    return {path_of(path, "a leaf"): text_of(kind, "a leaf") for path, kind in object_of(found, "the leaves").items()}


def nodes_of(found: Any, layers: Mapping[str, LayerSpec], leaves: Mapping[str, str]) -> tuple[NodeSpec, ...]:
    """The nodes, each checked by itself and against those before it. FXQ604 and FXQ605."""
    items = list_of(found, "the nodes")
    check_limit("nodes", len(items), MOST_NODES)
    reader = _Reader(layers, leaves)
    specs = tuple(reader.node(item, index) for index, item in enumerate(items))
    unused = layers.keys() - {spec.target for spec in specs if spec.kind == "layer"}
    if unused:
        raise malformed(f"nothing calls its layer '{min(unused)}'")
    if not specs or specs[-1].kind != "out" or any(spec.kind == "out" for spec in specs[:-1]):
        raise malformed("its graph needs exactly one output, as the last node")
    return specs


class _Reader:
    def __init__(self, layers: Mapping[str, LayerSpec], leaves: Mapping[str, str]) -> None:
        self.layers, self.leaves = layers, leaves
        self.refs: list[Ref] = []
        self.names: set[str] = set()

    def node(self, found: Any, index: int) -> NodeSpec:
        items = list_of(found, f"node {index}")
        if len(items) < 2:
            raise malformed(f"node {index} has no name")
        kind, name, *rest = items
        if kind not in KINDS:
            raise malformed(f"node {index} is of the kind {kind!r:.40}")
        self._name(name, index)
        spec = self._spec(kind, name, list_of(rest, f"node '{name}'", sizes=(_SIZES[kind],)))
        self.refs.append(Ref(index))
        return spec

    def _name(self, name: Any, index: int) -> None:
        if node_name(name, f"node {index}") in self.names:
            raise malformed(f"the name {name!r} stands twice")
        self.names.add(name)

    def _spec(self, kind: str, name: str, rest: list[Any]) -> NodeSpec:
        decoder = Decoder(self.refs, f"node '{name}'")
        if kind == "in":
            return NodeSpec(kind, name, name, (), {}, rest[0])
        if kind == "get":
            return NodeSpec(kind, name, path_of(rest[0], f"node '{name}'"), (), {}, rest[1])
        if kind == "out":
            return NodeSpec(kind, name, "output", (decoder.value(rest[0]),), {}, rest[1])
        target, args, kwargs, mark = rest
        values = tuple(decoder.value(argument) for argument in list_of(args, f"the arguments of '{name}'"))
        spec = NodeSpec(kind, name, text_of(target, f"node '{name}'"), values, decoder.value(kwargs), mark)
        self._check_call(spec)
        return spec

    def _check_call(self, spec: NodeSpec) -> None:
        if not isinstance(spec.kwargs, dict) or not all(
            isinstance(key, str) and is_node_name(key) for key in spec.kwargs
        ):
            raise malformed(f"{spec.what} has keywords that are no names")
        known: dict[str, Container[str]] = {
            "fn": functions(), "method": METHODS, "layer": self.layers, "leaf": self.leaves, "call": self.leaves,
        }  # fmt: skip
        if spec.target not in known[spec.kind]:
            raise UnsafeError("FXQ605", f"{spec.what} calls {spec.target[:60]!r}, which is no {_SPOKEN[spec.kind]}")
        if spec.kind == "method" and not (spec.args and isinstance(spec.args[0], Ref)):
            raise malformed(f"{spec.what} calls a method of nothing")
        if spec.kind == "fn":
            _check_function(spec)


_SPOKEN = {
    "fn": "op of the registry",
    "method": "method of the registry",
    "layer": "layer of this file",
    "leaf": "leaf of this file",
    "call": "leaf of this file",
}
_SIZES = {"in": 1, "get": 2, "out": 2, **dict.fromkeys(_CALLS, 4)}  # of a node's list after kind and name


def _check_function(spec: NodeSpec) -> None:
    """Arity, where Python knows it; and the names that getattr and `applied` may be given."""
    function = functions()[spec.target]
    if function is builtins.getattr and (len(spec.args) != 2 or not _is_known(spec.args[1], ATTRIBUTES)):
        raise UnsafeError("FXQ605", f"{spec.what} asks for the attribute {spec.args[1:]!r:.60}")
    if function is applied and not (spec.args and _is_known(spec.args[0], APPLIED)):
        raise UnsafeError("FXQ605", f"{spec.what} applies {spec.args[:1]!r:.60}")
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a builtin that tells nobody its parameters: the call will say so
        return
    try:
        signature.bind(*spec.args, **spec.kwargs)
    except TypeError as error:
        raise UnsafeError("FXQ605", f"{spec.what} cannot call {spec.target} like this: {error}") from error


def _is_known(value: Any, names: frozenset[str]) -> bool:
    return isinstance(value, str) and value in names


def refs_in(value: Any) -> Iterator[Ref]:
    """The references in an argument, in order."""
    match value:
        case Ref():
            yield value
        case tuple() | list():
            for item in value:
                yield from refs_in(item)
        case dict():
            for item in value.values():
                yield from refs_in(item)
        case slice():
            yield from refs_in((value.start, value.stop, value.step))
