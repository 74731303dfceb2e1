"""Exporters and engines print, warn and log: here they do so into nothing, and the process is as before afterwards."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TALKERS = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "torch.fx.experimental", "onnxscript", "onnx_ir")
_NOTHING = logging.CRITICAL + 1
_LOCK = threading.RLock()  # warning filters and loggers belong to the whole process


@contextmanager
def silence(*more: str) -> Iterator[None]:
    """Warnings, and log lines of exporters and of `more`, are dropped inside the block; then all is as it was."""
    talkers = dict.fromkeys((*_TALKERS, *more))  # loggers below them ask them for their level
    loggers = [logging.getLogger(name) for name in talkers]
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(_NOTHING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
