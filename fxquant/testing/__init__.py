"""Hypothesis strategies for models, inputs, policies, pipelines and snapshots: the public kit for property tests.

Needs the extra `test` (`pip install "fxquant[test]"`). Everything is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.bounds import ErrorBound, error_bound
    from fxquant.testing.drawn_model import DrawnModel
    from fxquant.testing.input_strategies import inputs
    from fxquant.testing.mapping_strategies import qconfig_mappings
    from fxquant.testing.model_strategies import model_specs, models
    from fxquant.testing.pipeline_strategies import DrawnPipeline, pipelines
    from fxquant.testing.quantization import quantization_test
    from fxquant.testing.recipe_strategies import recipes
    from fxquant.testing.snapshot_strategies import snapshots
    from fxquant.testing.spec import InputSpec, ModelSpec, Op
    from fxquant.testing.tolerance import Tolerance, ToleranceError, assert_within_tolerance

_HOMES = {
    "ErrorBound": "fxquant.bounds",
    "Tolerance": "fxquant.testing.tolerance",
    "ToleranceError": "fxquant.testing.tolerance",
    "assert_within_tolerance": "fxquant.testing.tolerance",
    "error_bound": "fxquant.bounds",
    "quantization_test": "fxquant.testing.quantization",
    "DrawnModel": "fxquant.testing.drawn_model",
    "DrawnPipeline": "fxquant.testing.pipeline_strategies",
    "InputSpec": "fxquant.testing.spec",
    "ModelSpec": "fxquant.testing.spec",
    "Op": "fxquant.testing.spec",
    "inputs": "fxquant.testing.input_strategies",
    "model_specs": "fxquant.testing.model_strategies",
    "models": "fxquant.testing.model_strategies",
    "pipelines": "fxquant.testing.pipeline_strategies",
    "qconfig_mappings": "fxquant.testing.mapping_strategies",
    "recipes": "fxquant.testing.recipe_strategies",
    "snapshots": "fxquant.testing.snapshot_strategies",
}

__all__ = [
    "DrawnModel",
    "DrawnPipeline",
    "ErrorBound",
    "InputSpec",
    "ModelSpec",
    "Op",
    "Tolerance",
    "ToleranceError",
    "assert_within_tolerance",
    "error_bound",
    "inputs",
    "model_specs",
    "models",
    "pipelines",
    "qconfig_mappings",
    "quantization_test",
    "recipes",
    "snapshots",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use. FXQ119 where hypothesis is missing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fxquant.testing' has no attribute {name!r}")
    value = getattr(_home(name), name)
    globals()[name] = value
    return value


def _home(name: str) -> Any:
    try:
        return import_module(_HOMES[name])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("hypothesis", "pytest"):
            raise
        from fxquant.errors import MissingExtraError

        raise MissingExtraError(
            "FXQ119",
            f"fxquant.testing.{name} needs {missing}, which is not installed",
            hint='pip install "fxquant[test]"',
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
