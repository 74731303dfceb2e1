"""A model on its way through the compiler: the stage it has reached, and what travels with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxquant.targets import native_engine

if TYPE_CHECKING:
    from fxquant.ledger import LedgerState
    from fxquant.plan import QuantPlan
    from fxquant.signature import Signature


class Stage(IntEnum):
    """How far a program has come. The order of passes is checked against it."""

    TRACED = 1  # a float graph, every node with its origin
    PLANNED = 2  # and a decision for every call site
    PREPARED = 3  # with observers
    CALIBRATED = 4  # whose observers have seen data
    CONVERTED = 5  # the canonical graph: plain-integer quantize/dequantize, weights stored once as int8
    LOWERED = 6  # runs on an engine


@dataclass(frozen=True, slots=True)
class Finding:
    """Canonical nodes that an engine computes differently, found by the parity check: they stay float there."""

    nodes: tuple[str, ...]
    steps: float  # codes off; infinity: the kernel fails
    target: str


@dataclass(frozen=True, slots=True)
class Program:
    """A graph module that belongs to the compiler (never the caller's), and what passes need to know about it.

    The graph takes the tensor leaves of the model's arguments, in order, and returns a tuple of tensor leaves;
    `signature` maps the user's arguments and outputs to and from them. Passes mutate `graph_module` in place.
    """

    graph_module: fx.GraphModule
    stage: Stage
    signature: Signature
    example_leaves: tuple[torch.Tensor, ...] | None = None  # one example of the graph's inputs, where one is known
    call_leaves: tuple[torch.Tensor, ...] | None = None  # of the call that the caller gave as an example, whole
    values: Mapping[str, Any] = field(default_factory=dict)  # origin → dtype and shape of what the traced node gave
    plan: QuantPlan | None = None
    target: str = "x86"  # what runs it in the end, a name of the table of targets
    model_name: str = "Model"  # class name of the user's model
    policy: str = ""  # what was asked: a preset's or mapping's title, or a recipe's text
    canonical: fx.GraphModule | None = None  # LOWERED only: the CONVERTED graph it was lowered from
    unlowered: LedgerState | None = None  # LOWERED only: the ledger as it was for that graph
    findings: tuple[Finding, ...] = ()  # of parity checks on this program
    calibrated_on: frozenset[bytes] = frozenset()  # digests of the rows that its observers saw
    pruned: frozenset[str] = frozenset()  # names of parameters whose zeros stay zero while it trains
    unlanded: Mapping[str, str] = field(default_factory=dict)  # site → why its link of a chain does not run after all
    kept_batches: tuple[tuple[torch.Tensor, ...], ...] = ()  # batches kept for another round of a chain
    is_foreign: bool = (
        False  # it came in a file that anybody may have made: no node of it runs before the user calls it
    )

    @property
    def graph(self) -> fx.Graph:
        """The graph of `graph_module`."""
        return self.graph_module.graph

    @property
    def engine(self) -> str:
        """The engine of torch's own that the plan is for, and whose formats the converted graph has."""
        return native_engine(self.target)

    def at(self, stage: Stage) -> Program:
        """The same program, one stage further."""
        return replace(self, stage=stage)

    def module_of(self, node: fx.Node) -> torch.nn.Module | None:
        """The module that a call_module node calls; None for other nodes."""
        return self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
