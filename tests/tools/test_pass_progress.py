"""The line that follows a compilation: on a terminal only, without escape sequences, gone in the end."""

from __future__ import annotations

import io

import pytest

from fxquant.tools.cli import run
from support.command import write_source


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only_and_leaves_nothing(tmp_path, monkeypatch, capsys, is_terminal):
    stderr = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    assert run(["compile", f"{write_source(tmp_path)}:make", "--shape", "2,3,6,6", "--json"]) == 0
    told = stderr.getvalue()
    assert ("compiling: fuse" in told) is is_terminal and "\x1b" not in told
    if is_terminal:
        last = told.split("\r")
        assert last[-1] == "" and not last[-2].strip()
        assert "prune" not in told  # a pass that is registered, and in no default pipeline
    else:
        assert told == ""
