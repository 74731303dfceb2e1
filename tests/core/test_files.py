"""A file is written whole or not at all, and what cannot be written is FXQ118."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import UsageError
from fxquant.files import write_together, write_whole


def test_a_new_file_has_the_mode_of_any_new_file_and_an_old_one_is_replaced(tmp_path):
    beside = tmp_path / "beside"
    beside.write_bytes(b"")
    target = write_whole(tmp_path / "x", b"one")
    assert write_whole(target, b"two").read_bytes() == b"two"
    assert target.stat().st_mode == beside.stat().st_mode
    assert sorted(file.name for file in tmp_path.iterdir()) == ["beside", "x"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    target = write_whole(tmp_path / "x", b"old")

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if step == "write":
        monkeypatch.setattr(os, "fdopen", fails)
    else:
        monkeypatch.setattr(os, step, fails)
    with pytest.raises(UsageError, match="No space left on device") as caught:
        write_whole(target, b"new")
    assert caught.value.code == "FXQ118"
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "make", [lambda base: base, lambda base: base / "nobody" / "x.svg", lambda base: base / ("x" * 300 + ".svg")]
)
def test_pictures_and_reports_say_where_they_cannot_be_written(tmp_path, make):
    compiled = fxquant.compile(nn.Sequential(nn.Linear(4, 4)).eval(), "int8", calibration_data=torch.randn(8, 4))
    path: Path = make(tmp_path)
    for write in (compiled.report, compiled.draw().save if path.suffix else compiled.report):
        with pytest.raises(UsageError) as caught:
            write(path)
        assert caught.value.code == "FXQ118" and "cannot be written" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["a\0b", "file/x", "", None, 3, b"bytes", ["x"]], ids=repr)
def test_what_is_no_place_for_a_file_is_refused_by_name(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written: ") as caught:
        write_whole(path, b"new")
    assert caught.value.code == "FXQ118" and [one.name for one in tmp_path.iterdir()] == ["file"]


def test_files_that_belong_together_are_all_new_or_all_as_they_were(tmp_path):
    weights, graph = tmp_path / "m.bin", tmp_path / "m.xml"
    weights.write_bytes(b"old")
    graph.mkdir()
    with pytest.raises(UsageError, match=r"m.xml' cannot be written: Is a directory"):
        write_together([(weights, b"new"), (graph, b"new")])
    assert weights.read_bytes() == b"old" and sorted(tmp_path.iterdir()) == [weights, graph]
    graph.rmdir()
    assert write_together([(weights, b"new"), (graph, b"newer")]) == graph
    assert (weights.read_bytes(), graph.read_bytes()) == (b"new", b"newer") and len(list(tmp_path.iterdir())) == 2
