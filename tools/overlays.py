"""What `--overlay` asks for, as a number for each node: measured on the compiled model, or read off its graph."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.tools.subject import Subject

if TYPE_CHECKING:
    from fxquant.drawing.overlays import Overlay

OVERLAYS = ("none", "sqnr", "latency", "size")


def overlay_of(name: str, subject: Subject, snapshot: GraphSnapshot) -> Overlay | None:
    """None for 'none'. FXQ115 where the numbers take a run and there is only a file, FXQ313 where it cannot be run."""
    from fxquant.drawing.overlays import Overlay

    match name:
        case "sqnr":
            return Overlay.sqnr(_by_node(snapshot, _measured(subject, "sqnr_db")))
        case "latency":
            seconds = _by_node(snapshot, _measured(subject, "seconds"))
            return Overlay.latency({node: 1e3 * value for node, value in seconds.items()})
        case "size":
            return Overlay.size(_sizes(subject, snapshot))
    return None


def _measured(subject: Subject, what: str) -> dict[str, float]:
    """Site → the number, from a run of the compiled model beside the float one."""
    from fxquant.measuring import measure

    compiled = subject.compiled()
    with redirect_stdout(sys.stderr):  # what the user's code prints
        measured = measure(compiled, model=subject.model, inputs=subject.inputs, is_timed=what == "seconds")
    return measured.by_site(what)


def _by_node(snapshot: GraphSnapshot, sites: Mapping[str, float]) -> dict[str, float]:
    """The number of the last of a node's origins: that one's value it gives."""
    return {node.name: sites[node.origins[-1]] for node in snapshot if node.origins and node.origins[-1] in sites}


def _sizes(subject: Subject, snapshot: GraphSnapshot) -> dict[str, float]:
    from fxquant.graphs.inspection import inspect_rows

    return {row.node: row.weight_bytes for row in inspect_rows(snapshot, like=subject.like) if row.weight_bytes}
