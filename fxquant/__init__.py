"""fxquant: a compiler toolkit for FX graph-mode quantization in PyTorch.

The front door is `compile`; everything is imported when it is first asked for, so `import fxquant` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.artifact.loading import load
    from fxquant.asking import qconfig
    from fxquant.comparing.comparison import Comparison
    from fxquant.comparing.evaluating import evaluate
    from fxquant.comparing.front import compare
    from fxquant.compiler import compile, default_pipeline
    from fxquant.compressing import compress
    from fxquant.custom import CustomModule
    from fxquant.distilling import Distillation
    from fxquant.drawing.overlays import Overlay
    from fxquant.drawing.picture import Picture, draw
    from fxquant.errors import FxQuantError, FxQuantWarning
    from fxquant.graphs.diffing import GraphDiff, diff
    from fxquant.graphs.snapping import snapshot
    from fxquant.graphs.snapshot import GraphSnapshot
    from fxquant.ledger import Ledger
    from fxquant.measuring import Measurements, measure
    from fxquant.model import CompiledModel
    from fxquant.numerics import sqnr_db
    from fxquant.pipeline import Pass, Pipeline
    from fxquant.plan import Decision, Mode, QuantPlan
    from fxquant.profiling.profiling import profile
    from fxquant.profiling.result import Profile
    from fxquant.program import Program, Stage
    from fxquant.qat import QATModel
    from fxquant.row import Row
    from fxquant.steps import steps_of
    from fxquant.trainable import TrainableModel
    from fxquant.training.loop import distil
    from fxquant.training.schedule import QATSchedule
    from fxquant.weights import load_weights

__version__ = "0.1.0"

_HOMES = {
    "compare": "fxquant.comparing.front",
    "compile": "fxquant.compiler",
    "compress": "fxquant.compressing",
    "default_pipeline": "fxquant.compiler",
    "diff": "fxquant.graphs.diffing",
    "draw": "fxquant.drawing.picture",
    "evaluate": "fxquant.comparing.evaluating",
    "Comparison": "fxquant.comparing.comparison",
    "CompiledModel": "fxquant.model",
    "CustomModule": "fxquant.custom",
    "Decision": "fxquant.plan",
    "Distillation": "fxquant.distilling",
    "FxQuantError": "fxquant.errors",
    "FxQuantWarning": "fxquant.errors",
    "GraphDiff": "fxquant.graphs.diffing",
    "GraphSnapshot": "fxquant.graphs.snapshot",
    "Ledger": "fxquant.ledger",
    "Measurements": "fxquant.measuring",
    "Mode": "fxquant.plan",
    "Overlay": "fxquant.drawing.overlays",
    "Pass": "fxquant.pipeline",
    "Picture": "fxquant.drawing.picture",
    "Pipeline": "fxquant.pipeline",
    "Profile": "fxquant.profiling.result",
    "Program": "fxquant.program",
    "QATModel": "fxquant.qat",
    "QATSchedule": "fxquant.training.schedule",
    "QuantPlan": "fxquant.plan",
    "Row": "fxquant.row",
    "Stage": "fxquant.program",
    "TrainableModel": "fxquant.trainable",
    "distil": "fxquant.training.loop",
    "load": "fxquant.artifact.loading",
    "load_weights": "fxquant.weights",
    "measure": "fxquant.measuring",
    "profile": "fxquant.profiling.profiling",
    "qconfig": "fxquant.asking",
    "snapshot": "fxquant.graphs.snapping",
    "sqnr_db": "fxquant.numerics",
    "steps_of": "fxquant.steps",
}

__all__ = [
    "Comparison",
    "CompiledModel",
    "CustomModule",
    "Decision",
    "Distillation",
    "FxQuantError",
    "FxQuantWarning",
    "GraphDiff",
    "GraphSnapshot",
    "Ledger",
    "Measurements",
    "Mode",
    "Overlay",
    "Pass",
    "Picture",
    "Pipeline",
    "Profile",
    "Program",
    "QATModel",
    "QATSchedule",
    "QuantPlan",
    "Row",
    "Stage",
    "TrainableModel",
    "compare",
    "compile",
    "compress",
    "default_pipeline",
    "diff",
    "distil",
    "draw",
    "evaluate",
    "load",
    "load_weights",
    "measure",
    "profile",
    "qconfig",
    "snapshot",
    "sqnr_db",
    "steps_of",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fxquant' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
