"""Arguments of a graph's calls ⇄ JSON: every value is of one of few kinds, and the first letter of a text says which.

7  true  null      themselves           "%12"       the value of node 12          "'reflect"  a text
"=0x1.8p+1"        a float, in hex      ":float32"  a dtype                       "@cpu"      a constant of torch
["l", ...]         a list               ["t", ...]  a tuple                       ["s", a, b, c]  a slice
["d", key, value, ...]  a dict
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxquant.artifact.limits import MOST_DEPTH, check_limit
from fxquant.artifact.text import malformed, text_of
from fxquant.errors import UnsavableError

DTYPES = {
    name: getattr(torch, name)
    for name in (
        "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64",
        "complex128",
    )
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "ellipsis": ...,
    "cpu": torch.device("cpu"),
    "strided": torch.strided,
    "contiguous_format": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
    "preserve_format": torch.preserve_format,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_CONSTANT_NAMES = {constant: name for name, constant in CONSTANTS.items()}
_HEX = re.compile(r"-?0x[01]\.[0-9a-f]{1,13}p[+-]\d{1,4}|-?inf|nan")
_NODE = re.compile(r"0|[1-9]\d{0,8}")


def encode(value: Any, index: Mapping[fx.Node, int], where: str) -> Any:
    """JSON of an argument. FXQ611 for a value of a kind that no file can hold; `where` says whose it is."""
    match value:
        case None | bool():
            return value
        case fx.Node():
            return f"%{index[value]}"
        case int() if type(value) is int and -(2**63) <= value < 2**63:
            return value
        case float() if type(value) is float:
            return f"={value.hex()}"
        case str() if type(value) is str:
            return f"'{value}"
        case slice():
            return ["s", *(encode(part, index, where) for part in (value.start, value.stop, value.step))]
        case tuple():  # a torch.Size too
            return ["t", *(encode(item, index, where) for item in value)]
        case list():
            return ["l", *(encode(item, index, where) for item in value)]
        case dict():
            return ["d", *(encode(part, index, where) for item in value.items() for part in item)]
        case torch.dtype() if value in _DTYPE_NAMES:
            return f":{_DTYPE_NAMES[value]}"
    try:
        return f"@{_CONSTANT_NAMES[value]}"
    except (KeyError, TypeError) as error:
        raise UnsavableError(
            "FXQ611",
            f"{where} has {value!r:.80} ({type(value).__name__}) among its arguments, which a file cannot hold",
            hint="numbers, texts, dtypes, lists, tuples, dicts and slices can be saved",
        ) from error


class Decoder:
    """JSON of arguments → values; node 12 is `nodes[12]`."""

    def __init__(self, nodes: Sequence[Any], what: str) -> None:
        self.nodes, self.what = nodes, what

    def value(self, found: Any, depth: int = 0) -> Any:
        """FXQ604 for what `encode` does not write."""
        check_limit(f"levels in an argument of {self.what}", depth, MOST_DEPTH)
        match found:
            case None | bool() | int():
                return found
            case str() if found:
                return self._text(text_of(found, f"an argument of {self.what}"))
            case [str() as kind, *items]:
                values = [self.value(item, depth + 1) for item in items]
                return self._nested(kind, values)
        raise malformed(f"an argument of {self.what} is {found!r:.60}")

    def _text(self, text: str) -> Any:
        kind, rest = text[0], text[1:]
        match kind:
            case "'":
                return rest
            case "%" if _NODE.fullmatch(rest) and int(rest) < len(self.nodes):
                return self.nodes[int(rest)]
            case "=" if _HEX.fullmatch(rest) and float.fromhex(rest).hex() == rest:
                return float.fromhex(rest)
            case ":" if rest in DTYPES:
                return DTYPES[rest]
            case "@" if rest in CONSTANTS:
                return CONSTANTS[rest]
            case "%":
                raise malformed(f"{self.what} reads node {rest[:20]}, which does not stand before it")
        raise malformed(f"an argument of {self.what} is {text[:60]!r}")

    def _nested(self, kind: str, values: list[Any]) -> Any:
        make: Callable[[list[Any]], Any] | None = {"l": list, "t": tuple}.get(kind)
        if make is not None:
            return make(values)
        if kind == "s" and len(values) == 3:
            return slice(*values)
        if kind == "d" and len(values) % 2 == 0 and all(isinstance(key, str | int) for key in values[::2]):
            return dict(zip(values[::2], values[1::2], strict=True))
        raise malformed(f"an argument of {self.what} is {[kind, *values]!r:.60}")
