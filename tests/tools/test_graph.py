"""`fxquant graph`: every format, every stage, what it says of the graph, and everything that can be wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from fxquant.errors import RendererMissingError
from fxquant.tools.cli import run
from fxquant.tools.graph import FORMATS
from fxquant.tools.model_reference import STAGES
from support.command import fxquant, fxquant_into_closed_pipe, interruptible, run_in_ascii, write_source

SHAPE = ("--shape", "2,3,6,6")
MAGIC = {
    "svg": b"<",
    "png": b"\x89PNG",
    "pdf": b"%PDF",
    "dot": b"digraph",
    "json": b'{"nodes"',
    "html": b"<!DOCTYPE html>",
}


@pytest.fixture
def nets(tmp_path):
    return write_source(tmp_path)


@pytest.mark.parametrize("verb", ["graph", "diff", "inspect", "compile"])
def test_the_help_of_a_verb_imports_no_torch(verb):
    code = f"import sys; from fxquant.tools.cli import run; run(['{verb}', '--help']); sys.exit('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.sep, check=False)
    assert found.returncode == 0 and "runs its code" in " ".join(found.stdout.split())


@pytest.mark.parametrize("arguments", [(), ("-o", "-")])
def test_without_a_file_the_dot_text_is_on_stdout_and_the_rest_on_stderr(nets, capsys, arguments):
    assert run(["graph", f"{nets}:make", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("digraph") and captured.out.endswith("}\n")
    assert "Net, TRACED: 7 nodes, 6 edges\n" in captured.err and "float island" in captured.err


@pytest.mark.parametrize("form", FORMATS)
def test_the_suffix_is_the_format(nets, tmp_path, capsys, form):
    path = tmp_path / f"g.{form}"
    assert run(["graph", f"{nets}:make", "-o", str(path)]) == 0
    assert path.read_bytes().startswith(MAGIC[form])
    captured = capsys.readouterr()
    assert "float island" in captured.out and captured.err == f"Net, TRACED: 7 nodes, 6 edges → {path}\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([f"g.{form}", "nets.py"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_can_be_drawn(nets, tmp_path, stage):
    path = tmp_path / "g.svg"
    assert run(["graph", f"{nets}:make@{stage}", "-o", str(path), *SHAPE]) == 0
    first = path.read_bytes()
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert run(["graph", f"{nets}:make", "--stage", stage, "-o", str(path), *SHAPE]) == 0
    assert path.read_bytes() == first


def test_a_snapshot_file_draws_as_its_model_does(nets, tmp_path, capsys):
    assert run(["graph", f"{nets}:make@lowered", *SHAPE, "-o", f"{tmp_path}/x.json"]) == 0
    assert run(["graph", f"{nets}:make@lowered", *SHAPE, "-o", f"{tmp_path}/model.dot"]) == 0
    assert run(["graph", f"{tmp_path}/x.json", "-o", f"{tmp_path}/file.dot"]) == 0
    assert (tmp_path / "file.dot").read_bytes() == (tmp_path / "model.dot").read_bytes()


def test_the_page_has_the_picture_its_analysis_and_a_policy(nets, tmp_path):
    assert run(["graph", f"{nets}:make", "-o", f"{tmp_path}/g.html"]) == 0
    text = (tmp_path / "g.html").read_text()
    assert text.count("<svg") == 1 and "<?xml" not in text and "float island" in text
    assert "Content-Security-Policy\" content=\"default-src 'none'" in text and "<script" not in text


def test_the_json_says_what_was_drawn(nets, tmp_path, capsys):
    assert run(["graph", f"{nets}:make", *SHAPE, "--json", "-o", f"{tmp_path}/g.dot"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["nodes"], told["edges"], told["output"], told["notes"]) == (7, 6, f"{tmp_path}/g.dot", [])
    assert told["analysis"]["islands"] == [] and "dot" not in told


def test_the_json_holds_the_dot_text_where_there_is_no_file(nets, capsys):
    assert run(["graph", f"{nets}:make", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] is None and told["dot"].startswith("digraph")


def test_islands_are_told_with_their_reason(nets, tmp_path, capsys):
    assert run(["graph", f"{nets}:Island", "--stage", "converted", "--shape", "2,3", "-o", f"{tmp_path}/g.dot"]) == 0
    told = capsys.readouterr().out
    assert "1 float island inside quantized regions" in told and "FXQ208" in told


@pytest.mark.parametrize(("overlay", "unit"), [("sqnr", " dB"), ("latency", " ms"), ("size", " B")])
@pytest.mark.parametrize("stage", ["traced", "lowered"])
def test_an_overlay_is_drawn_with_its_unit(nets, capsys, overlay, unit, stage):
    assert run(["graph", f"{nets}:pair", "--stage", stage, "--overlay", overlay]) == 0
    assert unit in capsys.readouterr().out


def test_an_overlay_that_takes_a_run_cannot_be_had_of_a_file(nets, tmp_path, capsys):
    assert run(["graph", f"{nets}:make", "-o", f"{tmp_path}/x.json"]) == 0
    assert run(["graph", f"{tmp_path}/x.json", "--overlay", "sqnr"]) == 2
    assert "FXQ115" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("make", "-o", "g"), "FXQ118"),
        (("make", "-o", "g.gif"), "FXQ118"),
        (("make", "-o", os.sep), "FXQ118"),
        (("make", "-o", "/nowhere/g.svg"), "FXQ118"),
        (("mak",), "FXQ117"),
        (("make@covnerted",), "FXQ117"),
        (("batches",), "FXQ117"),
        (("make", "--stage", "covnerted"), "Usage"),
        (("make", "--depth", "-1"), "Usage"),
        (("make", "--overlay", "speed"), "Usage"),
        (("make", "--data", "x.pkl"), "FXQ117"),
        (("make", "--seed", "-1"), "Usage"),
    ],
)
def test_a_wrong_input_is_its_code_on_stderr_and_status_2(nets, capsys, arguments, code):
    factory, *options = arguments
    assert run(["graph", f"{nets}:{factory}", *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(code) and captured.out == ""


def test_a_wrong_output_is_told_before_the_model_is_made(tmp_path, capsys):
    (tmp_path / "bomb.py").write_text("raise RuntimeError('was imported')\n")
    assert run(["graph", f"{tmp_path}/bomb.py:make", "-o", "g.gif"]) == 2
    assert "FXQ118" in capsys.readouterr().err


def test_names_of_the_user_are_no_markup(tmp_path, capsys):
    (tmp_path / "n.py").write_text(
        "from torch import nn\nclass Evil(nn.Sequential): ...\nEvil.__name__ = '</title><script>[bold]'\n"
        "def make(): return Evil(nn.ReLU()).eval()\n"
    )
    assert run(["graph", f"{tmp_path}/n.py:make", "-o", f"{tmp_path}/g.html"]) == 0
    assert "<script" not in (tmp_path / "g.html").read_text()
    assert "</title><script>[bold]" in capsys.readouterr().out


def test_two_processes_write_the_same_bytes(nets, tmp_path):
    """Graphs and diffs alike, whatever the seed of Python's hashes."""
    code = (
        "import sys; from fxquant.tools.cli import run\n"
        "nets, out = sys.argv[1:]\n"
        "for stage in ('traced', 'lowered'):\n"
        "    run(['graph', f'{nets}:make@{stage}', '--shape', '2,3,6,6', '-o', f'{out}/{stage}.json'])\n"
        "for form in ('dot', 'svg'):\n"
        "    run(['graph', f'{out}/lowered.json', '-o', f'{out}/lowered.{form}'])\n"
        "for form in ('dot', 'txt', 'json'):\n"
        "    run(['diff', f'{out}/traced.json', f'{out}/lowered.json', '-o', f'{out}/diff.{form}'])\n"
    )
    written = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, nets, str(out)], env=environment, check=True, capture_output=True)
        written.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert len(written[0]) == 7 and written[0] == written[1]


