"""Running both graphs over the held batches: values, SQNR and seconds → Evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, fx

from fxquant.calibration import check_finite, leaves_of
from fxquant.diagnosis import diagnose
from fxquant.measuring import Measurements, measure
from fxquant.plan import Mode
from fxquant.profiling.activations import stream
from fxquant.profiling.evidence import Evidence, timed
from fxquant.profiling.held import Held, sample
from fxquant.profiling.running import run_afresh
from fxquant.program import Program

if TYPE_CHECKING:
    from fxquant.model import CompiledModel

ROWS = 64  # that SQNR is measured on, layer by layer
TIMED_SECONDS = 1.0  # for the times of the nodes


def gathered(compiled: CompiledModel, kept: Held | None) -> Evidence:
    """Run what there is data for."""
    floating = compiled.trace_float()
    if kept is None:
        return Evidence(compiled, floating)
    leaves = _checked(compiled, floating, kept)
    measured = _measured(compiled, floating, kept)
    limits = {
        layer.site: (layer.quant_low, layer.quant_high)
        for layer in measured.layers
        if layer.quant_low is not None and layer.quant_high is not None
    }
    values = stream(floating.graph_module, leaves, limits)
    by_site, by_node = timed(compiled, floating, leaves[0], TIMED_SECONDS)
    measures = {layer.site: layer for layer in measured.layers}
    return Evidence(compiled, floating, measures, values, by_site, by_node, measured.output_sqnr_db)


def _checked(compiled: CompiledModel, floating: Program, kept: Held) -> list[tuple[Tensor, ...]]:
    """The graph's inputs of each batch. FXQ302 and FXQ304 name the batch that has NaN, or does not fit.

    A static start has run them all to calibrate; for the others each is run here first.
    """
    found: list[tuple[Tensor, ...]] = []
    interpreter = fx.Interpreter(floating.graph_module)
    is_run = any(decision.mode is Mode.STATIC for decision in compiled.plan)
    for index, (args, kwargs) in enumerate(kept.calls):
        leaves = leaves_of(compiled.program, args, kwargs, index)
        check_finite(compiled.program, leaves, f"calibration batch {index}", "clean the data")
        try:
            if not is_run:
                run_afresh(interpreter, leaves)
        except Exception as error:  # whatever torch says of a shape: diagnose() finds the layer
            raise diagnose(floating, leaves, index, error) from error
        found.append(leaves)
    return found


def _measured(compiled: CompiledModel, floating: Program, kept: Held) -> Measurements:
    """SQNR, layer by layer, on rows of every batch where the model takes them together, else on the first batch."""
    args, kwargs = sample(kept, ROWS)
    try:
        run_afresh(fx.Interpreter(floating.graph_module), compiled.program.signature.leaves(args, kwargs))
    except Exception:  # perhaps it insists on its batch size; what fails on one batch too has failed in compile
        args, kwargs = kept.calls[0]
    inputs = None if args and kwargs else (kwargs or args)
    return measure(compiled, inputs=inputs, rows=ROWS, is_timed=False)
