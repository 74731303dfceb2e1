"""The numbers behind `fxquant inspect`: one row a node, and a row for the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fxquant.graphs.costs import Cost, costs, total
from fxquant.graphs.kernels import operation
from fxquant.graphs.regions import Region, regions
from fxquant.graphs.remedies import LedgerRow
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

TOTAL = "total"


@dataclass(frozen=True, slots=True)
class InspectRow:
    """One node. Numbers are None where nobody can tell; of several tensors `shape` and `dtype` name each."""

    node: str
    module: str  # dotted path: the module that it calls, or in whose forward() it stands
    op: str  # 'Conv2d', 'add', 'quantized.conv2d_relu'
    shape: str  # '8×3×224×224'
    dtype: str
    parameters: int | None
    macs: int | None
    weight_bytes: int | None
    region: str
    decision: str  # 'int8', 'float32 FXQ207'; '' where no ledger was given or it has no row for the node
    reason: str
    where: str  # 'file:line'


def inspect_rows(
    snapshot: GraphSnapshot,
    ledger_rows: Iterable[LedgerRow] | None = None,
    *,
    like: GraphSnapshot | None = None,
    with_constants: bool = False,
) -> tuple[InspectRow, ...]:
    """A row for each node in graph order; constants count with their readers and are left out by default.

    Args:
        snapshot: of any stage.
        ledger_rows: a model's ledger, for the decisions.
        like: an earlier snapshot of the same program, from which costs of packed weights are taken.
        with_constants: give constants rows of their own.
    """
    cost, found = costs(snapshot, like=like), regions(snapshot)
    decisions = {row.site: row for row in ledger_rows or () if row.site}
    return tuple(
        _row(node, cost[node.name], found[node.name], decisions)
        for node in snapshot
        if with_constants or found[node.name] is not Region.CONSTANT
    )


def total_row(snapshot: GraphSnapshot, *, like: GraphSnapshot | None = None) -> InspectRow:
    """The whole graph. A module's or constant's weight counts once, however many nodes read it; unknown as nothing."""
    found = list(regions(snapshot).values())
    share = {region: found.count(region) for region in (Region.QUANTIZED, Region.WEIGHTS, Region.FLOAT)}
    whole = total(snapshot, like=like)
    return InspectRow(
        node=TOTAL,
        module="",
        op=f"{len(snapshot)} nodes",
        shape="",
        dtype="",
        parameters=whole.parameters,
        macs=whole.macs,
        weight_bytes=whole.weight_bytes,
        region=", ".join(f"{count} {region.value}" for region, count in share.items() if count),
        decision="",
        reason="",
        where="",
    )


def as_dicts(rows: Iterable[InspectRow]) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    return [asdict(row) for row in rows]


def _row(node: NodeRecord, cost: Cost, region: Region, decisions: Mapping[str, LedgerRow]) -> InspectRow:
    decided = next((decisions[origin] for origin in node.origins if origin in decisions), None)
    is_layer = decided is not None and region not in (Region.BOUNDARY, Region.CONSTANT, Region.OBSERVER)
    return InspectRow(
        node=node.name,
        module=node.path,
        op=_op(node),
        shape=", ".join("×".join(map(str, value.shape)) or "scalar" for value in node.values),
        dtype=", ".join(dict.fromkeys(value.dtype for value in node.values)),
        parameters=cost.parameters,
        macs=cost.macs,
        weight_bytes=cost.weight_bytes,
        region=region.value,
        decision=f"{decided.effective} {decided.code}".strip() if decided is not None and is_layer else "",
        reason=decided.reason if decided is not None and is_layer else "",
        where=node.where,
    )


def _op(node: NodeRecord) -> str:
    if node.op != "call_function":
        return node.op if node.op in ("placeholder", "output", "get_attr") else node.kind
    namespace = node.target.removeprefix("torch._ops.").split(".")[0]
    return f"{namespace}.{operation(node)}" if node.target.startswith("torch._ops.") else node.kind
