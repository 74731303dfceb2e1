"""Why tracing stopped, in plain words, on the user's line, with remedies that fit the case."""

from __future__ import annotations

import ast
import linecache
from types import FrameType

from fxquant.errors import UntraceableError
from fxquant.location import Location, of_traceback

_WORDS = (  # what the exception says → what happened
    ("cannot be iterated", "a Python loop runs over a tensor, whose length is not known while tracing"),
    ("control flow", "a branch depends on the value of a tensor (`if`, `while`, `and`, `or`, `not` or `assert`)"),
    ("len()", "len() needs the length of a tensor, which is not known while tracing"),
    ("'len' is not supported", "len() needs the length of a tensor, which is not known while tracing"),
    ("int() argument", "int() needs the value of a tensor or of its size, which is not known while tracing"),
    ("float() argument", "float() needs the value of a tensor, which is not known while tracing"),
    ("must be real number", "a Python number is needed where only a traced tensor is known"),
    ("interpreted as an integer", "range(), an index or a size needs a number that is not known while tracing"),
    ("__index__", "range(), an index or a size needs a number that is not known while tracing"),
    ("__array__", "numpy needs the values of a tensor, which are not known while tracing"),
)


def untraceable(error: Exception, *, module: str, model: str) -> UntraceableError:
    """FXQ210 from what tracing raised."""
    place = f"module '{module}'" if module else f"{model} itself"
    told = _told(error)
    at = of_traceback(error.__traceback__)
    return UntraceableError(
        "FXQ210",
        f"symbolic tracing stops in {place}: {told}",
        hint=_remedies(module, model, at),
        module=module,
        where=at,
    )


def _told(error: Exception) -> str:
    text = str(error)
    for mark, words in _WORDS:
        if mark in text:
            return words
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def _remedies(module: str, model: str, at: Location | None) -> str:
    """Three ways out, the ones that apply first."""
    leaf = f"leaf_modules=['{module}']" if module else "a submodule with these lines, named in leaf_modules=,"
    line = f"line {at.line}" if at is not None else "these lines"
    return "\n        ".join(
        (
            f"1. {leaf} keeps {'it' if module else 'them'} out of the graph, in float",
            "2. concrete_args={'name': value} fixes an argument of forward() that the branch depends on",
            f"3. rewrite {line} of {model} without Python control flow on tensors (torch.where, masks, fixed sizes)",
        )
    )


def asserts(frame: FrameType | None) -> Location | None:
    """The `assert` statement that asks for a truth value in this frame, when its test is that value alone.

    Only a plain test or an `and` of plain tests: under `not` and `or` a made-up True could fail or skip the rest.
    """
    if frame is None:
        return None
    code = frame.f_code
    positions = list(code.co_positions())[frame.f_lasti // 2]
    line, end, column, end_column = positions
    if line is None or column is None:
        return None
    for statement in _assertions(code.co_filename):
        tests = _conjuncts(statement.test)
        for test in tests:
            is_there = (test.lineno, test.col_offset) <= (line, column) and (end or line, end_column or column) <= (
                test.end_lineno or test.lineno,
                test.end_col_offset or column,
            )
            if is_there and not isinstance(test, (ast.BoolOp, ast.UnaryOp, ast.IfExp, ast.Call)):
                return Location(code.co_filename, statement.lineno, code.co_name)
    return None


def _conjuncts(test: ast.expr) -> list[ast.expr]:
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]


def _assertions(file: str) -> list[ast.Assert]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
