"""Strategies for graph snapshots: torch-free graphs of calls, for laws of diffs, pictures and analyses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo

KINDS = ("conv2d", "linear", "relu", "add", "mul", "cat")
SHAPES = ((1, 4), (1, 4, 8, 8), ())
_DTYPES = ("float32", "quint8")
_SCOPES = ("", "layer1", "layer1.0", "layer2")


def call(name: str, kind: str, *inputs: str, origins: tuple[str, ...] = (), **fields: object) -> NodeRecord:
    """A call of the function `kind` that reads `inputs`."""
    args = "(" + ", ".join(f"%{source}" for source in inputs) + ")"
    read = tuple(dict.fromkeys(inputs))
    return NodeRecord(name, "call_function", f"torch.{kind}", kind, args, read, origins, **fields)  # type: ignore[arg-type]


@st.composite
def snapshots(
    draw: st.DrawFn,
    *,
    has_origins: bool | None = None,
    is_distinct: bool = False,
    has_modules: bool = True,
    most: int = 12,
    kinds: Sequence[str] = KINDS,
) -> GraphSnapshot:
    """A graph of one or two inputs, some calls, and an output that reads all that nothing else reads.

    `GraphSnapshot.from_json(graph.to_json()) == graph`. Shrinks to one input, one call of it, and the output.

    Args:
        has_origins: do nodes know the traced nodes that they stand for? None: drawn.
        is_distinct: no two calls have the same attributes, so each can be told from the others without origins.
        has_modules: some calls are of modules, in scopes of their own.
        most: how many calls at most.
        kinds: what is called.
    """
    is_traced = draw(st.booleans()) if has_origins is None else has_origins
    nodes = [_traced(NodeRecord(f"x{i}", "placeholder", f"x{i}", f"x{i}", "()"), is_traced)
             for i in range(draw(st.integers(1, 2)))]  # fmt: skip
    for index in range(draw(st.integers(1, most))):
        sources = draw(st.lists(st.sampled_from([node.name for node in nodes]), min_size=1, max_size=2))
        made = call(
            f"n{index}",
            draw(st.sampled_from(kinds)),
            *sources,
            attributes=(("option", str(index) if is_distinct else draw(st.sampled_from("ab"))),),
            values=(TensorInfo(draw(st.sampled_from(_DTYPES)), draw(st.sampled_from(SHAPES))),),
            where=f"model.py:{index}",
        )
        nodes.append(_traced(draw(_placed(made)) if has_modules else made, is_traced))
    read = {source for node in nodes for source in node.inputs}
    last = call("output", "output", *(node.name for node in nodes if node.name not in read))
    return GraphSnapshot((*nodes, _traced(replace(last, op="output", target="output"), is_traced)), "Drawn")


def _traced(node: NodeRecord, is_traced: bool) -> NodeRecord:
    return replace(node, origins=(node.name,)) if is_traced else node


@st.composite
def _placed(draw: st.DrawFn, node: NodeRecord) -> NodeRecord:
    """The call in a scope, or as the call of a module that is in one."""
    scope = draw(st.sampled_from(_SCOPES))
    if not draw(st.booleans()):
        return replace(node, scope=scope)
    target = f"{scope}.{node.name}" if scope else node.name
    return replace(node, op="call_module", target=target, kind=node.kind.capitalize(), scope=scope)
