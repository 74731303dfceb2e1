"""Runs of a graph that leave no trace: the next one finds every buffer as the first one did."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from fxquant.sites import run_once


def run_afresh(interpreter: fx.Interpreter, leaves: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """As `run_once`, for a graph whose in-place writes are not rewritten: all buffers are put back."""
    module = interpreter.module
    assert isinstance(module, nn.Module)
    saved = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        return run_once(interpreter, leaves)
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(saved[name])
