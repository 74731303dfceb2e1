"""Options that several benches have, each said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def models(default: str) -> Callable[[Command], Command]:
    """--models, of these where none are named."""
    return click.option("--models", default=default, show_default=True, help="Names of the zoo, with commas.")


engine = click.option("--engine", "engine_name", default="x86", show_default=True)
batches = click.option(
    "--batches", default=4, show_default=True, type=click.IntRange(min=1), help="Calibration batches."
)
batch_size = click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1))
quick = click.option(
    "--quick", is_flag=True, help="The tests' small model sizes, few rounds: a smoke test, not a result."
)
tests = click.option("--tests", default=None, help="A checkout's tests folder.")
as_json = click.option("--json", "as_json", is_flag=True)
