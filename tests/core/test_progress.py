"""The bar of a long calibration: on a terminal only, on stderr, and the items come through as they are."""

from __future__ import annotations

import io

import pytest

from fxquant.progress import tracked


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_items_come_through_and_the_bar_is_on_a_terminal_only(monkeypatch, capsys, is_terminal):
    stderr = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    assert list(tracked(iter("abc"), total=3, description="calibrating")) == ["a", "b", "c"]
    assert ("calibrating" in stderr.getvalue()) is is_terminal
    assert capsys.readouterr().out == ""
