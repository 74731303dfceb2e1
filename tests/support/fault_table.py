"""docs/faults.md as data: its rows, their codes and links; and what a linked test says in its source."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CODE = re.compile(r"FXQ\d{3}")
LINK = re.compile(r"\[(test_\w+)\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One row of the table. `links` are (name of the test, path relative to the page)."""

    number: str
    cells: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(CODE.findall(" ".join(self.cells)))


def fault_rows(page: str) -> list[FaultRow]:
    """Every table row of the page that begins with a row number."""
    rows = []
    for line in page.splitlines():
        found = re.fullmatch(r"\| (\d+[ab]?) \| (.*) \|", line)
        if found is not None:
            cells = tuple(cell.strip() for cell in found[2].split(" | "))
            rows.append(FaultRow(found[1], cells, tuple(LINK.findall(cells[-1]))))
    return rows


def numbers_in_name(name: str) -> tuple[str, ...]:
    """'test_rows_2_and_3_control_flow' → ('2', '3'); () where the name tells no row."""
    found = re.match(r"test_rows?_(\d+[ab]?(?:_and_\d+[ab]?)*)_", name)
    return tuple(found[1].split("_and_")) if found is not None else ()


def codes_told(file: Path, test: str, number: str) -> frozenset[str]:
    """The codes in the source of a test, its decorators, and what of its file these use.

    Of a table whose items begin with a row's number (or have it as a key), only that row's items count.
    """
    defined = _definitions(file)
    waiting, seen, codes = [test], set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in defined:
            continue
        seen.add(name)
        for node in _relevant(defined[name], number):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                codes.update(CODE.findall(str(node.value)))
            if isinstance(node, ast.Name):
                waiting.append(node.id)
    return frozenset(codes)


@cache
def functions_of(file: Path) -> frozenset[str]:
    """The names of a file's functions at the top."""
    return frozenset(name for name, node in _definitions(file).items() if isinstance(node, ast.FunctionDef))


@cache
def _definitions(file: Path) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def _relevant(node: ast.AST, number: str) -> list[ast.AST]:
    """The node and all below it, less what belongs to another row."""
    found: list[ast.AST] = [node]
    children = [*ast.iter_child_nodes(node)]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        children = [value for key, value in pairs if key is None or _is_of(key, number)]
    for child in children:
        if not isinstance(child, ast.Tuple) or not child.elts or _is_of(child.elts[0], number):
            found += _relevant(child, number)
    return found


def _is_of(label: ast.expr, number: str) -> bool:
    """Is it this row's number, or no row's number at all?"""
    is_number = isinstance(label, ast.Constant) and type(label.value) is int
    return not is_number or str(label.value) == number.rstrip("ab")
