"""The call that the caller gave as an example: engines are built and timed for it, so the model has to take it.

Capture needs no more of an example than its structure, and calibration has data of its own. So one that the model fails
on, or that is empty, comes as far as this; rows of the calibration data stand in for it then.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.errors import ExampleInputError, in_one_line
from fxquant.ledger import Ledger
from fxquant.program import Program

HINT = "give example_inputs that the model can be called with: of that shape and dtype it is to be fast"


def with_call_that_fits(program: Program, ledger: Ledger, *, is_strict: bool) -> Program:
    """The program, without its example of a call where the model does not take it. FXQ113 where `is_strict`."""
    rows, call = program.example_leaves, program.call_leaves
    if rows is None or call is None or not (why := _misfit(program, rows, call)):
        return program
    told = f"the example inputs do not fit the model: {why}"
    if is_strict:
        raise ExampleInputError("FXQ113", told, hint=HINT)
    ledger.notice("FXQ113", f"{told}; rows of the calibration data stand in for them", hint=HINT)
    return replace(program, call_leaves=None)


def _misfit(program: Program, rows: tuple[Tensor, ...], call: tuple[Tensor, ...]) -> str:
    """Why the model does not take these; '' where it does."""
    if all(map(_is_alike, call, rows)):
        return ""
    for leaf, row, given in zip(call, rows, program.signature.tensor_leaves, strict=True):
        if leaf.dtype != row.dtype and not (_is_integer(leaf) and _is_integer(row)):
            return f"'{given.path}' is {leaf.dtype}, and {row.dtype} in the calibration data"
        if not leaf.is_nested and not leaf.numel():
            return f"'{given.path}' is empty, of shape {list(leaf.shape)}"
    buffers = saved_buffers(program.graph_module)
    try:
        with torch.no_grad():
            program.graph_module.forward(*(leaf.clone() for leaf in call))
    except Exception as error:  # of any kind: the ops of any model run
        return in_one_line(error)
    finally:
        restore_buffers(program.graph_module, buffers)
    return ""


def _is_alike(leaf: Tensor, row: Tensor) -> bool:
    return not leaf.is_nested and leaf.layout == row.layout and (leaf.shape, leaf.dtype) == (row.shape, row.dtype)


def _is_integer(leaf: Tensor) -> bool:
    return not leaf.is_floating_point() and not leaf.is_complex()
