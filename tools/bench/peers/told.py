"""The result in words: a table for the terminal, and the README's table."""

from __future__ import annotations

from fxquant.tools.bench.peers.measured import EQUAL_DB, ModelResult, Result, SideResult

_COLUMNS: dict[str, tuple[str, ...]] = {  # heading → groups of sides, of which the fastest is shown
    "float, best engine": ("float",),
    "torch.ao": ("torch",),
    "ONNX Runtime": ("onnxruntime",),
    "NNCF + OpenVINO": ("openvino",),
}


def show(result: Result) -> None:
    """Print a row for each side of each model."""
    from rich.table import Table

    from fxquant.tools.terminal import console

    first = result.batches[0]
    for model in result.models:
        best = model.fastest(first)
        table = Table(title=f"{model.model}: ratios to {best.side if best else 'nothing'}, batch {first}")
        table.add_column("side", no_wrap=True)
        for heading in (*(f"batch {rows}, ms" for rows in result.batches), "ratio", "SQNR, dB", "build, s"):
            table.add_column(heading, overflow="fold")
        table.add_column("told", overflow="fold")
        for side in model.sides:
            table.add_row(*_row(model, side, best, result.batches))
        console().print(table)


def _row(model: ModelResult, side: SideResult, best: SideResult | None, batches: tuple[int, ...]) -> list[str]:
    times = [_milliseconds(side, rows) for rows in batches]
    is_timed = best is not None and batches[0] in side.seconds
    over = str(model.ratio(side, best, batches[0])) if best is not None and is_timed else ""
    built = f"{side.build_seconds:.1f}" if side.build_seconds is not None else ""
    told = f"fails: {side.failure}" if side.failure else side.note
    return [side.side, *times, over, f"{side.sqnr():.1f}" if side.sqnr_db else "", built, told]


def _milliseconds(side: SideResult, rows: int) -> str:
    if rows not in side.seconds:
        return ""
    timing = side.timing(rows)
    low, high = timing.quartiles
    return f"{timing.median * 1e3:.2f} ({low * 1e3:.2f} to {high * 1e3:.2f})"


def as_markdown(result: Result) -> str:
    """The README's table: at the first batch size, milliseconds and SQNR of the fastest side of each kind."""
    first, *others = result.batches
    headings = ["model", *_COLUMNS, "fxquant, auto", "auto / best peer of its SQNR", "auto / fastest peer"]
    headings += [f"auto / fastest peer, batch {rows}" for rows in others]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for model in result.models:
        cells = [_cell(model.fastest(first, groups=groups), first) for groups in _COLUMNS.values()]
        auto = model.find("fxquant-auto", first)
        equal = None if auto is None else model.fastest(first, most_db=auto.sqnr() + EQUAL_DB)
        cells += [_cell(auto, first) + _on(auto), _over(model, equal, first)]
        cells += [_over(model, model.fastest(rows), rows) for rows in result.batches]
        lines.append(f"| {' | '.join([model.model, *cells])} |")
    return "\n".join(lines)


def _on(auto: SideResult | None) -> str:
    return f", {auto.note}" if auto is not None and auto.note else ""


def _over(model: ModelResult, peer: SideResult | None, rows: int) -> str:
    auto = model.find("fxquant-auto", rows)
    if auto is None or peer is None:
        return "–"
    found = model.ratio(auto, peer, rows)
    return f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"


def _cell(side: SideResult | None, rows: int) -> str:
    return "–" if side is None else f"{side.timing(rows).median * 1e3:.2f} ms, {side.sqnr():.0f} dB"
