"""What each node costs: multiply-accumulates, parameters, bytes of weights and of activations, from shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import prod

from fxquant.graphs.kernels import LAYERS, LOOK_UPS, RECURRENT
from fxquant.graphs.macs import macs
from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.regions import Region, regions
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo

_TENSOR = re.compile(r"(\w+)\[([\d×]*)\]")
_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_WIDTH = {"bool": 1, "complex64": 8, "complex128": 16, "quint4x2": 1}
_COSTLESS = frozenset({Region.NEUTRAL, Region.CONSTANT, Region.OBSERVER, Region.BOUNDARY})


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one node, for the example that the graph was captured with (its batch counts). None: nobody can tell."""

    macs: int | None = 0
    parameters: int | None = 0  # elements
    weight_bytes: int | None = 0  # as they are held: codes with their scales and zero points
    activation_bytes: int | None = 0  # of the tensors that it gives

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(_sum((getattr(self, part.name), getattr(other, part.name))) for part in fields(Cost)))


def costs(snapshot: GraphSnapshot, *, like: GraphSnapshot | None = None) -> dict[str, Cost]:
    """The cost of each node by its name.

    A weight belongs to each node that reads it. Packed weights have no shape: what they cost is None, unless `like`,
    an earlier snapshot of the same program, knows it by their origins.
    """
    found = dict(zip((node.name for node in snapshot), _each(snapshot), strict=True))
    if like is not None:
        for name, known in _by_origin(snapshot, found, like).items():
            found[name] = _filled(found[name], known)
    return found


def total(snapshot: GraphSnapshot, *, like: GraphSnapshot | None = None) -> Cost:
    """The cost of the whole graph. A weight that several nodes read counts once; what is unknown counts as none."""
    held: set[frozenset[str]] = set()
    added = Cost()
    for name, cost in costs(snapshot, like=like).items():
        owners = frozenset(_owners(snapshot[name], snapshot))
        is_new = not owners or owners not in held
        held.add(owners)
        known = Cost(*(getattr(cost, part.name) or 0 for part in fields(Cost)))
        added += known if is_new else Cost(known.macs, 0, 0, known.activation_bytes)
    return added


def tensor_bytes(tensors: Iterable[TensorInfo]) -> int:
    """Bytes of these tensors in memory."""
    return sum(prod(tensor.shape) * width(tensor.dtype) for tensor in tensors)


def width(dtype: str) -> int:
    """Bytes of one element: 4 for 'float32' and 'qint32', 1 for 'quint8', 'float8_e4m3fn' and 'bool'."""
    if dtype in _WIDTH:
        return _WIDTH[dtype]
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


def _each(snapshot: GraphSnapshot) -> Iterable[Cost]:
    found = regions(snapshot)
    for node in snapshot:
        activations = tensor_bytes(node.values) if node.values else None
        if node.op == "output" or found[node.name] is Region.CONSTANT:
            yield Cost()
        elif found[node.name] in _COSTLESS:
            yield Cost(activation_bytes=activations or 0)
        else:
            yield _computed(node, snapshot, activations)


def _computed(node: NodeRecord, snapshot: GraphSnapshot, activations: int | None) -> Cost:
    if _is_hidden(node, snapshot):
        return Cost(macs(node, snapshot, ()), None, None, activations)
    values, everything = _weights(node, snapshot)
    parameters = sum(prod(tensor.shape) for tensor in values)
    return Cost(macs(node, snapshot, values), parameters, tensor_bytes(everything), activations)


def _weights(node: NodeRecord, snapshot: GraphSnapshot) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """The tensors that a node multiplies with or adds, and all that are held for them."""
    if node.op == "call_module":
        named = [(name, _TENSOR.fullmatch(text)) for name, text in node.attributes if name not in _STATISTICS]
        read = [TensorInfo(found[1], _shape(found[2])) for name, found in named if found is not None]
        own = [tensor for tensor in read if "float" in tensor.dtype]
        return own, own
    values: list[TensorInfo] = []
    held: list[TensorInfo] = []
    for source in (snapshot[name] for name in node.inputs):
        widened = [snapshot[name] for name in source.inputs] if is_dequantize(source) or source.kind == "to" else []
        if source.op == "get_attr" and source.kind not in _STATISTICS:
            values += [tensor for tensor in source.values if "float" in tensor.dtype]
            held += [tensor for tensor in source.values if "float" in tensor.dtype]
        elif widened and all(constant.op == "get_attr" for constant in widened):
            values += source.values or widened[0].values  # codes in groups are packed: what they give has the shape
            held += [tensor for constant in widened for tensor in constant.values]
    return values, held


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("×"))) if text else ()


def _is_hidden(node: NodeRecord, snapshot: GraphSnapshot) -> bool:
    """Are its weights out of sight: packed for an engine, or inside the parts of a fused module?"""
    if node.op == "call_module":
        return node.kind in LAYERS | RECURRENT | LOOK_UPS and not any(
            name.startswith("weight") for name, _ in node.attributes
        )
    return any(source.op == "get_attr" and not source.values for source in map(snapshot.__getitem__, node.inputs))


def _owners(node: NodeRecord, snapshot: GraphSnapshot) -> list[str]:
    """Names of the module or the constants whose weights it reads."""
    if node.op == "call_module":
        return [node.target]
    sources = [snapshot[name] for name in node.inputs]
    deeper = [snapshot[name] for source in sources if not is_quantize(source) for name in source.inputs]
    return [source.target for source in (*sources, *deeper) if source.op == "get_attr"]


def _by_origin(snapshot: GraphSnapshot, found: dict[str, Cost], like: GraphSnapshot) -> dict[str, Cost]:
    """For the nodes with something unknown: what the nodes of the same origins cost in `like`."""
    wanted: dict[str, str] = {}
    for node in snapshot:
        if None in (found[node.name].macs, found[node.name].parameters, found[node.name].weight_bytes):
            wanted.update({origin: node.name for origin in node.origins if origin not in wanted})
    added: dict[str, Cost] = {}
    for name, cost in costs(like).items():
        reader = next((wanted[origin] for origin in like[name].origins if origin in wanted), None)
        if reader is not None:
            added[reader] = added[reader] + cost if reader in added else cost
    return added


def _filled(cost: Cost, known: Cost) -> Cost:
    pairs = ((getattr(cost, part.name), getattr(known, part.name)) for part in fields(Cost))
    return Cost(*(other if own is None else own for own, other in pairs))


def _sum(values: Iterable[int | None]) -> int | None:
    """None when one is unknown."""
    each = list(values)
    return None if None in each else sum(value or 0 for value in each)
