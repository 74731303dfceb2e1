"""What the lowering passes of engines outside torch share: build, check the outputs, write the rows.

    canonical graph  ⇒  one call of the engine (or several, with what it refuses in torch between them)

The canonical graph is what the model means; the engine may round in another order. So it is held to the graph from end
to end, see `_end_to_end.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx

from fxquant.engines.engine import EngineRefusal
from fxquant.engines.importing import builder
from fxquant.errors import LoweringError, ParityError, in_one_line
from fxquant.graphs.snapshot import TensorInfo
from fxquant.ledger import Ledger
from fxquant.passes import _engine_rows
from fxquant.passes._end_to_end import fault
from fxquant.passes._engine_graph import EngineGraph, engine_graph
from fxquant.program import Program, Stage
from fxquant.torch_ao import engine, quiet
from fxquant.values import known_value


def lowered(program: Program, ledger: Ledger, target: str, *, is_strict: bool, is_checked: bool) -> Program:
    """The program on the engine of a target outside torch.

    Raises:
        EngineUnavailableError: FXQ502 when the engine's package cannot be imported.
        LoweringError: FXQ512 when the engine takes none of the graph.
        ParityError: FXQ514 when its outputs are further from the un-rounded model than the canonical graph's.
    """
    unlowered = ledger.state()
    leaves = program.call_leaves or _example(program)
    try:
        with engine(program.engine), quiet():
            made = engine_graph(program.graph_module, leaves, builder(target), target, may_run=not program.is_foreign)
    except EngineRefusal as refusal:
        raise refused(target, refusal.why) from refusal
    if is_checked:
        for inputs in _known_inputs(program):
            _check(program.graph_module, made, inputs, target)
    _engine_rows.settle(program, target, made, ledger, is_strict=is_strict)
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


def _known_inputs(program: Program) -> Iterator[tuple[Tensor, ...]]:
    """Rows of the calibration data; in the shapes of the caller's example too, for which engines have other kernels."""
    rows, call = program.example_leaves, program.call_leaves
    if rows is None:
        return
    yield rows
    if call is not None and any(leaf.shape != row.shape for leaf, row in zip(call, rows, strict=True)):
        yield tuple(_in_shape_of(leaf, row) for leaf, row in zip(call, rows, strict=True))


def _in_shape_of(leaf: Tensor, row: Tensor) -> Tensor:
    """Calibrated values in this shape: an example may be all zeros, where one step of a code is all there is."""
    if not leaf.is_floating_point() or not leaf.numel() or not row.numel():
        return leaf
    times = -(-leaf.numel() // row.numel())
    return row.to(leaf.dtype).flatten().repeat(times)[: leaf.numel()].view(leaf.shape)


def _check(canonical: fx.GraphModule, made: EngineGraph, leaves: tuple[Tensor, ...], target: str) -> None:
    try:
        told = fault(canonical, made.graph_module.forward, leaves, made.float_type)
    except Exception as error:  # of whatever kind: it took the graph, and fails on the example
        raise refused(target, f"it fails on the example inputs: {in_one_line(error)}") from error
    if told:
        hint = "another target may compute it right; target='auto' and strict=False fall back by themselves"
        raise ParityError("FXQ514", f"{target} computes something else: {told}", hint=hint)


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
