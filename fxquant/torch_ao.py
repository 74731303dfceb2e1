"""The one door to torch.ao: nothing else in the package imports it, so the rest survives its removal.

torch.ao.quantization is deprecated and still ships; its known warnings are filtered here by message, nowhere else.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

KNOWN_WARNINGS = (
    "torch.ao.quantization is deprecated",
    ".*quantized dtypes? (is|are) deprecated.*",
    "Please use quant_min and quant_max to specify the range for observers",
    "must run observer before calling calculate_qparams",
    "torch.quantize_per_(tensor|channel).* is deprecated",
    "TypedStorage is deprecated",
)

_ENGINE_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """torch.ao's known deprecation warnings are silent inside the block; all others pass."""
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def engine(name: str) -> Iterator[None]:
    """The process-global quantized engine is `name` inside the block, and as before after it; one thread at a time."""
    with _ENGINE_LOCK:
        before = torch.backends.quantized.engine
        if before == name:
            yield
            return
        torch.backends.quantized.engine = name
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


# Policy: QConfig and QConfigMapping ---------------------------------------------------------------------------------


# Fusing: the module types that prepare knows as one unit -------------------------------------------------------------


# Preparing: observers ------------------------------------------------------------------------------------------------


# The oracle: raw prepare_fx / convert_fx -----------------------------------------------------------------------------


def raw_quantize(
    model: nn.Module,
    qconfig_mapping: Any,
    example_inputs: tuple[Any, ...],
    batches: Iterable[tuple[Any, ...]],
    *,
    in_place: bool = False,
) -> fx.GraphModule:
    """What torch alone makes of a model: prepare_fx → calibrate → convert_fx, for the engine that is set now.

    Tests and benches hold fxquant to it. `in_place` skips the copy that keeps `.qconfig` marks off the model.
    """
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    with quiet(), torch.no_grad():
        own = model if in_place else copy.deepcopy(model)
        prepared = prepare_fx(own.eval(), qconfig_mapping, example_inputs)
        for batch in batches:
            prepared(*batch)
        converted: fx.GraphModule = convert_fx(prepared)
    return converted


def raw_mapping(engine_name: str) -> Any:
    """torch's own default static QConfigMapping for an engine."""
    from torch.ao.quantization import get_default_qconfig_mapping

    with quiet():
        return get_default_qconfig_mapping(engine_name)
