"""What went wrong in a calibration batch, and at which node: found by running the graph again without its observers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.errors import CalibrationShapeError, FxQuantError, NonFiniteError
from fxquant.observation import observer_of
from fxquant.origin import scope, where
from fxquant.program import Program


@dataclass(frozen=True, slots=True)
class _Culprit(Exception):
    node: fx.Node
    error: Exception | None
    value: torch.Tensor | None = None


class _Unobserved(fx.Interpreter):
    """Runs the graph without its observers."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False

    def run_node(self, node: fx.Node) -> Any:
        if observer_of(self.module, node) is not None:  # type: ignore[arg-type]
            return self.fetch_args_kwargs_from_env(node)[0][0]
        return super().run_node(node)


class Dtypes(_Unobserved):
    """Writes down the dtype of every tensor."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.found: dict[fx.Node, torch.dtype] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, torch.Tensor):
            self.found[node] = value.dtype
        return value


class _Probe(_Unobserved):
    """Stops at the first node that fails, or, where none does, that gives a non-finite value."""

    def __init__(self, graph_module: fx.GraphModule, *, has_failed: bool) -> None:
        super().__init__(graph_module)
        self.has_failed = has_failed

    def run_node(self, node: fx.Node) -> Any:
        try:
            value = super().run_node(node)
        except Exception as error:
            raise _Culprit(node, error) from error
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        if is_float and not self.has_failed and node.op != "get_attr" and not bool(torch.isfinite(value).all()):
            raise _Culprit(node, None, value)
        return value


def diagnose(program: Program, leaves: tuple[torch.Tensor, ...], batch: int, error: Exception | None) -> FxQuantError:
    """Which node is at fault, found by running the graph once more, node by node."""
    for has_failed in dict.fromkeys((error is not None, False)):  # a failure counts before an infinity on the way to it
        try:
            with torch.no_grad():
                _Probe(program.graph_module, has_failed=has_failed).run(*leaves)
        except _Culprit as culprit:
            return _told(culprit, program, leaves, batch)
    return CalibrationShapeError("FXQ304", f"calibration batch {batch} fails in an observer: {error}")


def _told(culprit: _Culprit, program: Program, leaves: tuple[torch.Tensor, ...], batch: int) -> FxQuantError:
    node = culprit.node
    place = {"node": node.name, "module": scope(node), "where": where(node)}
    if culprit.value is not None:
        count = int((~torch.isfinite(culprit.value)).sum())
        return NonFiniteError(
            "FXQ302",
            f"calibration batch {batch}: '{node.name}' gives {count} NaN or infinite of {culprit.value.numel()} values",
            hint="look at the layer's inputs: the batch itself is finite",
            **place,  # type: ignore[arg-type]
        )
    shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
    return CalibrationShapeError(
        "FXQ304",
        f"calibration batch {batch} with shape {shapes} does not fit at '{node.name}': {culprit.error}",
        hint=_way_out(program, leaves, str(culprit.error)),
        **place,  # type: ignore[arg-type]
    )


def _way_out(program: Program, leaves: tuple[torch.Tensor, ...], error: str) -> str:
    """What to do about a batch that fails: dtypes are a frequent reason."""
    others = [leaf.dtype for leaf in leaves if leaf.is_floating_point() and leaf.dtype is not torch.float32]
    if others:
        return f"the model is float32 and the batch {others[0]}: give batch.float()"
    if program.signature.cast and ("type" in error or "Half" in error):
        return "the model was cast to float32 (FXQ221): code that is not traced must cast by x.to(self.weight.dtype)"
    return "every batch must be what the model's forward() takes"
