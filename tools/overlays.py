"""What `--overlay` asks for, as a number for each node: measured on the compiled model, or read off its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.tools.subject import Subject

if TYPE_CHECKING:
    from fxquant.measuring import Measurements

OVERLAYS = ("none", "sqnr", "latency", "size")


def overlay_of(name: str, subject: Subject, snapshot: GraphSnapshot) -> dict[str, str] | None:
    """Node → what to write beside it; None for 'none'. FXQ115 where numbers take a model and there is a file only."""
    match name:
        case "sqnr":
            measured = _measured(subject, is_timed=False).by_site("sqnr_db")
            return _by_node(snapshot, {site: f"{value:.1f} dB" for site, value in measured.items()})
        case "latency":
            measured = _measured(subject, is_timed=True).by_site("seconds")
            return _by_node(snapshot, {site: f"{value * 1e6:.0f} µs" for site, value in measured.items()})
        case "size":
            return _sizes(subject, snapshot)
    return None


def _measured(subject: Subject, *, is_timed: bool) -> Measurements:
    from fxquant.measuring import measure

    compiled = subject.compiled()
    call = subject.example
    inputs = None if call is None else call.kwargs or call.args
    return measure(compiled, model=subject.model, inputs=inputs, is_timed=is_timed)


def _by_node(snapshot: GraphSnapshot, sites: dict[str, str]) -> dict[str, str]:
    """The number of the last of a node's origins: that one's value it gives."""
    return {node.name: sites[node.origins[-1]] for node in snapshot if node.origins and node.origins[-1] in sites}


def _sizes(subject: Subject, snapshot: GraphSnapshot) -> dict[str, str]:
    from fxquant.graphs.inspection import inspect_rows

    rows = inspect_rows(snapshot, like=subject.like)
    return {row.node: f"{row.weight_bytes:,} B" for row in rows if row.weight_bytes}
