"""The one door to torch.ao: nothing else in the package imports it, so the rest survives its removal.

torch.ao.quantization is deprecated and still ships; its known warnings are filtered here by message, nowhere else.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

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


def fused_with_relu(layer: nn.Module) -> nn.Module | None:
    """The layer and a ReLU as the one unit that prepare and convert know; None for a layer that has no such unit.

    The unit holds the layer itself. Subclasses of these types are not fused: convert would not know them.
    """
    with quiet():
        from torch.ao.nn import intrinsic
    units: dict[type[nn.Module], type[nn.Module]] = {
        nn.Conv1d: intrinsic.ConvReLU1d,
        nn.Conv2d: intrinsic.ConvReLU2d,
        nn.Conv3d: intrinsic.ConvReLU3d,
        nn.Linear: intrinsic.LinearReLU,
    }
    unit = units.get(type(layer))
    return None if unit is None else unit(layer, nn.ReLU().train(layer.training)).train(layer.training)


# Preparing: observers ------------------------------------------------------------------------------------------------
