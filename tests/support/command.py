"""The command line in tests: a file with factories, verbs in this process, and verbs as processes of their own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from fxquant.tools.cli import run
from fxquant.tools.terminal import prepare_streams

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def make():
    return Net().eval()


def pair():
    return make(), torch.ones(2, 3, 6, 6)


def damaged():
    model = make()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model, torch.ones(2, 3, 6, 6)


def keywords():
    return make(), {"x": torch.ones(2, 3, 6, 6)}


def other():
    return nn.Sequential(nn.Linear(3, 3), nn.LogSoftmax(-1)).eval()


def symbolic():
    return torch.fx.symbolic_trace(make())


def compiled():
    import fxquant

    return fxquant.compile(make(), "int8", calibration_data=batches())


def snapped():
    import fxquant

    return fxquant.snapshot(make())


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, ids):
        return self.head(self.words(ids))


class Island(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 3), nn.LogSoftmax(-1), nn.Linear(3, 2))


class Untraceable(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def batches():
    for _ in range(2):
        yield torch.randn(4, 3, 6, 6)
"""


def write_source(folder: Path) -> str:
    """The path of a file with the factories above."""
    path = folder / "nets.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def run_in_ascii(*arguments: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a verb on a terminal that can show ASCII only."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        prepare_streams()
        status = run(arguments)
        err.flush()
    return status, *(stream.buffer.getvalue().decode("ascii") for stream in (out, err))


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes that are started here heed SIGINT, though these tests may run in the background, where none does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def fxquant(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A verb as a process of its own, outside of the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "fxquant", *arguments],
        capture_output=True,
        cwd=os.sep,
        env={**os.environ, **environment},
        check=False,
    )


def fxquant_into_closed_pipe(*arguments: str) -> tuple[int, bytes]:
    """(exit status, stderr) where nobody reads stdout."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fxquant", *arguments]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, cwd=os.sep)
    os.close(writer)
    _, complaint = process.communicate(timeout=120)
    return process.returncode, complaint
