"""Output files are replaced whole or not at all, and what cannot be written is FXQ118 before any work."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from fxquant.errors import UsageError
from fxquant.tools import output
from fxquant.tools.output import STDOUT, check_output, write

SUFFIXES = ("svg", "png")


def refused(call) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == "FXQ118"
    return str(caught.value)


@pytest.mark.parametrize(("name", "suffix"), [("x.svg", "svg"), ("x.tar.PNG", "png")])
def test_the_suffix_is_the_format(tmp_path, name, suffix):
    assert check_output(str(tmp_path / name), SUFFIXES) == suffix
    assert list(tmp_path.iterdir()) == []


def test_a_dash_is_stdout():
    assert check_output(STDOUT, SUFFIXES) == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "is no path of a file"),
        ("a\0.svg", "is no path of a file"),
        ("x", "has no suffix"),
        ("x.sgv", "did you mean 'svg'?"),
        ("gone/x.svg", "does not exist"),
        ("file.svg/x.svg", "does not exist"),
        (".", "is a folder"),
        ("folder.svg", "is a folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, monkeypatch, name, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file.svg").touch()
    assert told in refused(lambda: check_output(name, SUFFIXES))


@pytest.mark.parametrize("content", ["text × \ud800", b"bytes"])
def test_a_file_is_written_and_nothing_is_left_beside_it(tmp_path, content):
    (tmp_path / "x.svg").write_text("old")
    write(str(tmp_path / "x.svg"), content)
    expected = content if isinstance(content, bytes) else "text × \\ud800".encode()
    assert (tmp_path / "x.svg").read_bytes() == expected
    assert [file.name for file in tmp_path.iterdir()] == ["x.svg"]


@pytest.mark.parametrize("step", ["replace", "write"])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.svg"
    path.write_text("old")
    patched = (output.os, "replace" if step == "replace" else "fsync")
    monkeypatch.setattr(*patched, fail)
    assert "No space left on device" in refused(lambda: write(str(path), "new"))
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["x.svg"]


@pytest.mark.parametrize("locked", ["x.svg", "."])
def test_a_read_only_file_or_folder_is_refused(tmp_path, monkeypatch, locked):
    (tmp_path / "x.svg").write_text("old")
    monkeypatch.setattr(output.os, "access", lambda path, _: path != tmp_path / locked)  # root may write anything
    told = refused(lambda: check_output(str(tmp_path / "x.svg"), SUFFIXES))
    assert f"'{tmp_path / locked}' is read-only" in told


@pytest.mark.skipif(sys.platform == "win32", reason="devices and links are POSIX's")
def test_a_device_is_written_to_and_not_replaced():
    write(os.devnull, "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="devices and links are POSIX's")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there.svg").write_text("old")
    (tmp_path / "x.svg").symlink_to("there.svg")
    write(str(tmp_path / "x.svg"), "new")
    assert (tmp_path / "x.svg").is_symlink() and (tmp_path / "there.svg").read_text() == "new"


def test_a_name_that_no_system_takes_is_refused_and_shown_in_part(tmp_path, capsys):
    from fxquant.tools.cli import run

    for arguments, code in (
        (["graph", "x" * 5000 + ".json"], "FXQ117"),
        (["graph", "x" * 5000 + ".py:make"], "FXQ117"),
    ):
        assert run(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith(code) and "File name too long" in told and len(told) < 300
    with pytest.raises(UsageError, match="File name too long") as caught:
        check_output(str(tmp_path / f"{'x' * 5000}.svg"), ("svg",))
    assert caught.value.code == "FXQ118" and len(caught.value.message) < 300
