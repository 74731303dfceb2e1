"""DOT text → SVG, PNG, PDF, by `dot` on the PATH or else by pygraphviz's libraries; in a child with a time limit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from fxquant.errors import RendererMissingError, RenderError, RenderTimeoutError, UsageError, did_you_mean

FORMATS = ("svg", "png", "pdf")
TEXTS = ("dot", "gv")
SECONDS = 60.0
INSTALL = "python -m pip install pygraphviz, or Graphviz itself (https://graphviz.org/download) so that 'dot' is found"


def render(dot: str, picture_format: str, *, timeout: float = SECONDS) -> bytes:
    """The picture. FXQ701: no renderer; FXQ702: not ready after `timeout` seconds; FXQ703: the renderer failed."""
    check_format(picture_format, FORMATS)
    try:
        with subprocess.Popen(
            _command(picture_format),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            out, told = _finish(process, dot.encode("utf-8"), timeout)
    except OSError as error:
        raise RenderError("FXQ703", f"the renderer did not start: {error}", hint=INSTALL) from error
    if process.returncode or not out:
        raise RenderError("FXQ703", f"the renderer failed: {_first_lines(told)}", hint="keep the text: .save('g.dot')")
    return out


def check_format(name: str, known: tuple[str, ...]) -> None:
    """UsageError FXQ116 for a format that nobody here writes."""
    if name not in known:
        hint = did_you_mean(name, known) or f"one of {', '.join(known)}"
        raise UsageError("FXQ116", f"no picture format '{name}'", hint=hint)


def _command(picture_format: str) -> list[str]:
    if (dot := shutil.which("dot")) is not None:
        return [dot, f"-T{picture_format}"]
    bundled = find_spec("pygraphviz")
    if bundled is None or bundled.origin is None:
        raise RendererMissingError("FXQ701", "nothing here renders pictures: no 'dot', no pygraphviz", hint=INSTALL)
    script, folder = Path(__file__).with_name("bundled.py"), Path(bundled.origin).parents[1]
    return [sys.executable, "-I", str(script), picture_format, str(folder)]


def _finish(process: subprocess.Popen[bytes], dot: bytes, timeout: float) -> tuple[bytes, bytes]:
    try:
        return process.communicate(dot, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise RenderTimeoutError(
            "FXQ702",
            f"the picture was not ready after {timeout:g} s",
            hint="draw fewer boxes (depth=2), or give timeout= more seconds",
        ) from error
    finally:
        if process.poll() is None:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()  # a child that nobody waited for stays a zombie until this process ends


def _first_lines(told: bytes) -> str:
    lines = [line.strip() for line in told.decode("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "it wrote nothing"
