"""What each layer got in one candidate, and what it costs there: the ledger's rows with their SQNR."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxquant.comparing.rows import Layer
from fxquant.errors import FxQuantError
from fxquant.measuring import LayerMeasure, measure
from fxquant.model import CompiledModel

ROWS = 4  # of the data, on which layers are measured


def layers_of(compiled: nn.Module, model: nn.Module, inputs: Any) -> tuple[tuple[Layer, ...], str]:
    """Of a compiled model, its layers in graph order, and why they were not measured; of any other module nothing.

    Args:
        compiled: the candidate.
        model: the float model that it is measured against.
        inputs: one call's arguments as `fxquant.measure` takes them; None: the first calibration rows.
    """
    if not isinstance(compiled, CompiledModel):
        return (), ""
    known: dict[str, LayerMeasure] = {}
    why = ""
    try:
        found = measure(compiled, model=model, inputs=inputs, rows=ROWS, is_timed=False)
        known = {layer.site: layer for layer in found.layers}
    except FxQuantError as error:
        why = f"its layers were not measured: {error.code} {error.message}"
    return tuple(
        Layer(
            site=row.site,
            module=row.module or row.site,
            op=row.op,
            effective=row.effective,
            code=row.code,
            reason=row.reason,
            own_sqnr_db=known[row.site].own_sqnr_db if row.site in known else None,
            sqnr_db=known[row.site].sqnr_db if row.site in known else None,
        )
        for row in compiled.ledger.layers
    ), why
