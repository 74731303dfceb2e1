"""Values that nothing reads, in a graph without in-place writes: erased, unless computing them does something."""

from __future__ import annotations

from torch import fx, nn

from fxquant.graphmodule import drop_unused_modules
from fxquant.program import Program


def drop_dead_code(program: Program) -> None:
    """Erase dead calls. What is random, stores a buffer, asserts, or calls a module of the user's own stays."""
    dropped = False
    for node in reversed(list(program.graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output") and not _acts(program, node):
            program.graph.erase_node(node)
            dropped = True
    if dropped:
        drop_unused_modules(program.graph_module)


def _acts(program: Program, node: fx.Node) -> bool:
    module = program.module_of(node)
    if module is not None:
        return not type(module).__module__.startswith(nn.__name__)
    return node.op != "get_attr" and node.is_impure()
