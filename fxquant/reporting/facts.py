"""The numbers at the head of the report: what the layers got, what it weighs, how much of the work runs on codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxquant.graphs.costs import costs, total
from fxquant.program import Stage
from fxquant.reporting.kinds import Kind, kind_of
from fxquant.reporting.wording import decibels, quantity, size

if TYPE_CHECKING:
    from fxquant.measuring import Measurements
    from fxquant.model import CompiledModel
    from fxquant.reporting.ledger_lines import Line


@dataclass(frozen=True, slots=True)
class Facts:
    """Sizes in bytes, MACs for the example that the model was captured with."""

    kinds: tuple[tuple[Kind, int], ...]  # in the order of Kind, those that occur
    float_bytes: int
    compiled_bytes: int
    parameters: int
    macs: int
    int8_macs: int
    example: str  # shapes of the inputs that MACs are for
    compile_seconds: float

    @property
    def ratio(self) -> float | None:
        """How many times smaller; None where there are no weights."""
        return self.float_bytes / self.compiled_bytes if self.float_bytes and self.compiled_bytes else None

    def count(self, *kinds: Kind) -> int:
        """Layers of these kinds."""
        return sum(count for kind, count in self.kinds if kind in kinds)

    @property
    def computing(self) -> int:
        """Layers that compute tensors: all but those that were folded, fused or removed, or give plain numbers."""
        return sum(count for kind, count in self.kinds if kind not in (Kind.ABSORBED, Kind.PLAIN))


def facts_of(compiled: CompiledModel, lines: Sequence[Line]) -> Facts:
    """Computed from the ledger, the traced graph's shapes and the history."""
    traced = compiled.snapshot(compiled.first_stage)
    counted, known, whole = Counter(line.kind for line in lines), costs(traced), total(traced)
    on_codes = {row.site for row in compiled.ledger.layers if kind_of(row.effective) in (Kind.INT8, Kind.MIXED)}
    inputs = [str(value) for node in traced if node.op == "placeholder" for value in node.values]
    return Facts(
        kinds=tuple((kind, counted[kind]) for kind in Kind if counted[kind]),
        float_bytes=whole.weight_bytes or 0,
        compiled_bytes=compiled.size_bytes(),
        parameters=whole.parameters or 0,
        macs=whole.macs or 0,
        int8_macs=sum(known[node.name].macs or 0 for node in traced if node.site in on_codes),
        example=", ".join(inputs[:4]) + (f" and {len(inputs) - 4} more" if len(inputs) > 4 else ""),
        compile_seconds=sum(record.seconds for record in compiled.history),
    )


def verdict(facts: Facts, compiled: CompiledModel, measured: Measurements | None) -> str:
    """The report in one sentence."""
    if compiled.stage < Stage.CONVERTED:
        return f"Still calibrating: {facts.computing} layers are planned for {compiled.target}, none is converted yet."
    return f"{', '.join(_claims(facts, compiled.target, measured))}."


def _claims(facts: Facts, target: str, measured: Measurements | None) -> Iterator[str]:
    yield f"{facts.count(Kind.INT8, Kind.MIXED)} of {facts.computing} layers run in int8 on {target}"
    for kind in (Kind.INT8_WEIGHTS, Kind.FLOAT16_WEIGHTS, Kind.NARROW_WEIGHTS):
        if facts.count(kind):
            yield f"{facts.count(kind)} with {kind.value}"
    if facts.count(Kind.SIMULATED):
        yield f"{facts.count(Kind.SIMULATED)} simulated"
    if facts.macs:
        yield f"{_percent(facts.int8_macs / facts.macs)} of the multiplications among them"
    if facts.ratio is not None:
        yield f"weights {_ratio(facts.ratio)}"
    if measured is not None:
        yield f"output SQNR {decibels(measured.output_sqnr_db)}"


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the head of the page."""

    name: str
    value: str
    note: str


def tiles(facts: Facts, measured: Measurements | None) -> tuple[Tile, ...]:
    """The numbers that a colleague asks for first."""
    on_codes, absorbed = facts.count(Kind.INT8, Kind.MIXED), facts.count(Kind.ABSORBED)
    ratio = "" if facts.ratio is None else f", {_ratio(facts.ratio)}"
    rows = "not measured" if measured is None else f"against the float model, {rows_of_data(measured.rows)}"
    return (
        Tile("Layers in int8", f"{on_codes} / {facts.computing}", f"{absorbed} more folded or removed"),
        Tile("Work in int8", _percent(facts.int8_macs / facts.macs) if facts.macs else "–", f"of {_macs(facts)}"),
        Tile("Weights", size(facts.compiled_bytes), f"from {size(facts.float_bytes)}{ratio}"),
        Tile("Output SQNR", "–" if measured is None else decibels(measured.output_sqnr_db), rows),
        Tile("Parameters", quantity(facts.parameters), f"in {sum(count for _, count in facts.kinds)} layers"),
    )


def _ratio(ratio: float) -> str:
    if 0.95 < ratio < 1.05:
        return "about as large"
    return f"{ratio:.1f}× smaller" if ratio > 1 else f"{1 / ratio:.1f}× larger"


def rows_of_data(count: int) -> str:
    """'4 rows of data'."""
    return f"{count} row{'' if count == 1 else 's'} of data"


def _macs(facts: Facts) -> str:
    return f"{quantity(facts.macs)} MACs" if facts.macs else "no MACs"


def _percent(value: float) -> str:
    """Rounded, but never to all or nothing where it is neither."""
    if 0 < value < 0.001 or 0.999 < value < 1:
        return "< 0.1 %" if value < 0.5 else "> 99.9 %"
    return f"{100 * value:.3g} %"
