"""Which names a file may use. Names become Python code when a graph is built, so what is allowed is written down."""

from __future__ import annotations

import keyword
import re

from torch import nn

from fxquant.artifact.text import text_of
from fxquant.errors import UnsafeError
from fxquant.graphmodule import safe_name

_NODE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DUNDER = re.compile(r"__\w*__")
_MOST_PATH = 1024


def is_node_name(name: str) -> bool:
    """Letters, digits and _ only, no keyword, nothing like __class__."""
    return _NODE.fullmatch(name) is not None and not keyword.iskeyword(name) and _DUNDER.fullmatch(name) is None


def is_path(path: str) -> bool:
    """A dotted module path that generated code can hold, none of whose parts torch or Python owns."""
    if not path or len(path) > _MOST_PATH or safe_name(path) != path:
        return False
    return not any(_DUNDER.fullmatch(part) or hasattr(nn.Module, part) or not part for part in path.split("."))


def node_name(value: object, what: str) -> str:
    """A name of a node. FXQ605 on any other text."""
    name = text_of(value, what)
    if not is_node_name(name):
        raise UnsafeError("FXQ605", f"{what} is {name[:60]!r}, which is no name: letters, digits and _ only")
    return name


def path_of(value: object, what: str) -> str:
    """A dotted module path. FXQ605 on any other text."""
    path = text_of(value, what)
    if not is_path(path):
        raise UnsafeError("FXQ605", f"{what} is {path[:60]!r}, which is no dotted path that a model may have")
    return path
