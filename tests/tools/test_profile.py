"""`fxquant profile`: the table, the files, the recipe that compiles, and what is refused before any work."""

from __future__ import annotations

import csv
import io
import json

import pytest

import fxquant
from fxquant.tools.cli import run
from support.command import run_in_ascii, write_source

QUICK = ("--seconds", "1")


@pytest.fixture
def nets(tmp_path):
    return write_source(tmp_path)


def test_the_table_has_layers_and_says_what_the_data_was(nets, capsys):
    assert run(["profile", f"{nets}:make", "--data", f"{nets}:batches", *QUICK]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("Net by preset 'int8' on ") and "batches" in lines[0]
    assert any(line.startswith("conv.0 ") and " Conv2d " in line for line in lines)
    assert lines[-1].startswith("recipe: ") and captured.err == ""


def test_random_numbers_and_one_example_are_said_to_be_that(nets, capsys):
    assert run(["profile", f"{nets}:make", "--shape", "4,3,6,6", *QUICK]) == 0
    assert "note: profiled on random numbers" in capsys.readouterr().err
    assert run(["profile", f"{nets}:pair", *QUICK]) == 0
    assert "note: profiled on the one example" in capsys.readouterr().err
    assert run(["profile", f"{nets}:keywords", "--no-verify"]) == 0
    assert "note: profiled on the one example" in capsys.readouterr().err


def test_without_data_the_weights_alone_are_told(nets, capsys):
    assert run(["profile", f"{nets}:make"]) == 0
    out = capsys.readouterr().out
    assert "weights only" in out.splitlines()[0] and "note: FXQ320 there is no data" in out


def test_files_of_each_kind_are_written_and_the_recipe_compiles(nets, tmp_path, capsys):
    paths = {name: str(tmp_path / name) for name in ("p.json", "p.csv", "r.toml", "p.png")}
    given = ("--json", paths["p.json"], "--csv", paths["p.csv"], "-o", paths["r.toml"], "--plot", paths["p.png"])
    assert run(["profile", f"{nets}:make", "--data", f"{nets}:batches", *given, *QUICK]) == 0
    captured = capsys.readouterr()
    assert [line.partition(" ")[0] for line in captured.err.splitlines()] == ["json", "csv", "toml", "plot"]
    told = json.loads((tmp_path / "p.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert [row["site"] for row in rows] == [layer["site"] for layer in told["layers"]]
    assert (tmp_path / "r.toml").read_text() == told["recipe"] + ("" if told["recipe"].endswith("\n") else "\n")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batches", "--mapping", paths["r.toml"]]) == 0


def test_one_result_may_go_to_stdout_and_nothing_else_goes_there(nets, capsys):
    assert run(["profile", f"{nets}:make", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["model_name"] == "Net"
    assert run(["profile", f"{nets}:make", "-o", "-"]) == 0
    out = capsys.readouterr().out
    assert fxquant.compile is not None and out.startswith("# FXQ321") and "schema = 1" in out


def test_a_recipe_and_an_engine_are_where_it_starts(nets, tmp_path, capsys):
    recipe = tmp_path / "start.toml"
    recipe.write_text('schema = 1\nignore = ["head"]\n[[rule]]\ntargets = ["*"]\nscheme = "int8"\n')
    given = ("--mapping", str(recipe), "--target", "x86", "--objective", "latency", "--json", "-", *QUICK)
    assert run(["profile", f"{nets}:make", "--data", f"{nets}:batches", *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["target"] == "x86" and told["objective"] == "latency" and 'ignore = ["head"]' in told["recipe"]
    assert {layer["module"]: layer["effective"] for layer in told["layers"]}["head"] == "float32"


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (("--json", "p.txt"), 2, "FXQ118"),
        (("--csv", "no/such/p.csv"), 2, "FXQ118"),
        (("-o", "recipe.json"), 2, "FXQ118"),
        (("--plot", "p.gif"), 2, "FXQ118"),
        (("--plot", "-"), 2, "FXQ118"),
        (("--json", "-", "--csv", "-"), 2, "FXQ118"),
        (("--mapping", "no.toml"), 2, "FXQ101"),
        (("--mapping", "int88"), 2, "FXQ102"),
        (("--data", "no.py:x"), 2, "FXQ117"),
        (("--target", "tpu"), 2, "FXQ109"),
        (("--shape", "4,3,6"), 4, "FXQ304"),
    ],
)
def test_what_is_wrong_is_its_own_error_and_nothing_is_printed(nets, capsys, given, status, code):
    assert run(["profile", f"{nets}:make", *given]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(code) and captured.out == ""


@pytest.mark.parametrize(
    ("name", "status", "code"), [("Untraceable", 3, "FXQ210"), ("compiled", 2, "FXQ115"), ("snapped", 2, "FXQ115")]
)
def test_a_model_that_cannot_be_profiled_is_an_error(nets, capsys, name, status, code):
    assert run(["profile", f"{nets}:{name}"]) == status
    assert capsys.readouterr().err.startswith(code)


@pytest.mark.parametrize("given", [("--seconds", "-1"), ("--objective", "speed")])
def test_an_option_that_means_nothing_is_refused(nets, capsys, given):
    assert run(["profile", f"{nets}:make", *given]) == 2
    assert "Invalid value for" in capsys.readouterr().err


def test_help_says_how_it_differs_from_inspect(capsys):
    assert run(["profile", "--help"]) == 0
    assert "`inspect` lists what is in a graph" in " ".join(capsys.readouterr().out.split())
    assert run(["inspect", "--help"]) == 0
    assert "Nothing is measured: `profile` runs the model" in " ".join(capsys.readouterr().out.split())


def test_an_ascii_terminal_gets_ascii(nets):
    status, out, _ = run_in_ascii("profile", f"{nets}:make")
    assert status == 0 and "conv.0" in out and out.isascii()
