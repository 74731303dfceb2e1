"""canonicalize-qdq: the canonical graph with as few roundings as it takes to give the same numbers.

x → quantize → dequantize → relu6 → quantize → dequantize → maxpool → quantize → dequantize → y
x → quantize (its range ends at 0 and 6) → dequantize → maxpool → y

Each rewrite has a file that opens with its algebra: ranges (`_canonical_ranges`), pairs (`_canonical_pairs`).
What an engine wants beyond that is in the rules of its own (`_ruled`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fxquant.graphmodule import drop_unused_modules
from fxquant.ledger import Ledger
from fxquant.passes import _canonical_pairs, _canonical_ranges
from fxquant.passes._canonical import is_activation_quantize
from fxquant.passes._ruled import ruled
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage


@dataclass(frozen=True)
class CanonicalizeQDQ(Pass):
    """ReLU6 and other clamps ⇒ the range of the quantize after them; a second rounding to the same grid ⇒ none.

    An activation that the plan wants in float32 stays an op of its own.
    """

    name: ClassVar[str] = "canonicalize-qdq"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.CONVERTED})

    def run(self, program: Program, ledger: Ledger) -> Program:
        graph, plan = program.graph, program.plan
        floats = frozenset() if plan is None else frozenset(filter(plan.asks_nothing, graph.nodes))
        for node in [node for node in graph.nodes if is_activation_quantize(node) and node.args[0] not in floats]:
            _canonical_ranges.fold(graph, node, program.engine, ledger)
        while _canonical_pairs.elide(graph) + _canonical_pairs.drop_relus(graph, floats, ledger):
            pass  # a ReLU between two pairs of one grid: the second pair goes when the ReLU has gone
        graph.eliminate_dead_code()
        drop_unused_modules(program.graph_module)
        return replace(program, graph_module=ruled(program.graph_module, program.target))
