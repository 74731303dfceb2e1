"""The lines of text in a box, its tooltip, and what stands on an arrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fxquant.drawing.words import clean, clean_path, number, plural, tensor_text
from fxquant.graphs.cut import placed_in
from fxquant.graphs.kernels import operation
from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.regions import COMPUTING, Region
from fxquant.graphs.snapshot import NodeRecord

QUALIFIERS = ("_scale", "_zero_point")


def node_lines(node: NodeRecord, members: Sequence[NodeRecord], found: Mapping[str, Region]) -> tuple[str, ...]:
    """What it computes, which module it is, its scale, the constants folded into it."""
    title = operation(node)
    if found[node.name] is Region.BOUNDARY:
        title = title.removesuffix("_per_tensor")
    if is_quantize(node) and any(map(is_dequantize, members)):
        title = "quantize"
    if is_quantize(node) and node.attribute("dtype"):
        title = f"{title} {node.attribute('dtype')}"
    name = node.target if node.op in ("call_module", "get_attr", "placeholder") else node.scope
    if found[node.name] is Region.BOUNDARY and node.attribute("scale"):
        return (f"{clean(title)} · {_scale(node)}",)
    lines = [clean(title)] + ([clean_path(name)] if name and name != title else [])
    if node.attribute("scale"):
        lines.append(_scale(node))
    if placed_in(node):
        lines.append(f"placed in {placed_in(node)}")
    return (*lines, *_constants(node, members))


def _scale(node: NodeRecord) -> str:
    return f"s={number(node.attribute('scale'))} z={number(node.attribute('zero_point'))}"


def _constants(node: NodeRecord, members: Sequence[NodeRecord]) -> list[str]:
    held = [one for one in members if one.op == "get_attr" and one is not node]
    axis = " per channel" if any("per_channel" in one.target for one in members if one is not node) else ""
    lines = []
    for one in held:
        kind = one.target.rpartition(".")[2]
        if kind.endswith(QUALIFIERS):
            continue
        if "packed" in kind:
            lines.append("packed weight")
        else:
            told = ", ".join(map(str, one.values[:2]))
            lines.append(clean(f"{kind} {told}{axis if 'weight' in kind else ''}", 56))
    return lines[:4]


def module_lines(key: tuple[str, ...], members: Sequence[NodeRecord], found: Mapping[str, Region]) -> tuple[str, ...]:
    """'layer1.0', '7 nodes: 6 quantized, 1 float'."""
    counts = Counter(found[node.name] for node in members)
    told = [f"{counts[region]:,} {region.value}" for region in Region if region in COMPUTING and counts[region]]
    told += [f"{counts[Region.BOUNDARY]:,} quantize/dequantize"] if counts[Region.BOUNDARY] else []
    told += [f"{counts[Region.OBSERVER]:,} observing"] if counts[Region.OBSERVER] else []
    head = f"{plural(len(members), 'node')}" + (":" if told else "")
    return (clean_path(".".join(key)) or "the model", head, *told)


def tooltip(members: Sequence[NodeRecord]) -> str:
    """Name, call and place in the user's code of the first nodes of a box."""
    told = [_told(node) for node in members[:6]]
    return " | ".join(told + ([f"and {len(members) - 6:,} more"] if len(members) > 6 else []))


def _told(node: NodeRecord) -> str:
    place = node.where.replace("\\", "/").rpartition("/")[2]
    called = f"{clean(node.name, 60)} = {clean(node.target, 80)}{clean(node.args, 160)}"
    return called + (f" at {clean_path(place, 60)}" if place else "")


def arrow_text(source: NodeRecord, members: Sequence[NodeRecord], batch: int | None) -> str:
    """Dtype and shape of what a box gives; of a quantize and its dequantize, the codes."""
    giver = next((node for node in members if is_quantize(node)), source) if is_dequantize(source) else source
    if not giver.values:
        return ""
    more = f" +{len(giver.values) - 1}" if len(giver.values) > 1 else ""
    return tensor_text(giver.values[0], batch) + more
