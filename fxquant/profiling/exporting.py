"""A profile as JSON and as CSV: all numbers that it has, under the names that the dataclasses give them."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from fxquant.errors import UsageError
from fxquant.profiling.distribution import PERCENTILES

if TYPE_CHECKING:
    from fxquant.profiling.layer import Layer
    from fxquant.profiling.result import Profile

_PLAIN = (
    *("site", "module", "op", "where", "requested", "effective", "reason", "activation_bits", "saturates", "macs"),
    *("quant_low", "quant_high", "clipped", "range_sqnr_db", "sqnr_db", "own_sqnr_db"),
    *("float_seconds", "group_float_seconds", "seconds"),
)
_VALUES = ("count", "low", "high", "mean", "std", "kurtosis", "zeros", "outliers", "channels", "channel_spread")
_WEIGHTS = (
    *("granularity", "bits", "sqnr_db", "median_sqnr_db", "sqnr_per_channel_db", "median_per_channel_db"),
    *("bits_used", "pair_sum"),
)


def as_json(profile: Profile) -> str:
    """One object. The recipe is TOML text, or null where the start has no such form."""
    told = {item.name: _plain(getattr(profile, item.name)) for item in fields(profile) if item.name != "outcome"}
    try:
        told["recipe"] = profile.recipe_text()
    except UsageError:
        told["recipe"] = None
    for one, advice in zip(told["advice"], profile.advice, strict=True):
        one["recipe_rule"] = advice.rule_text
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def as_csv(profile: Profile) -> str:
    """One line a layer. Of several weights of a layer the one that uses the fewest of its bits is told."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    percentiles = [f"p{share:g}" for share in PERCENTILES]
    heads = [*(f"value_{name}" for name in (*_VALUES, *percentiles, "dead_channels"))]
    heads += [*(f"weight_{name}" for name in ("name", "low", "high", "kurtosis", "channel_spread", *_WEIGHTS))]
    writer.writerow((*_PLAIN, *heads))
    for layer in profile.layers:
        writer.writerow([*(_cell(getattr(layer, name)) for name in _PLAIN), *_values(layer), *_weights(layer)])
    return file.getvalue()


def _values(layer: Layer) -> list[str]:
    seen = layer.values
    if seen is None:
        return [""] * (len(_VALUES) + len(PERCENTILES) + 1)
    return [_cell(one) for one in (*(getattr(seen, name) for name in _VALUES), *seen.percentiles, seen.dead_channels)]


def _weights(layer: Layer) -> list[str]:
    worst = min(layer.weights, key=lambda one: one.bits_used, default=None)
    if worst is None:
        return [""] * (len(_WEIGHTS) + 5)
    shape = (worst.values.low, worst.values.high, worst.values.kurtosis, worst.values.channel_spread)
    return [_cell(one) for one in (worst.name, *shape, *(getattr(worst, name) for name in _WEIGHTS))]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Lists, dicts, texts and numbers; what JSON has no number for is text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
