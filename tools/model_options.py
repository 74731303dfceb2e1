"""The options that every verb on a MODEL has, in one place, and what they say."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from fxquant.tools.model_reference import FORMS, Reference, parse
from fxquant.tools.users_code import users_code

MOST_ELEMENTS = 2**28  # of one --shape: 1 GiB of float32
FLOATS = ("float32", "float64", "float16", "bfloat16")
WHOLE = {"int64": 2**63 - 1, "int32": 2**31, "int8": 2**7, "uint8": 2**8, "bool": 2}  # and above what no value lies
CODE_RUNS = f"""{FORMS}. A factory is called without arguments, which runs its code; it gives the model, or
(model, inputs) where inputs are the tensor, tuple or dict of one call."""

_SHAPE = re.compile(r"(?P<sizes>\d{1,12}([,x]\d{1,12})*)(:(?P<dtype>\w+)(:(?P<below>\d{1,19}))?)?")


@dataclass(frozen=True, slots=True)
class RandomInput:
    """One tensor of random numbers: floats from a normal distribution, whole numbers from 0 to below `below`."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile the model, and on what."""

    mapping: str = "int8"
    data: Reference | None = None
    inputs: tuple[RandomInput, ...] = ()
    target: str = "auto"
    is_strict: bool = False
    seed: int = 0

    @property
    def of_a_compilation(self) -> tuple[str, ...]:
        """The options given that only a compilation reads, as they are spelled."""
        spelled = {"mapping": "--mapping", "data": "--data", "target": "--target", "is_strict": "--strict"}
        return tuple(flag for name, flag in spelled.items() if getattr(self, name) != getattr(_DEFAULTS, name))


_DEFAULTS = Options()


class ShapeType(click.ParamType):  # type: ignore[type-arg]  # generic in click 8.2 only
    """`1,3,224,224`, `1,128:int64` or `1,128:int64:30522`."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RandomInput:
        """The random input that the text asks for."""
        found = _SHAPE.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r}: write 1,3,224,224, or 1,128:int64:30522 for token ids below 30522", param, ctx)
        shape = tuple(int(size) for size in re.split("[,x]", found["sizes"]))
        dtype, below = found["dtype"] or "float32", int(found["below"] or 2)
        if dtype not in (*FLOATS, *WHOLE):
            self.fail(f"{value!r}: no dtype {dtype!r}, one of {', '.join((*FLOATS, *WHOLE))}", param, ctx)
        if found["below"] and not 1 <= below <= WHOLE.get(dtype, 0):
            self.fail(f"{value!r}: {dtype} has no whole numbers from 0 to below {below}", param, ctx)
        if math.prod(shape) > MOST_ELEMENTS:
            self.fail(f"{value!r}: {math.prod(shape):,} elements, at most {MOST_ELEMENTS:,} are drawn", param, ctx)
        return RandomInput(shape, dtype, below)


class ReferenceType(click.ParamType):  # type: ignore[type-arg]  # as above
    """A MODEL, or the factory of data."""

    name = "reference"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        """The parsed reference. FXQ117."""
        return parse(str(value))


_OPTIONS = (
    click.option(
        "--mapping",
        default="int8",
        show_default=True,
        help="Preset name, presets with commas between them (a fallback chain), or path of a TOML recipe.",
    ),
    click.option("--data", type=ReferenceType(), help="Calibration data: file.py:name, a function or a list."),
    click.option(
        "--shape",
        "inputs",
        type=ShapeType(),
        multiple=True,
        help="Random input, one for each argument: 1,3,224,224 or, for token ids, 1,128:int64:30522.",
    ),
    click.option(
        "--target", default="auto", show_default=True, help="A target (`fxquant doctor`), or auto: the fastest."
    ),
    click.option("--strict", "is_strict", is_flag=True, help="A layer that would stay float is an error."),
    click.option(
        "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default="0", help="Of the factory and random data."
    ),
)


def model_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The common options, which reach the verb as one `options: Options`; the user's code runs inside `users_code`."""

    @functools.wraps(verb)
    def with_options(
        *,
        mapping: str,
        data: Reference | None,
        inputs: tuple[RandomInput, ...],
        target: str,
        is_strict: bool,
        seed: int,
        **own: Any,
    ) -> None:
        with users_code():
            verb(options=Options(mapping, data, inputs, target, is_strict, seed), **own)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options
