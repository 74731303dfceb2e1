"""Regexes on module names that cannot hang: parsed early, with a column on error, and refused where they may explode.

A backtracking matcher takes exponential time when a repeat stands inside a repeat (`(a+)+$`), the product of all
choices where they stand in a row (`a?a?a?...` is 2 * 2 * 2 ... ways), and about C(n + k, k) steps for k open-ended
repeats in a row on a name of n letters. The first two are refused when the regex is read, the last when a name makes
it too dear.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from math import comb
from typing import Any

from fxquant.errors import RecipeError

MOST_LETTERS = 1000  # of a regex
NAME_LETTERS = 256  # of a name: what is beyond is not looked at
MOST_STEPS = 20_000_000  # for one match
MANY = 8  # a choice repeated this often is 2**8 ways at most

_parser, _constants = import_module("re._parser"), import_module("re._constants")
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


@dataclass(frozen=True, slots=True)
class NameRegex:
    """A regex that is matched at the start of a dotted name, as torch.ao does."""

    text: str
    pattern: re.Pattern[str]
    open_repeats: int
    choices: int = 1  # ways through all that is not open-ended

    def matches(self, name: str) -> bool:
        """Does the name start with a match? FXQ101 when finding out may take too long."""
        cut = name[:NAME_LETTERS]
        if self.choices * comb(len(cut) + self.open_repeats, self.open_repeats) > MOST_STEPS:
            raise RecipeError(
                "FXQ101",
                f"regex {self.text!r} has {self.open_repeats} open-ended repeats, too many for the name {cut!r}",
                hint="use fewer of '*' and '+', or name the modules",
            )
        return self.pattern.match(cut) is not None


def read_regex(text: object, owner: str) -> NameRegex:
    """Compile a regex on names. FXQ101, naming `owner`, with the column where it does not parse or may hang."""
    if not isinstance(text, str):
        raise RecipeError("FXQ101", f"{owner}: a regex is text, not {text!r}")
    if len(text) > MOST_LETTERS:
        raise RecipeError("FXQ101", f"{owner}: the regex has {len(text)} letters, {MOST_LETTERS} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pattern, tree = re.compile(text), _parser.parse(text)
    except re.error as error:
        column = (error.pos or 0) + 1
        raise RecipeError(
            "FXQ101",
            f"{owner}: regex {text!r} does not parse: {error.msg} at column {column}",
            hint="a plain '.' matches any letter, '\\.' matches a dot",
        ) from error
    except (RecursionError, OverflowError) as error:
        raise RecipeError("FXQ101", f"{owner}: regex {text[:40]!r}... is nested too deeply") from error
    if _may_explode(tree):
        raise RecipeError(
            "FXQ101",
            f"{owner}: regex {text!r} has a repeat inside a repeat, which may take exponential time",
            hint="say it with one repeat, such as '[a.]+' instead of '(a+.)+'",
        )
    choices = _ways(tree)
    if choices > MOST_STEPS:
        raise RecipeError(
            "FXQ101",
            f"{owner}: regex {text!r} has so many choices in a row that a match may take exponential time",
            hint="use fewer of '?', '|' and '{m,n}', or name the modules",
        )
    return NameRegex(text, pattern, sum(_is_open(low, high) for low, high, _ in _repeats(tree)), choices)


def _below(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (op, argument) of a parse tree, at any depth."""
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, _parser.SubPattern):
            yield from item
            waiting.extend(argument for _, argument in item)
        elif isinstance(item, (tuple, list)):
            waiting.extend(item)


def _repeats(tree: Any) -> Iterator[tuple[int, int, Any]]:
    """Lowest count, highest count and body of each repeat."""
    for op, argument in _below(tree):
        if op in _REPEATS:
            yield int(argument[0]), int(argument[1]), argument[2]


def _is_open(low: int, high: int) -> bool:
    return high - low > MANY


def _may_explode(tree: Any) -> bool:
    for _, high, body in _repeats(tree):
        inner = list(_repeats(body))
        if high > 1 and any(_is_open(low, most) for low, most, _ in inner):
            return True
        is_choice = any(op is _constants.BRANCH for op, _ in _below(body)) or any(low != most for low, most, _ in inner)
        if high > MANY and is_choice:
            return True
    return False


def _ways(tree: Any) -> int:
    """Paths that a matcher may try through what is not open-ended, at most MOST_STEPS + 1.

    A product along a sequence, a sum over alternatives, a power in a repeat; `_may_explode` has refused large powers.
    """
    ways = 1
    for op, argument in tree:
        ways = min(ways * _ways_of(op, argument), MOST_STEPS + 1)
    return ways


def _ways_of(op: Any, argument: Any) -> int:
    if op in _REPEATS:
        low, high, body = int(argument[0]), int(argument[1]), _ways(argument[2])
        counts = 1 if _is_open(low, high) else high - low + 1
        return counts if body == 1 else min(counts * body ** min(high, 2 * MANY), MOST_STEPS + 1)
    if op is _constants.BRANCH:
        return sum(_ways(branch) for branch in argument[1])
    ways = 1
    for part in argument if isinstance(argument, tuple) else (argument,):
        if isinstance(part, _parser.SubPattern):
            ways = min(ways * _ways(part), MOST_STEPS + 1)
    return ways
