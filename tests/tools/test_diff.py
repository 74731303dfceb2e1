"""`fxquant diff`: status 1 when two graphs differ, in every format, from factories, stages and files."""

from __future__ import annotations

import json

import pytest

from fxquant.tools.cli import run
from support.command import fxquant_into_closed_pipe, write_source

SHAPE = ("--shape", "2,3,6,6")


@pytest.fixture
def nets(tmp_path):
    return write_source(tmp_path)


@pytest.fixture
def files(tmp_path, nets):
    """Two snapshot files, which differ in a bias."""
    from torch import nn

    from fxquant.graphs.snapping import snapshot
    from fxquant.tools.loading import load
    from fxquant.tools.model_reference import parse
    from fxquant.tools.users_code import users_code

    with users_code():
        model = load(parse(f"{nets}:make"), seed=0).source
    (tmp_path / "a.json").write_text(snapshot(model).to_json())
    model.head = nn.Linear(8, 4, bias=False)
    (tmp_path / "b.json").write_text(snapshot(model).to_json())
    return f"{tmp_path}/a.json", f"{tmp_path}/b.json"


def test_a_graph_does_not_differ_from_itself(nets, capsys):
    assert run(["diff", f"{nets}:make", f"{nets}:make"]) == 0
    assert "unchanged" in capsys.readouterr().out


def test_two_stages_of_one_model_differ(nets, capsys):
    assert run(["diff", f"{nets}:make@traced", f"{nets}:make@converted", *SHAPE]) == 1
    captured = capsys.readouterr()
    assert "conv_0 Conv2d + conv_1 BatchNorm2d → conv2d" in captured.out
    assert captured.err == "note: calibrated on random numbers: to look at the graph only, not at accuracy\n"


@pytest.mark.parametrize("stages", [("traced", "converted"), ("converted", "traced"), ("prepared", "lowered")])
def test_two_stages_of_one_model_are_one_compilation(nets, capsys, monkeypatch, stages):
    import fxquant as package

    calls = []
    compile_once = package.compile
    monkeypatch.setattr(package, "compile", lambda *args, **kwargs: calls.append(1) or compile_once(*args, **kwargs))
    assert run(["diff", *(f"{nets}:make@{stage}" for stage in stages), *SHAPE]) == 1
    assert calls == [1]


def test_a_stage_does_not_differ_from_itself(nets):
    assert run(["diff", f"{nets}:make@lowered", f"{nets}:make@lowered", *SHAPE]) == 0


def test_a_stage_can_be_compared_with_a_file(nets, tmp_path):
    from fxquant.tools.loading import load
    from fxquant.tools.model_reference import parse

    (tmp_path / "x.json").write_text(load(parse(f"{nets}:snapped"), seed=0).source.to_json())
    assert run(["diff", f"{tmp_path}/x.json", f"{nets}:make"]) == 0
    assert run(["diff", f"{tmp_path}/x.json", f"{nets}:other"]) == 1


@pytest.mark.parametrize("flags", [("--json",), ("--format", "json")])
def test_the_json_is_the_diffs(files, capsys, flags):
    assert run(["diff", *files, *flags]) == 1
    assert json.loads(capsys.readouterr().out)["entries"]


def test_json_is_printed_beside_a_file(files, tmp_path, capsys):
    assert run(["diff", *files, "--json", "-o", f"{tmp_path}/d.svg"]) == 1
    assert json.loads(capsys.readouterr().out)["entries"]
    assert (tmp_path / "d.svg").read_bytes().startswith(b"<")


def test_files_are_compared_without_torch(files):
    import subprocess
    import sys

    code = "import sys; from fxquant.tools.cli import run; status = run(['diff', *sys.argv[1:]])\n"
    code += "sys.exit('torch' in sys.modules or status != 1)"
    assert subprocess.run([sys.executable, "-c", code, *files], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("suffix", ["txt", "json", "svg", "dot", "html", "png"])
def test_the_suffix_says_the_format(files, tmp_path, capsys, suffix):
    path = tmp_path / f"out.{suffix}"
    assert run(["diff", *files, "-o", str(path)]) == 1
    start = {"txt": b"~", "json": b"{", "svg": b"<", "dot": b"digraph", "html": b"<!DOCTYPE html>", "png": b"\x89PNG"}
    assert path.read_bytes().startswith(start[suffix])
    captured = capsys.readouterr()
    assert captured.out == "" and f"→ {path}" in captured.err


def test_a_format_may_differ_from_the_suffix(files, tmp_path):
    assert run(["diff", *files, "-o", f"{tmp_path}/out.txt", "--format", "dot"]) == 1
    assert (tmp_path / "out.txt").read_text().startswith("digraph")


@pytest.mark.parametrize("form", ["svg", "dot", "html", "text"])
def test_a_format_goes_to_stdout(files, capsysbinary, form):
    assert run(["diff", *files, "--format", form, "--side-by-side", "--depth", "2"]) == 1
    assert len(capsysbinary.readouterr().out) > 20


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("--format", "png"), "FXQ118", 2),
        (("-o", "x.gif"), "FXQ118", 2),
        (("-o", "/"), "FXQ118", 2),
        (("--format", "gif"), "Usage", 2),
    ],
)
def test_a_wrong_option_has_its_code(files, capsys, arguments, code, status):
    assert run(["diff", *files, *arguments]) == status
    assert capsys.readouterr().err.startswith(code)


def test_what_cannot_be_read_is_no_difference(nets, capsys):
    assert run(["diff", f"{nets}:make", f"{nets}:Untraceable"]) == 3
    assert run(["diff", f"{nets}:make", "net.pt"]) == 2
    assert run(["diff", f"{nets}:make@traced", f"{nets}:make@convertd"]) == 2
    assert capsys.readouterr().err.count("\nFXQ117") == 2


def test_a_closed_pipe_is_quiet_and_no_failure(files):
    assert fxquant_into_closed_pipe("diff", *files) == (0, b"")
