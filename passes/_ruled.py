"""The rules of the target's engine on where pairs belong: engines fuse them in some places and not in others."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from torch import fx

from fxquant.targets import EXTERNAL


def ruled(canonical: fx.GraphModule, target: str) -> fx.GraphModule:
    """The graph by the rules of `engines/<target>_placement.py`; the graph itself where the target has none."""
    name = f"fxquant.engines.{target}_placement"
    if target not in EXTERNAL or find_spec(name) is None:
        return canonical
    made: fx.GraphModule = import_module(name).placed(canonical)
    return made
