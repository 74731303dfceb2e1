"""A profile in words: tables of layers for a terminal and for a notebook, then islands, advice and where it led."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from fxquant.table import aligned

if TYPE_CHECKING:
    from fxquant.profiling.layer import Layer
    from fxquant.profiling.result import Profile

HEADS = (
    *("layer", "op", "got", "values", "0.1 % to 99.9 %", "kurtosis", "spread", "dead", "outliers", "clipped"),
    *("weights", "w spread", "w bits", "own dB", "float ms", "ms"),
)
MOST_ROWS = 200  # a notebook is no place for thousands
_FEW = 8
_WIDEST = 32  # characters of what a layer got


def text(profile: Profile) -> str:
    """All of it, in lines; none has trailing spaces."""
    lines = [_title(profile), *aligned((HEADS, *(cells(layer) for layer in profile.layers)))]
    return "\n".join((*lines, *_below(profile)))


def html(profile: Profile) -> str:
    """One <div> without scripts, styles or links. Every text is escaped: names are the user's."""
    rows = "".join(_row("td", cells(layer)) for layer in profile.layers[:MOST_ROWS])
    more = f"<p>and {len(profile.layers) - MOST_ROWS} more layers</p>" if len(profile.layers) > MOST_ROWS else ""
    told = "".join(f"<li>{escape(line)}</li>" for line in _below(profile))
    head = f"<code>{escape(_title(profile))}</code>"
    return f"<div>{head}<table>{_row('th', HEADS)}{rows}</table>{more}<ul>{told}</ul></div>"


def cells(layer: Layer) -> tuple[str, ...]:
    """A layer's row. What is not known is empty; a time that several sites share stands at the first of them."""
    values, weight = layer.values, min(layer.weights, key=lambda one: one.bits_used, default=None)
    is_first = not layer.computed_with or layer.seconds is None or layer.site < min(layer.computed_with)
    return (
        layer.name + ("" if layer.is_called else " (never called)"),
        layer.op,
        _short(layer.effective),
        "" if values is None else _range(values.low, values.high),
        "" if values is None else _range(values.percentiles[0], values.percentiles[-1]),
        "" if values is None else _number(values.kurtosis),
        "" if values is None or values.channel_spread is None else _number(values.channel_spread),
        "" if values is None or not values.dead_channels else f"{values.dead_channels}/{values.channels}",
        "" if values is None else _share(values.outliers),
        "" if layer.clipped is None else _share(layer.clipped),
        "" if weight is None else _range(weight.values.low, weight.values.high),
        "" if weight is None or weight.values.channel_spread is None else _number(weight.values.channel_spread),
        "" if weight is None else f"{weight.bits_used:.1f}/{weight.bits or 8}" + (" !" if layer.saturates else ""),
        "" if layer.own_sqnr_db is None else _number(layer.own_sqnr_db),
        _ms(layer.group_float_seconds) if is_first else "",
        _ms(layer.seconds) if is_first else "",
    )


def _title(profile: Profile) -> str:
    seen = f"{profile.batches} batches, {profile.rows} rows" if profile.batches else "weights only"
    output = "" if profile.output_sqnr_db is None else f", output {_number(profile.output_sqnr_db)} dB"
    return f"{profile.model_name} by {profile.policy} on {profile.target}: {seen}{output}"


def _below(profile: Profile) -> Iterator[str]:
    if any(layer.saturates for layer in profile.layers):
        yield "!: 8-bit activations and weights whose products in pairs exceed int16, on a CPU without VNNI"
    yield from (f"note: {note}" for note in profile.notes)
    yield from _times(profile)
    for crossing in profile.crossings[:_FEW]:
        costs = f"{_ms(crossing.crossing_seconds)} ms of conversions, {_ms(crossing.seconds)} ms of its own"
        yield f"float island {', '.join(crossing.island.sites[:4])}: {costs}"
    yield (
        f"advice, by {'output SQNR' if profile.objective == 'sqnr' else 'latency'}:" if profile.advice else "no advice"
    )
    yield from (f"  {number}. {one}" for number, one in enumerate(profile.advice, start=1))
    yield f"recipe: {profile.reason}"


def _times(profile: Profile) -> Iterator[str]:
    if profile.node_seconds and profile.conversion_seconds is not None:
        share = profile.conversion_seconds / profile.node_seconds
        yield f"quantize and dequantize: {_ms(profile.conversion_seconds)} ms, {share:.0%} of the nodes' time"
    if profile.start is not None and profile.float_seconds is not None:
        yield f"a call: {_ms(profile.float_seconds)} ms float, {_ms(profile.start.seconds)} ms as compiled"


def _row(tag: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(one)}</{tag}>" for one in texts) + "</tr>"


def _short(text: str) -> str:
    """What became of an expanded layer can be a long list; JSON and the ledger have all of it."""
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _range(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}" if abs(value) < 1000 else f"{value:.3g}"


def _share(value: float) -> str:
    return "0" if value == 0 else "< 0.01 %" if value < 1e-4 else f"{100 * value:.3g} %"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}"
