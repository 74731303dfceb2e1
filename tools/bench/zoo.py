"""Finding the model zoo: it lives in a checkout's tests/support, which no wheel carries."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click


def load_zoo(tests: str | None = None, table: str = "MODELS") -> dict[str, Any]:
    """A table of tests/support/models. `tests` is that tests folder; by default this checkout's, or ./tests."""
    tried = [Path(tests)] if tests else [Path(__file__).resolve().parents[2] / "tests", Path.cwd() / "tests"]
    for folder in tried:
        if (folder / "support" / "models").is_dir():
            sys.path.insert(0, str(folder.resolve()))
            models: dict[str, Any] = getattr(import_module("support.models"), table)
            return models
    places = ", ".join(str(folder) for folder in tried)
    raise click.ClickException(
        f"the models of this bench are in a checkout's tests/support/models, which is not in {places}; "
        "run it from a checkout of fxquant, or name its tests folder with --tests"
    )


def pick(zoo: dict[str, Any], names: str, what: str = "model") -> dict[str, Any]:
    """The cases of a comma-separated list. BadParameter with the known names where one is unknown."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in zoo]
    if unknown or not wanted:
        raise click.BadParameter(f"no {what} called {', '.join(unknown) or 'nothing'}; known: {', '.join(zoo)}")
    return {name: zoo[name] for name in wanted}
