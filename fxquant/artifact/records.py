"""The plan, the ledger and the values of a saved model ⇄ JSON. Plain texts; what a reader sees of them is data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fxquant.artifact.limits import MOST_RANK, check_limit
from fxquant.artifact.literals import DTYPES
from fxquant.artifact.text import bool_of, int_of, list_of, malformed, object_of, text_of, texts_of
from fxquant.graphs.snapshot import TensorInfo
from fxquant.ledger import Ledger, LedgerState
from fxquant.plan import Decision, Mode, QuantPlan
from fxquant.row import Row

_ROW = tuple(Row.__slots__)
_DTYPES = {*DTYPES, "quint8", "qint8", "qint32"}


def encode_plan(plan: QuantPlan | None) -> list[list[Any]] | None:
    """[site, module, op, mode, requested, why, is explicit] for each decision; qconfigs have done their work."""
    if plan is None:
        return None
    return [[d.site, d.module_name, d.op, d.mode.value, d.requested, d.why, d.is_explicit] for d in plan]


def decode_plan(found: Any) -> QuantPlan | None:
    """The plan again, its decisions without qconfigs."""
    if found is None:
        return None
    return QuantPlan(tuple(_decision(item) for item in list_of(found, "the plan")))


def _decision(found: Any) -> Decision:
    *texts, is_explicit = list_of(found, "a decision", sizes=(7,))
    site, module_name, op, mode, requested, why = texts_of(texts, "a decision")
    if mode not in tuple(Mode):
        raise malformed(f"a decision has the mode {mode[:40]!r}")
    explicit = bool_of(is_explicit, "a decision")
    return Decision(site, module_name, op, Mode(mode), None, requested, why, is_explicit=explicit)


def encode_ledger(ledger: Ledger) -> dict[str, Any]:
    """Rows, notices, parts of rows and remarks."""
    state = ledger.state()
    return {
        "rows": [_row(row) for row in state.rows],
        "notices": [_row(row) for row in state.notices],
        "parts": [[site, part, _row(row)] for site, part, row in state.parts],
        "remarks": [_row(row) for row in state.remarks],
    }


def decode_ledger(found: Any) -> Ledger:
    """The ledger again."""
    item = object_of(found, "the ledger", keys=("rows", "notices", "parts", "remarks"))
    parts = [list_of(part, "a part", sizes=(3,)) for part in list_of(item["parts"], "the parts")]
    return Ledger.of(
        LedgerState(
            rows=_rows(item["rows"]),
            notices=_rows(item["notices"]),
            parts=tuple(
                (text_of(site, "a part"), text_of(part, "a part"), _read_row(row)) for site, part, row in parts
            ),
            remarks=_rows(item["remarks"]),
        )
    )


def _row(row: Row) -> list[str]:
    """A row's texts, less what is empty at its end."""
    found = [getattr(row, name) for name in _ROW]
    while found and not found[-1]:
        found.pop()
    return found


def _rows(found: Any) -> tuple[Row, ...]:
    return tuple(_read_row(row) for row in list_of(found, "rows of the ledger"))


def _read_row(found: Any) -> Row:
    texts = texts_of(found, "a row of the ledger")
    if len(texts) > len(_ROW):
        raise malformed(f"a row of the ledger has {len(texts)} items, not at most {len(_ROW)}")
    return Row(*texts, *[""] * (len(_ROW) - len(texts)))


def encode_values(values: Mapping[str, Any]) -> list[list[Any]]:
    """[origin, value] for what each traced node gave: a tensor's dtype and sizes, a number, or a tuple of those."""
    return [[origin, _value(value)] for origin, value in values.items() if value is not None]


def _value(value: Any) -> Any:
    match value:
        case TensorInfo():
            return [value.dtype, *value.shape]
        case tuple():
            return {"t": [_value(item) for item in value]}
        case float():
            return value.hex()
        case bool() | int():
            return value
    return None


def decode_values(found: Any) -> dict[str, Any]:
    """The values again."""
    pairs = [list_of(pair, "a value", sizes=(2,)) for pair in list_of(found, "the values")]
    return {text_of(origin, "a value"): _read_value(value, 0) for origin, value in pairs}


def _read_value(found: Any, depth: int) -> Any:
    check_limit("levels in a value", depth, MOST_RANK)
    match found:
        case None | bool() | int():
            return found
        case str():
            try:
                return float.fromhex(text_of(found, "a value"))
            except (ValueError, OverflowError) as error:
                raise malformed(f"a value is {found[:40]!r}") from error
        case {"t": list() as items, **rest} if not rest:
            return tuple(_read_value(item, depth + 1) for item in items)
        case [str() as dtype, *shape] if dtype in _DTYPES:
            check_limit("dimensions in a value", len(shape), 64)
            return TensorInfo(dtype, tuple(int_of(size, "a size", 0, 2**62) for size in shape))
    raise malformed(f"a value is {found!r:.60}")
