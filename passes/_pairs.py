"""prepare takes a layer and its ReLU for one pattern, and gives a pair of which only the layer is static nothing.

conv (static) → relu (float)     the ReLU is hidden while observers are inserted, so that the layer gets its own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.keep_float import is_kept_float
from fxquant.plan import Mode
from fxquant.program import Program


def float_relu(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stands for a ReLU in a graph that is being prepared: no pattern has it. Never run."""
    raise NotImplementedError("it stands for a ReLU while observers are inserted")


@dataclass(frozen=True, slots=True)
class _Hidden:
    op: str
    target: Any
    module: nn.Module | None


def hide_relus(program: Program) -> dict[str, _Hidden]:
    """Let the float ReLUs behind static ops be no ReLUs, until `show` gives them back what they were. By node name."""
    hidden: dict[str, _Hidden] = {}
    for node in program.graph.nodes:
        if is_relu(program, node) and not _is_static(program, node) and _is_static(program, node.all_input_nodes[0]):
            hidden[node.name] = _Hidden(node.op, node.target, program.module_of(node))
            node.op, node.target = "call_function", float_relu
    return hidden


def show(graph_module: fx.GraphModule, hidden: dict[str, _Hidden]) -> None:
    """Give hidden ReLUs back what they were."""
    for node in graph_module.graph.nodes:
        if node.target is float_relu:
            before = hidden[node.name]
            node.op, node.target = before.op, before.target
            if before.module is not None:
                graph_module.add_submodule(str(before.target), before.module)


def is_relu(program: Program, node: fx.Node) -> bool:
    """Is this call a ReLU, in any of its spellings?"""
    is_call = node.op in ("call_function", "call_method") and node.target in (F.relu, torch.relu, "relu")
    return is_call or type(program.module_of(node)) is nn.ReLU


def _is_static(program: Program, node: fx.Node) -> bool:
    return program.plan is not None and program.plan.mode_of(node) is Mode.STATIC and not is_kept_float(node)
