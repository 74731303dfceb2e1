"""The TOML form of a policy: text ⇄ Recipe, and a Recipe's rules. First match wins; top-level `ignore` comes first.

    schema = 1
    ignore = ["head"]                       # stays float, whatever the rules say
    [strict]
    unmatched = true                        # a target that matches nothing is an error, not a notice
    declined = false                        # a layer that the engine cannot serve is an error, not a ledger row
    [[rule]]
    targets = ["Linear", "add", "layer1.0", 're:layer[12]\\.', "*"]
    ignore = ["layer1.0.conv1"]
    scheme = "int8"                         # a preset's name, "float", or a chain ["int8", "float"]; or else:
    weight = { dtype = "int8", granularity = "channel", num_bits = 8 }    # or { dtype = "int4", group_size = 32 }
    activation = { dtype = "uint8", observer = "histogram" }              # or { dtype = "float8_e4m3" }, or "e3m2"
    [[activation]]                          # one activation site, whatever the rules say of its layer
    targets = ["features.0"]
    site = "output"                         # or "input"
    keep = "float"                          # or num_bits, observer, dtype: what to quantize it with

A target is a class or function name, a dotted module name (it stands for all that is inside), `re:` and a regex on the
dotted name, or `*`.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fxquant.activation_sites import ActivationRule, check_activation
from fxquant.chains import check_chain
from fxquant.errors import QConfigError, RecipeError, did_you_mean
from fxquant.number_formats import (
    ACTIVATION_DTYPES,
    SPLITS,
    WEIGHT_DTYPES,
    is_small_float,
    wrong_activation,
    wrong_weight,
)
from fxquant.qconfigs import PRESETS
from fxquant.regexes import read_regex

SCHEMA = 1
MOST_BYTES = 1 << 18
# A dotted key of more than 64 parts: tomllib's time grows with the square of them.
DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")
SCHEMES = (*PRESETS, "float")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weight:
    """What a rule asks for weights."""

    dtype: str = field(default="int8", metadata={"one_of": WEIGHT_DTYPES})
    granularity: str = field(default="channel", metadata={"one_of": ("channel", "tensor")})
    symmetric: bool = True
    observer: str = field(default="minmax", metadata={"one_of": ("minmax", "moving-average", "histogram")})
    axis: int = 0
    num_bits: int = 8  # of int8 and uint8; int4 has 4, or fewer
    group_size: int = 0  # of int4: values of a row that share a scale; 0: 32


@dataclass(frozen=True, slots=True)
class Activation:
    """What a rule asks for activations."""

    dtype: str = field(default="uint8", metadata={"one_of": ACTIVATION_DTYPES})
    observer: str = field(default="histogram", metadata={"one_of": ("histogram", "minmax", "moving-average", "mse")})
    symmetric: bool = False
    dynamic: bool = False
    reduce_range: bool = False
    num_bits: int = 8  # `reduce_range` takes one off


@dataclass(frozen=True, slots=True)
class Strict:
    """What is an error instead of a ledger row."""

    unmatched: bool = True
    declined: bool = False


@dataclass(frozen=True, slots=True)
class RecipeRule:
    """These targets, less those: a scheme (several are a fallback chain), or a weight and an activation."""

    targets: tuple[str, ...]
    ignore: tuple[str, ...] = ()
    scheme: str | tuple[str, ...] = ""
    weight: Weight | None = None
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe. `title` says where it came from and does not count as content."""

    rules: tuple[RecipeRule, ...] = ()
    ignore: tuple[str, ...] = ()
    strict: Strict = Strict()
    schema: int = SCHEMA
    title: str = field(default="the recipe", compare=False)
    activations: tuple[ActivationRule, ...] = ()


def load(path: str | Path) -> Recipe:
    """Read a recipe from a file. FXQ101 when it cannot be read, else as `parse`."""
    title = f"recipe '{path}'"
    try:
        data = Path(path).read_bytes()
        return parse(data.decode("utf-8"), title=title)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise RecipeError("FXQ101", f"{title} cannot be read: {error}", hint="a recipe is a UTF-8 TOML file") from error


