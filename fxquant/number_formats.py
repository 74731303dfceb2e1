"""Number formats by name, as recipes and `fxquant.qconfig` spell them: what there is, and what makes no sense.

int8 uint8 int4 float16 bfloat16 float32        float8_e4m3 float8_e5m2        e3m2: any split of a small float
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fxquant.float_formats import MOST_EXPONENT, MOST_MANTISSA, read_format
from fxquant.groups import BITS, DEFAULT_SIZE, MOST
from fxquant.qconfigs import TensorAsk

_SMALL_FLOATS = ("float8_e4m3", "float8_e5m2")
WEIGHT_DTYPES = ("int8", "uint8", "int4", "float16", "bfloat16", "float32", *_SMALL_FLOATS)
ACTIVATION_DTYPES = ("uint8", "int8", "float16", "bfloat16", "float32", *_SMALL_FLOATS)
WEIGHT_OPTIONS = ("granularity", "axis", "symmetric", "num_bits", "group_size")
SPLITS = (
    f"e<x>m<y> with 1 to {MOST_EXPONENT} bits of exponent, at most {MOST_MANTISSA} of mantissa, from 3 to 16 in all"
)

Wrong = tuple[str, Any, str]  # option, its value, what was expected


def is_small_float(name: object) -> bool:
    """Is it a small floating-point format: 'float8_e4m3', 'e3m2'?"""
    return isinstance(name, str) and read_format(name) is not None


def format_name(name: str) -> str:
    """One name for each small format: torch's where it has one."""
    return str(read_format(name))


def weight_ask(
    dtype: str, *, granularity: str, axis: int, symmetric: bool, num_bits: int, group_size: int
) -> TensorAsk | None:
    """What is asked of a weight in groups or in a small float format; None for what torch.ao has observers for."""
    if dtype == "int4":
        half = 1 << (min(num_bits, BITS) - 1)
        low, high = (-half, half - 1) if symmetric else (0, 2 * half - 1)
        return TensorAsk(
            "int4", "group", 0, group_size or DEFAULT_SIZE,
            is_symmetric=symmetric, quant_min=low, quant_max=high, observer="GroupedWeights",
        )  # fmt: skip
    if is_small_float(dtype):
        return TensorAsk(format_name(dtype), granularity, axis, is_symmetric=True, observer="FloatWeights")
    return None


def wrong_weight(given: Mapping[str, Any]) -> Wrong | None:
    """The first option of a weight that makes no sense beside its dtype; `given` holds only what was written."""
    dtype = given.get("dtype", "int8")
    if "group_size" in given:
        size = given["group_size"]
        if dtype != "int4":
            return "group_size", size, f"none for {dtype}: groups are for int4"
        if type(size) is not int or not 1 <= size <= MOST:
            return "group_size", size, f"a whole number from 1 to {MOST}"
    if dtype == "int4":
        if "num_bits" in given and given["num_bits"] not in range(2, BITS + 1):
            return "num_bits", given["num_bits"], f"a whole number from 2 to {BITS} for int4"
        return _first(given, {"granularity", "axis", "observer"}, "none for int4: its scales go by group_size")
    if is_small_float(dtype):
        names = {"num_bits", "observer"} | ({"symmetric"} if given.get("symmetric") is False else set())
        return _first(given, names, f"none for {dtype}: its bits are in its name, its grid covers the largest value")
    return _no_bits(given, dtype)


def wrong_activation(given: Mapping[str, Any]) -> Wrong | None:
    """The first option of an activation that makes no sense beside its dtype."""
    dtype = given.get("dtype", "uint8")
    if is_small_float(dtype):
        names = {"num_bits", "reduce_range"} | ({"symmetric"} if given.get("symmetric") is False else set())
        return _first(given, names, f"none for {dtype}: its bits are in its name, its grid is symmetric")
    if given.get("reduce_range") and given.get("num_bits", 8) == 2:
        return "num_bits", 2, "3 or more with reduce_range, which takes one off"
    return _no_bits(given, dtype)


def _no_bits(given: Mapping[str, Any], dtype: str) -> Wrong | None:
    if dtype in ("int8", "uint8") or given.get("num_bits", 8) == 8:
        return None
    return "num_bits", given["num_bits"], f"none for {dtype}: a bit width is for int8 and uint8"


def _first(given: Mapping[str, Any], names: set[str], why: str) -> Wrong | None:
    return next(((name, value, why) for name, value in given.items() if name in names), None)
