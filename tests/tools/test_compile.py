"""`fxquant compile`: the summary, the ledger, the report, and strictness by its exit status."""

from __future__ import annotations

import json

import pytest

from fxquant.tools.cli import run
from support.command import write_source


@pytest.fixture
def nets(tmp_path):
    return write_source(tmp_path)


def compiled(capsys, *arguments):
    assert run(["compile", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_summary_has_the_repr_the_ledger_and_the_sizes(nets, capsys):
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batches"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("CompiledModel(Net, LOWERED")
    assert "│ conv.0 │" in captured.out and "bytes of 1," in captured.out and "FXQ507" in captured.out
    assert captured.err == ""


def test_the_json_has_sizes_ledger_and_passes(nets, capsys):
    told = compiled(capsys, f"{nets}:make", "--data", f"{nets}:batches")
    assert told["stage"] == "lowered" and told["notes"] == [] and told["report"] is None
    assert told["size_bytes"]["float32"] == 4 * (8 * 27 + 8 + 4 * 8 + 36) + 8
    assert [row["effective"] for row in told["ledger"] if row["module"] == "head"] == ["int8"]
    assert told["passes"][0]["name"] == "select-qconfigs"


@pytest.mark.parametrize(
    ("factory", "options", "told"),
    [
        ("pair", (), "calibrated on one example"),
        ("keywords", (), "calibrated on one example"),
        ("make", ("--shape", "2,3,6,6"), "calibrated on random numbers"),
        ("symbolic", ("--shape", "2x3x6x6"), "calibrated on random numbers"),
    ],
)
def test_what_was_calibrated_on_little_says_so(nets, capsys, factory, options, told):
    assert [note.split(":")[0] for note in compiled(capsys, f"{nets}:{factory}", *options)["notes"]] == [told]


def test_presets_with_commas_between_them_are_a_chain(nets, capsys):
    told = compiled(capsys, f"{nets}:make", "--mapping", "int8-dynamic, int8-weight-only,float")
    assert {row["op"]: row["effective"] for row in told["ledger"] if row["module"] in ("conv.0", "head")} == {
        "Conv2d": "int8 weights",
        "Linear": "int8",
    }


def test_two_runs_give_the_same_but_for_the_time(nets, capsys):
    first, second = (compiled(capsys, f"{nets}:make", "--shape", "2,3,6,6") for _ in range(2))
    del first["passes"], second["passes"]
    assert first == second


def test_a_compiled_model_is_reported_as_it_is(nets, capsys):
    told = compiled(capsys, f"{nets}:compiled")
    assert told["stage"] == "lowered" and told["size_bytes"]["float32"] is None


def test_strict_is_an_error_with_its_own_status(nets, capsys):
    assert run(["compile", f"{nets}:other", "--shape", "2,3"]) == 0
    assert "FXQ208" in capsys.readouterr().out
    assert run(["compile", f"{nets}:other", "--shape", "2,3", "--strict"]) == 3
    assert capsys.readouterr().err.startswith("FXQ208 module '1' (LogSoftmax) stays float")


def test_a_report_is_written_whole(nets, tmp_path, capsys):
    path = tmp_path / "r.html"
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batches", "--report", str(path)]) == 0
    assert path.read_text().startswith("<!DOCTYPE html>") or path.read_text().startswith("<!doctype html>")
    assert capsys.readouterr().err == f"report → {path}\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["nets.py", "r.html"]


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("make",), "FXQ301", 4),
        (("make", "--mapping", "int9", "--shape", "2,3,6,6"), "FXQ1", 2),
        (("make", "--mapping", "float,int8", "--shape", "2,3,6,6"), "FXQ125", 2),
        (("make", "--target", "nope"), "FXQ109", 2),
        (("make", "--shape", "2,5"), "FXQ304", 4),
        (("snapped",), "FXQ115", 2),
        (("mak",), "FXQ117", 2),
        (("make", "--report", "r.txt"), "FXQ118", 2),
        (("make", "--report", "/nowhere/r.html"), "FXQ118", 2),
    ],
)
def test_a_wrong_input_is_its_code_on_stderr(nets, capsys, arguments, code, status):
    factory, *options = arguments
    got = run(["compile", f"{nets}:{factory}", *options])
    captured = capsys.readouterr()
    assert captured.err.startswith(code) and captured.out == ""
    assert got == status


def test_wrong_data_is_refused_by_its_name(nets, capsys):
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batch"]) == 2
    assert "did you mean 'batches'?" in capsys.readouterr().err
