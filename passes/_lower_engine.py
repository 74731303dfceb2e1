"""What the lowering passes of engines outside torch share: build, check the outputs, write the rows.

    canonical graph  ⇒  one call of the engine (or several, with what it refuses in torch between them)

The canonical graph is what the model means; the engine may round in another order. So it is held to the graph from end
to end, see `_end_to_end.py`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import torch
from torch import Tensor

from fxquant.engines.engine import EngineRefusal
from fxquant.errors import LoweringError
from fxquant.graphs.snapshot import TensorInfo
from fxquant.ledger import Ledger
from fxquant.passes import _engine_rows
from fxquant.passes._engine_graph import Build, engine_graph
from fxquant.program import Program, Stage
from fxquant.torch_ao import engine, quiet
from fxquant.values import known_value


def lowered(program: Program, ledger: Ledger, module: str, *, is_strict: bool, is_checked: bool) -> Program:
    """The program on the engine whose file is `module` ('fxquant.engines.openvino', with a function `build`).

    Raises:
        LoweringError: FXQ512 when the engine takes none of the graph.
        ParityError: FXQ514 when its outputs are further from the un-rounded model than the canonical graph's.
    """
    target, unlowered = module.rpartition(".")[2], ledger.state()
    leaves = _example(program)
    try:
        with engine(program.engine), quiet():
            build: Build = import_module(module).build
            made = engine_graph(program.graph_module, leaves, build, target, may_run=not program.is_foreign)
    except EngineRefusal as refusal:
        raise refused(target, refusal.why) from refusal
    _engine_rows.settle(program, target, made.engines, made.in_torch, ledger, is_strict=is_strict)
    return replace(
        program,
        graph_module=made.graph_module,
        canonical=program.graph_module,
        stage=Stage.LOWERED,
        target=target,
        unlowered=unlowered,
        findings=(),
        unlanded={},
    )


def refused(target: str, why: str) -> LoweringError:
    """FXQ512: the engine does not run this model."""
    hint = "another target runs it: target='auto' falls back by itself, and so does strict=False"
    return LoweringError("FXQ512", f"{target} does not run this model: {why}", hint=hint)


def _example(program: Program) -> tuple[Tensor, ...]:
    """An example of the graph's inputs: the one that is known, else zeros of the shapes that were seen."""
    if program.example_leaves is not None:
        return program.example_leaves
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    values = [known_value(node) or program.values.get(node.name) for node in inputs]
    known = [value for value in values if isinstance(value, TensorInfo)]
    if len(known) < len(inputs):
        raise refused(program.target, "no example inputs are known, and it compiles for the shapes of one")
    return tuple(torch.zeros(value.shape, dtype=getattr(torch, value.dtype)) for value in known)
