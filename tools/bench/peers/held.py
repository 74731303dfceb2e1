"""The numbers that the run is held to."""

from __future__ import annotations

from collections.abc import Iterator

from fxquant.tools.bench.peers.measured import EQUAL_DB, ModelResult, Result, SideResult
from fxquant.tools.bench.report import Check

NATIVE = {"mobilenet_v2": 0.60, "resnet18": 0.95}  # model → of stock FX's best
WINS, WINNING = 4, 0.95


def checks(result: Result) -> list[Check]:
    """One for each claim that these models and sides can show."""
    rows = result.batches[0]
    found = [check for model in result.models for check in _of_model(model, rows)]
    won = [check for check in found if check.what.endswith("auto / best peer") and check.measured <= WINNING]
    if any(model.find("fxquant-auto", rows) for model in result.models):
        told = ", ".join(check.what.partition(":")[0] for check in won)
        found.append(Check(f"models where auto is at most {WINNING}", "at least", WINS, len(won), "", told))
    return found


def _of_model(model: ModelResult, rows: int) -> Iterator[Check]:
    auto = model.find("fxquant-auto", rows)
    if auto is not None:
        yield from _auto(model, auto, rows)
    native, stock = model.find("fxquant-onednn", rows), [model.find(f"fx-{name}", rows) for name in ("x86", "onednn")]
    present = [side for side in stock if side is not None]
    if native is not None and present and model.model in NATIVE:
        best = min(present, key=lambda side: side.timing(rows).median)
        yield _ratio(f"{model.model}: native / stock FX", NATIVE[model.model], model, native, best, rows)
    own, theirs = model.find("fxquant-onnxruntime", rows), model.find("onnxruntime-static", rows)
    if own is not None and theirs is not None and own.build_seconds and theirs.build_seconds:
        told = f"{own.build_seconds:.1f} and {theirs.build_seconds:.1f} s"
        measured = own.build_seconds / theirs.build_seconds
        yield Check(f"{model.model}: compile for onnxruntime / its own quantizer", "at most", 1.5, measured, "", told)


def _auto(model: ModelResult, auto: SideResult, rows: int) -> Iterator[Check]:
    """Against the best peer of equal accuracy, and against the fastest there is, whatever its accuracy."""
    equal = model.fastest(rows, most_db=auto.sqnr() + EQUAL_DB)
    if equal is not None:
        yield _ratio(f"{model.model}: auto / best peer", 1.02, model, auto, equal, rows)
    fastest = model.fastest(rows)
    if fastest is not None:
        yield _ratio(f"{model.model}: auto / fastest peer of any accuracy", 1.02, model, auto, fastest, rows)


def _ratio(what: str, target: float, model: ModelResult, over: SideResult, under: SideResult, rows: int) -> Check:
    found = model.ratio(over, under, rows)
    told = "; ".join(
        f"{side.side}{f' ({side.note})' if side.note else ''} {side.timing(rows).median * 1e3:.2f} ms, "
        f"{side.sqnr():.1f} dB"
        for side in (over, under)
    )
    return Check(what, "at most", target, found.median, "", f"{told}; ratio {found}")
