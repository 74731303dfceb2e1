"""The door to a package outside torch: it is imported in silence, and whatever stops that is one kind of error."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from fxquant.engines.engine import Build
from fxquant.engines.silence import silence
from fxquant.errors import EngineUnavailableError, first_line


def imported(name: str) -> ModuleType:
    """The module. ImportError where it cannot be imported, be it a missing library, another numpy, or an exit."""
    try:
        with silence():
            return import_module(name)
    except ImportError:
        raise
    except (Exception, SystemExit) as error:  # a package runs code of its own when it is imported
        raise ImportError(f"{type(error).__name__}: {error}") from error


def builder(target: str) -> Build:
    """The function `build` of a target's engine. FXQ502 where its package is here and cannot be imported."""
    try:
        build: Build = imported(f"fxquant.engines.{target}").build
    except ImportError as error:
        raise EngineUnavailableError(
            "FXQ502",
            f"target '{target}' is installed, but cannot be imported: {first_line(error)}",
            hint="install its packages anew; target='auto' takes what works",
        ) from error
    return build