def test_an_ascii_terminal_gets_ascii(nets):
    status, out, err = run_in_ascii("graph", f"{nets}:pair")
    assert status == 0 and out.startswith("digraph") and "7 nodes" in err


def test_a_closed_pipe_is_quiet_and_no_failure(nets, tmp_path):
    assert run(["graph", f"{nets}:make", "-o", f"{tmp_path}/x.json"]) == 0
    assert fxquant_into_closed_pipe("graph", f"{tmp_path}/x.json", "--json") == (0, b"")


def test_an_interrupt_in_the_factory_is_status_130(tmp_path):
    (tmp_path / "n.py").write_text("import os, signal\ndef make(): os.kill(os.getpid(), signal.SIGINT)\n")
    with interruptible():
        found = fxquant("graph", f"{tmp_path}/n.py:make")
    assert (found.returncode, found.stdout, found.stderr) == (130, b"", b"interrupted\n")


@pytest.mark.parametrize("form", ["svg", "html"])
def test_without_a_renderer_the_dot_text_is_kept(nets, tmp_path, capsys, monkeypatch, form):
    from fxquant.drawing import picture

    def refuse(*_):
        raise RendererMissingError("FXQ701", "no renderer is installed")

    monkeypatch.setattr(picture.Picture, "render", refuse)
    monkeypatch.setattr(picture.Picture, "svg", refuse)
    assert run(["graph", f"{nets}:make", "-o", f"{tmp_path}/g.{form}"]) == 8
    captured = capsys.readouterr()
    assert captured.err.startswith(f"note: the DOT text is kept in {tmp_path}/g.{form}.dot\nFXQ701")
    assert (tmp_path / f"g.{form}.dot").read_text().startswith("digraph")
    assert not (tmp_path / f"g.{form}").exists()


def test_an_option_that_a_compiled_subject_cannot_heed_is_told(tmp_path, capsys):
    from fxquant.graphs.snapshot import GraphSnapshot

    (tmp_path / "g.json").write_text(GraphSnapshot((), "Net").to_json())
    assert run(["graph", f"{tmp_path}/g.json", "-o", f"{tmp_path}/g.dot", "--mapping", "int8-dynamic", "--strict"]) == 0
    assert "note: --mapping, --strict mean nothing here" in capsys.readouterr().err
    assert run(["graph", f"{tmp_path}/g.json", "-o", f"{tmp_path}/g.dot"]) == 0
    assert "nothing here" not in capsys.readouterr().err