def parse(text: str, *, title: str = "the recipe") -> Recipe:
    """Text → Recipe. FXQ101 syntax or regex, FXQ102 a value, FXQ103 an unknown key, FXQ104 a newer schema."""
    if len(text) > MOST_BYTES:
        raise RecipeError("FXQ101", f"{title} has {len(text)} letters, {MOST_BYTES} are allowed")
    if DEEP_KEY.search(text):
        raise RecipeError("FXQ101", f"{title} is nested too deeply to be a recipe")
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise RecipeError("FXQ101", f"{title} is nested too deeply to be a recipe") from error
    except ValueError as error:  # TOMLDecodeError says the line and column; int() refuses numbers of many digits
        raise RecipeError("FXQ101", f"{title} is no TOML: {error}") from error
    return _Reader(text, title).recipe(data)


def dump(recipe: Recipe) -> str:
    """Recipe → text; `parse(dump(recipe)) == recipe`."""
    lines = [f"schema = {recipe.schema}"]
    if recipe.ignore:
        lines.append(f"ignore = {_toml(recipe.ignore)}")
    if recipe.strict != Strict():
        lines += ["", "[strict]", *_changed(recipe.strict)]
    for rule in recipe.rules:
        lines += ["", "[[rule]]", *_changed(rule)]
    for said in recipe.activations:
        lines += ["", "[[activation]]", *_changed(said)]
    return "\n".join(lines) + "\n"


def _changed(value: Any) -> list[str]:
    named = [(item, getattr(value, item.name)) for item in fields(value)]
    return [
        f"{item.name} = {_toml(given)}" for item, given in named if item.default is MISSING or given != item.default
    ]


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            changed = ", ".join(_changed(value))
            return f"{{ {changed} }}" if changed else "{}"


