"""Compiled models of the zoo, each once for all tests that only read them."""

from __future__ import annotations

from functools import cache

import fxquant
from support.compiling import compiled
from support.models import MODELS


@cache
def of_zoo(name: str, preset: str = "int8") -> fxquant.CompiledModel:
    """The model compiled with its own data for x86. Do not change it."""
    return compiled(MODELS[name], preset)
