"""Values whose memory a pure write looks at (fxquant.aliasing.rewritten): between them nothing may be quantized.

    v = y[:, :4]; (y1,) = rewritten(v, v * 2, (y,))      y and v are one memory only while both are float

With a quantize and dequantize between the two, v would be memory of its own, and the write to it lost to y.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from fxquant.aliasing import rewritten
from fxquant.observation import observer_of
from fxquant.passes._aliases import Aliases
from fxquant.structure import map_leaves


def in_shared_memory(graph_module: fx.GraphModule) -> frozenset[str]:
    """Names of the values that writes look at, and of what those are views of."""
    return frozenset(node.name for node in _behind(graph_module, graph_module.graph.nodes))


def views_behind(graph_module: fx.GraphModule, write: fx.Node) -> tuple[fx.Node, ...]:
    """The views that a write looks at, and those that they are views of: who computes the write has to make them."""
    found = _behind(graph_module, (write,))
    return tuple(node for node, sources in found.items() if sources)


def _behind(graph_module: fx.GraphModule, writes: Iterable[fx.Node]) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """What these writes look at, through all views, and what each of it is a view of."""
    aliases = Aliases(graph_module, {})
    found: dict[fx.Node, tuple[fx.Node, ...]] = {}
    waiting = [source for node in writes for source in _looked_at(node)]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        is_base = node.target is rewritten or _is_fused(graph_module, node)
        found[node] = () if is_base else tuple(aliases.sources(node))
        waiting += found[node]
    return found


def read_unobserved(graph_module: fx.GraphModule, shared: frozenset[str]) -> None:
    """Views and writes read these values as they are; other readers keep their observers."""
    for node in list(graph_module.graph.nodes):
        if node.target is not rewritten and node.name not in shared:
            continue
        for observer in node.all_input_nodes:
            source = observer.all_input_nodes[0] if observer_of(graph_module, observer) is not None else None
            if source is not None and source.name in shared:
                node.replace_input_with(observer, source)
                if not observer.users:
                    graph_module.graph.erase_node(observer)


def _looked_at(node: fx.Node) -> list[fx.Node]:
    if node.target is not rewritten:
        return []
    found: list[fx.Node] = []
    map_leaves(lambda leaf: found.append(leaf) if isinstance(leaf, fx.Node) else None, [node.args[0], node.args[2]])
    return found


def _is_fused(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """A layer with its relu gives memory of its own."""
    if node.op != "call_module":
        return False
    return type(graph_module.get_submodule(str(node.target))).__module__.startswith("torch.ao.")
