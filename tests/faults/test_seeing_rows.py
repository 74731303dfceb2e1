"""FAULTS rows 77 and 78, the parts that need a real process: renderers that are not there or hang, pipes, terminals.

Labels and fifty thousand nodes are in tests/laws/test_drawings.py and tests/drawing/test_picture.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord
from fxquant.tools.cli import run
from support.command import fxquant, fxquant_into_closed_pipe, interruptible

pytestmark = pytest.mark.skipif(os.name == "nt", reason="scripts that stand in for dot, signals, closed pipes")


def written(folder: Path, nodes: int = 3, name: str = "n") -> str:
    """A file with a chain of nodes."""
    first = NodeRecord("x", "placeholder", "x", "x")
    made = [first]
    for index in range(1, nodes):
        read = made[-1].name
        made.append(NodeRecord(f"{name}{index}", "call_module", f"m.{name}", "ReLU", f"(%{read})", (read,)))
    path = folder / "snapshot.json"
    path.write_text(GraphSnapshot(tuple(made), "Net \u2192 \U0001f525 \u00e9").to_json(), encoding="utf-8")
    return str(path)


def dot_that(folder: Path, does: str) -> str:
    """A folder for PATH with a `dot` in it."""
    script = folder / "dot"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("form", ["svg", "png", "pdf", "html"])
def test_row_77_without_any_renderer_the_text_is_kept_and_the_error_says_how_to_get_one(
    tmp_path, capsys, monkeypatch, form
):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("fxquant.drawing.rendering.find_spec", lambda name: None)
    assert run(["graph", written(tmp_path), "-o", f"{tmp_path}/g.{form}"]) == 8
    told = capsys.readouterr().err
    assert "FXQ701" in told and "pip install pygraphviz" in told and "Traceback" not in told
    assert (tmp_path / f"g.{form}.dot").read_text().startswith("digraph") and not (tmp_path / f"g.{form}").exists()


@pytest.mark.parametrize("does", ["echo garbage", "exit 3", "exec cat /dev/null"])
def test_row_77_a_renderer_that_gives_no_picture_leaves_the_text(tmp_path, does):
    path = dot_that(tmp_path, does)
    found = fxquant("graph", written(tmp_path), "-o", f"{tmp_path}/g.svg", PATH=path)
    assert found.returncode == 8 and b"FXQ703" in found.stderr and b"Traceback" not in found.stderr
    assert (tmp_path / "g.svg.dot").read_text().startswith("digraph") and not (tmp_path / "g.svg").exists()


def test_row_77_and_78_an_interrupt_while_the_renderer_hangs_is_130_and_leaves_no_process(tmp_path):
    path = dot_that(tmp_path, f"echo $$ > {tmp_path}/half; /bin/mv {tmp_path}/half {tmp_path}/pid; exec /bin/sleep 60")
    command = [sys.executable, "-m", "fxquant", "graph", written(tmp_path), "-o", f"{tmp_path}/g.svg"]
    environment = {**os.environ, "PATH": path}
    with interruptible():
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=os.sep)
    with process:  # whatever fails here, else a later test would be blamed for what is left
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, told) == (130, b"interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "g.svg").exists()


def test_row_77_fifty_thousand_nodes_are_drawn_collapsed_by_the_tool(tmp_path):
    found = fxquant("graph", written(tmp_path, nodes=50_000), "-o", f"{tmp_path}/g.dot")
    assert found.returncode == 0 and b"50,000 boxes would be too many" in found.stderr
    assert (tmp_path / "g.dot").stat().st_size < 1_000_000


def test_row_77_a_name_of_a_megabyte_makes_a_small_picture(tmp_path, capsys):
    assert run(["graph", written(tmp_path, name="n" * 1_000_000), "-o", f"{tmp_path}/g.dot"]) == 0
    assert (tmp_path / "g.dot").stat().st_size < 20_000


@pytest.mark.parametrize("verb", ["graph", "inspect"])
def test_row_78_a_closed_pipe_is_quiet_and_0(tmp_path, verb):
    assert fxquant_into_closed_pipe(verb, written(tmp_path, nodes=3000))[0] == 0


@pytest.mark.parametrize("verb", ["graph", "inspect"])
@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["io-encoding", "locale"],
)
def test_row_78_a_terminal_without_unicode_gets_ascii(tmp_path, verb, environment):
    found = fxquant(verb, written(tmp_path), **environment)
    assert found.returncode == 0 and b"Traceback" not in found.stderr
    assert found.stdout.isascii() and found.stderr.isascii() and b"Net ->" in found.stdout + found.stderr


@pytest.mark.parametrize("verb", ["graph", "inspect"])
def test_row_78_without_a_terminal_or_with_no_color_there_is_no_escape_sequence(tmp_path, verb):
    path = written(tmp_path)
    for environment in ({}, {"NO_COLOR": "1", "FORCE_COLOR": ""}, {"TERM": "dumb"}):
        found = fxquant(verb, path, **environment)
        assert found.returncode == 0 and b"\x1b" not in found.stdout + found.stderr


@pytest.mark.parametrize("place", [r"C:\models\net.py:make", r"C:\models\net.json", r"..\net.py:make"])
def test_row_78_a_windows_path_is_a_path_and_not_a_module(place, capsys):
    assert run(["inspect", place]) == 2
    told = capsys.readouterr().err
    assert told.startswith("FXQ117") and "does not exist" in told