class _Reader:
    """Plain TOML data → Recipe. Each complaint names the file, the line and the key."""

    def __init__(self, text: str, title: str, head: str = "[[rule]]") -> None:
        self.lines, self.title, self.head = text.splitlines(), title, head

    def recipe(self, data: dict[str, Any]) -> Recipe:
        schema = data.get("schema")
        place = self.place(None, "schema")
        if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
            raise RecipeError(
                "FXQ104",
                f"{place}: schema {_shown(schema)} is newer than schema {SCHEMA}, the newest that this fxquant reads",
                hint="upgrade fxquant",
            )
        if schema is None or isinstance(schema, bool) or schema != SCHEMA:
            raise QConfigError("FXQ102", f"{place}: schema is {_shown(schema)}", hint=f"start with: schema = {SCHEMA}")
        self.known(data, ("schema", "ignore", "strict", "rule", "activation"), None)
        rules, sites = (self.tables(data, key) for key in ("rule", "activation"))
        strict = self.table(Strict, data.get("strict", {}), None, "strict")
        return Recipe(
            rules=tuple(self.rule(rule, index) for index, rule in enumerate(rules)),
            ignore=self.texts(data.get("ignore", []), None, "ignore"),
            strict=strict,
            title=self.title,
            activations=tuple(self.activation(said, index) for index, said in enumerate(sites)),
        )

    def tables(self, data: dict[str, Any], key: str) -> list[dict[str, Any]]:
        found = data.get(key, [])
        if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
            self.wrong(None, key, found, f"tables, each under a line [[{key}]]")
        return found

    def activation(self, data: dict[str, Any], index: int) -> ActivationRule:
        reader = _Reader("\n".join(self.lines), self.title, head="[[activation]]")
        reader.known(data, tuple(item.name for item in fields(ActivationRule)), index)
        if not data.get("targets"):
            reader.wrong(index, "targets", data.get("targets"), 'a list of names, such as ["features.0"]')
        lists = {key: reader.texts(data.get(key, []), index, key) for key in ("targets", "ignore")}
        said = ActivationRule(**{**data, **lists})
        check_activation(said, reader.place(index, "targets"))
        return said

    def rule(self, data: dict[str, Any], index: int) -> RecipeRule:
        self.known(data, tuple(item.name for item in fields(RecipeRule)), index)
        if not data.get("targets"):
            self.wrong(index, "targets", data.get("targets"), 'a list of names, such as ["Linear", "layer1.0"]')
        targets, ignore = (self.texts(data.get(key, []), index, key) for key in ("targets", "ignore"))
        scheme = data.get("scheme", "")
        if isinstance(scheme, list):
            scheme = check_chain(scheme, self.place(index, "scheme"))
        elif "scheme" in data and scheme not in SCHEMES:
            self.wrong(index, "scheme", scheme, f"one of {', '.join(SCHEMES)}", near=SCHEMES)
        halves = [key for key in ("weight", "activation") if key in data]
        if bool(scheme) == bool(halves):
            given = f"scheme and {halves[0]}" if halves else "neither"
            self.wrong(index, "scheme", given, "either scheme, or weight and activation")
        weight = self.table(Weight, data["weight"], index, "weight") if "weight" in data else None
        activation = self.table(Activation, data["activation"], index, "activation") if "activation" in data else None
        for half, wrong in (("weight", wrong_weight), ("activation", wrong_activation)):
            found = wrong(data[half]) if half in data else None
            if found is not None:
                self.wrong(index, *found)
        if weight is not None and weight.observer == "histogram" and weight.granularity == "channel":
            self.wrong(index, "observer", "histogram", "minmax or moving-average for weights per channel")
        return RecipeRule(targets, ignore, scheme, weight, activation)

    def table(self, kind: type[T], data: Any, index: int | None, key: str) -> T:
        """A dataclass from a table, each field checked against its default's type and its `one_of`."""
        if not isinstance(data, dict):
            self.wrong(index, key, data, "a table")
        known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
        self.known(data, tuple(known), index, within=key)
        for name, value in data.items():
            wanted = type(known[name].default)
            if type(value) is not wanted:
                self.wrong(index, name, value, {bool: "true or false", int: "a whole number", str: "text"}[wanted])
            one_of = known[name].metadata.get("one_of", (value,))
            if value not in one_of and not (name == "dtype" and is_small_float(value)):
                also = f", or {SPLITS}" if name == "dtype" else ""
                self.wrong(index, name, value, f"one of {', '.join(one_of)}{also}", near=one_of)
            if name == "num_bits" and value not in range(2, 9):
                self.wrong(index, name, value, "a whole number from 2 to 8")
        return kind(**data)

    def texts(self, value: Any, index: int | None, key: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.wrong(index, key, value, "a list of names, none of them empty")
        for item in value:
            if item.startswith("re:"):
                read_regex(item[3:], self.place(index, key))
        return tuple(value)

    def known(self, data: dict[str, Any], names: tuple[str, ...], index: int | None, within: str = "") -> None:
        for key in data:
            if key not in names:
                where = f" in {within}" if within else ""
                hint = did_you_mean(key, names)
                raise RecipeError("FXQ103", f"{self.place(index, key)}: unknown key {_shown(key)}{where}", hint=hint)

    def wrong(self, index: int | None, key: str, value: Any, wanted: str, *, near: tuple[str, ...] = ()) -> NoReturn:
        hint = did_you_mean(value, near) if near and isinstance(value, str) else ""
        raise QConfigError(
            "FXQ102", f"{self.place(index, key)}: {key} is {_shown(value)}, expected {wanted}", hint=hint
        )

    def place(self, index: int | None, key: str) -> str:
        """Title and line. tomllib keeps no lines, so the key is looked for in its rule's part of the text."""
        starts = [
            number for number, line in enumerate(self.lines) if line.strip().replace(" ", "").startswith(self.head)
        ]
        first, last = 0, len(self.lines)
        if index is not None and index < len(starts):
            first = starts[index]
            last = starts[index + 1] if index + 1 < len(starts) else last
        for number in range(first, last):
            if _names_key(self.lines[number], key):
                return f"{self.title}, line {number + 1}"
        return self.title if index is None else f"{self.title}, {self.head.strip('[]')} {index + 1} at line {first + 1}"


def _shown(value: object) -> str:
    """A value as a message shows it: in part, where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _names_key(line: str, key: str) -> bool:
    code = line.split("#")[0]
    spots = (code.find(spelled) for spelled in (key, json.dumps(key)))
    for spelled, spot in zip((key, json.dumps(key)), spots, strict=True):
        before, after = code[:spot].rstrip(), code[spot + len(spelled) :].lstrip()
        if spot >= 0 and (not before or before[-1] in "{,[.") and after[:1] in ("=", ".", "]"):
            return True
    return False
