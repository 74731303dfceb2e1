"""The canonical graph as OpenVINO's PyTorch front end reads it, each of its nodes tied to the canonical node behind it.

canonical  →  torch.export  →  the decompositions that the front end wants  →  GraphModule
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, fx
from torch.export.decomp_utils import CustomDecompTable

from fxquant.engines._openvino_forms import write_forms
from fxquant.engines._openvino_patches import write_patches
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.exportable import exported
from fxquant.engines.silence import silence
from fxquant.errors import in_one_line
from fxquant.graphmodule import copied

_KEPT = (torch.ops.aten.matmul.default,)  # whole, though the front end's own table takes them apart


def decomposed(
    canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, is_dynamic: bool, has_codes: bool = False
) -> fx.GraphModule:
    """The graph in the ops of the front end, LSTMs on codes with `has_codes`. EngineRefusal: torch.export fails."""
    formed = copied(canonical)
    if not is_dynamic:
        write_patches(formed, leaves)
    write_forms(formed, has_codes=has_codes)
    program = exported(formed, leaves, is_dynamic=is_dynamic)
    try:
        with silence():
            made = program.run_decompositions(_table()).module(check_guards=False)
    except Exception as error:  # of any kind: decompositions raise what they like
        raise EngineRefusal(f"torch.export does not take it apart: {in_one_line(error)}") from error
    assert isinstance(made, fx.GraphModule)
    return made


@functools.cache
def _table() -> CustomDecompTable:
    """The front end's table of decompositions: built here, since its own way of building it logs to the root logger."""
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    table = CustomDecompTable()  # type: ignore[no-untyped-call]
    for op in (*ops_to_not_decompose(), *_KEPT):
        if op in table.decomp_table:
            table.pop(op)  # type: ignore[no-untyped-call]
    return table
