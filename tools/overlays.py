"""What `--overlay` asks for, as numbers for each node: measured on the compiled model, or read off its graph."""

from __future__ import annotations

from typing import Any

from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.tools.subject import Subject


def overlay_of(name: str, subject: Subject, snapshot: GraphSnapshot) -> Any:
    """None for 'none'."""
    return None
