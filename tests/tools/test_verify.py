"""`fxquant verify`, `compile -o`, and a saved model in the place of MODEL."""

from __future__ import annotations

import json

import pytest

import fxquant
from fxquant.errors import ArtifactError, UsageError
from fxquant.tools.cli import run
from support.command import write_source
from support.saved import model, saved


@pytest.fixture
def path(tmp_path):
    return str(model("mlp").save(tmp_path / "m.fxq.safetensors"))


def test_a_whole_file_is_told_in_facts(path, capsys):
    assert run(["verify", path]) == 0
    out = capsys.readouterr().out
    assert out.endswith("whole, and of the form that fxquant writes\n")
    assert "model" in out and "MLP" in out and "preset 'int8'" in out and "asks_for       nothing" in out


def test_the_facts_are_json_too(path, capsys):
    assert run(["verify", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["stage"], facts["target"]) == ("MLP", "lowered", "x86")
    assert facts["size_bytes"] == len(saved("mlp")) and 0 < facts["payload_bytes"] < facts["size_bytes"]
    assert facts["layers"] == 5 and facts["has_probe"] is False


def test_a_damaged_file_ends_with_the_status_of_artifacts(path, capsys):
    with open(path, "r+b") as file:
        file.seek(3000)
        file.write(b"\xff\x00\xff")
    assert run(["verify", path]) == ArtifactError.exit_status == 7
    assert capsys.readouterr().err.startswith("FXQ603 ")


def test_verifying_needs_no_leaves(tmp_path, capsys):
    """The signature of a file may name classes that nobody has here."""
    from support.compiling import compiled
    from support.models import MODELS

    saved_to = compiled(MODELS["dataclass_output"]).save(tmp_path / "m.fxq.safetensors")
    assert run(["verify", str(saved_to)]) == 0
    assert run(["inspect", str(saved_to)]) == 7
    assert "types=[Answer]" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["compile", "--json"]])
def test_a_saved_model_is_a_model_of_the_command_line(path, arguments, capsys):
    assert run([arguments[0], path, *arguments[1:]]) == 0
    assert "MLP" in capsys.readouterr().out
    assert run([arguments[0], f"{path}:make"]) == UsageError.exit_status


def test_two_stages_of_a_saved_model_are_compared(path, capsys):
    assert run(["diff", f"{path}@converted", path]) == 1
    assert "linear" in capsys.readouterr().out
    assert run(["graph", f"{path}@traced"]) == 5
    assert "not in its file" in capsys.readouterr().err


def test_compile_saves_what_load_reads(tmp_path, capsys):
    nets, out = write_source(tmp_path), tmp_path / "m.fxq.safetensors"
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batches", "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(out)
    assert repr(fxquant.load(out)).startswith("CompiledModel(Net, LOWERED")
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batches", "-o", str(out)]) == 0
    assert f"model → {out}" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["m.pt", "-", "no/such/m.safetensors"])
def test_compile_refuses_a_place_before_it_works(tmp_path, capsys, out):
    nets = write_source(tmp_path)
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batches", "-o", out]) == UsageError.exit_status
    assert capsys.readouterr().err.startswith("FXQ118 ")
