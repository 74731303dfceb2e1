"""Whether what a target needs is on this machine, and why not, without importing any of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

CPP = "a C++ compiler"  # what torch.compile writes needs one
_COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True, slots=True)
class Presence:
    """Present or not, and why: 'openvino 2026.4.1', 'needs onnxruntime 1.20 or newer, and 1.16.3 is installed'."""

    is_here: bool
    why: str


def presence_of(needs: Iterable[tuple[str, str]]) -> Presence:
    """Look for modules of at least these versions; '' for the version where any will do, CPP for a compiler."""
    found = tuple(_compiler() if module == CPP else _module(module, least) for module, least in needs)
    missing = [one.why for one in found if not one.is_here]
    return Presence(not missing, "; ".join(missing or [one.why for one in found]))


def _module(module: str, least: str) -> Presence:
    """A package by the metadata that pip wrote, and its module where Python would find it."""
    installed: str | None = None
    try:
        installed = version(module)  # None, or a KeyError in newer Pythons, where the metadata is broken off
        is_found = find_spec(module) is not None
    except (PackageNotFoundError, KeyError, ValueError):  # ValueError: a module that is half imported has no spec
        is_found = False
    if installed is None or not is_found:
        return Presence(False, f"{module} is not installed")
    if _numbers(installed) < _numbers(least):
        return Presence(False, f"it needs {module} {least} or newer, and {installed} is installed")
    return Presence(True, f"{module} {installed}")


def _compiler() -> Presence:
    named = os.environ.get("CXX", "")
    found = next((path for name in (named, *_COMPILERS) if name and (path := shutil.which(name))), None)
    return Presence(True, found) if found is not None else Presence(False, f"it needs {CPP}, and none is on the path")


def _numbers(text: str) -> tuple[int, ...]:
    """'2.13.0+cpu' → (2, 13, 0): up to the first part that is no number."""
    numbers: list[int] = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
