"""`fxquant compare`: the table, its files, and what each wrong command line gives."""

from __future__ import annotations

import csv
import io
import json

import pytest

from fxquant.comparing.plotting import KINDS
from fxquant.tools.cli import run
from fxquant.tools.compare import CHARTS
from support.command import run_in_ascii, write_source

MORE = """
def test_set():
    for seed in range(2):
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        yield x, torch.arange(4) % 4


def wrong(outputs, labels):
    print("the metric was called")
    return float((outputs.argmax(1) != labels).float().mean())


def text(outputs, labels):
    return "97 %"


def policy():
    from fxquant.torch_ao import raw_mapping

    return raw_mapping("x86")
"""


@pytest.fixture
def nets(tmp_path):
    path = write_source(tmp_path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(MORE)
    return path


def told(capsys, *arguments):
    assert run(["compare", *arguments, "--seconds", "0", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_has_a_row_for_each_candidate_and_engine(nets, capsys):
    arguments = ["--candidate", "int8", "--candidate", "w=int8-weight-only", "--target", "x86", "--target", "fbgemm"]
    data = ["--data", f"{nets}:test_set", "--calibration", f"{nets}:batches"]
    assert run(["compare", f"{nets}:make", *arguments, *data, "--seconds", "0.1", "--batch-size", "2"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split()[:3] == ["candidate", "accuracy", "SQNR"] and "latency, batch 2" in lines[0]
    for name in ("float", "int8 on x86", "int8 on fbgemm", "w on x86", "w on fbgemm"):
        assert any(name in line for line in lines)
    assert captured.err == ""


def test_what_was_compared_on_little_says_so(nets, capsys):
    assert run(["compare", f"{nets}:make", "--candidate", "int8", "--shape", "8,3,6,6", "--seconds", "0"]) == 0
    captured = capsys.readouterr()
    assert "accuracy" not in captured.out and "SQNR" in captured.out and "FXQ318" in captured.out
    assert captured.err.startswith("note: compared on random numbers")
    assert run(["compare", f"{nets}:pair", "--candidate", "int8", "--seconds", "0"]) == 0
    assert capsys.readouterr().err.startswith("note: compared on one example")


def test_a_metric_of_ones_own_and_candidates_of_every_kind(nets, tmp_path, capsys):
    saved, recipe = tmp_path / "m.fxq.safetensors", tmp_path / "r.toml"
    recipe.write_text('schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = "int8"\n')
    assert run(["compile", f"{nets}:make", "--data", f"{nets}:batches", "-o", str(saved)]) == 0
    capsys.readouterr()
    given = {"saved": saved, "recipe": recipe, "made": f"{nets}:compiled", "policy": f"{nets}:policy"}
    arguments = [word for name, what in given.items() for word in ("--candidate", f"{name}={what}")]
    metric = ["--metric", f"{nets}:wrong", "--lower-is-better"]
    found = told(capsys, f"{nets}:make", *arguments, "--data", f"{nets}:test_set", *metric)
    assert [row["name"] for row in found["rows"]] == ["float", *given]
    assert [row["failure"] for row in found["rows"]] == [None] * 5
    assert (found["metric"], found["is_higher_better"]) == ("wrong", False)


def test_files_are_written_whole_and_named(nets, tmp_path, capsys):
    files = {"--csv": "t.csv", "--html": "c.html", "--chart": f"size={tmp_path / 's.svg'}"}
    arguments = [word for flag, name in files.items() for word in (flag, name if "=" in name else str(tmp_path / name))]
    assert (
        run(
            [
                "compare",
                f"{nets}:make",
                "--candidate",
                "int8",
                "--data",
                f"{nets}:test_set",
                "--seconds",
                "0",
                *arguments,
            ]
        )
        == 0
    )
    assert capsys.readouterr().err.splitlines() == [
        f"table → {tmp_path / 't.csv'}",
        f"report → {tmp_path / 'c.html'}",
        f"chart → {tmp_path / 's.svg'}",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "nets.py", "s.svg", "t.csv"]


def test_csv_on_stdout_stands_alone(nets, capsys):
    assert (
        run(
            [
                "compare",
                f"{nets}:make",
                "--candidate",
                "int8",
                "--data",
                f"{nets}:test_set",
                "--seconds",
                "0",
                "--csv",
                "-",
            ]
        )
        == 0
    )
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [row[0] for row in rows] == ["name", "float", "int8"] and len({len(row) for row in rows}) == 1


def test_a_candidate_that_fails_is_a_row_and_all_of_them_an_error(nets, capsys):
    found = told(capsys, f"{nets}:make", "--candidate", "int9", "--candidate", "int8", "--data", f"{nets}:test_set")
    assert found["rows"][1]["failure"]["code"] == "FXQ102" and found["rows"][2]["failure"] is None
    assert run(["compare", f"{nets}:make", "--candidate", "int9", "--data", f"{nets}:test_set"]) == 2
    assert capsys.readouterr().err.startswith("FXQ140 every candidate failed: 'int9': FXQ102")


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        ((), "FXQ136", 2),
        (("--candidate", "int8", "--candidate", "int8"), "FXQ136", 2),
        (("--candidate", "a="), "FXQ136", 2),
        (("--candidate", "=int8"), "FXQ136", 2),
        (("--candidate", "int8", "--metric", "acuracy"), "FXQ137", 2),
        (("--candidate", "int8", "--metric", "{nets}:text"), "FXQ138", 2),
        (("--candidate", "int8", "--metric", "{nets}:txt"), "FXQ117", 2),
        (("--candidate", "int8", "--csv", "t.txt"), "FXQ118", 2),
        (("--candidate", "int8", "--html", "/nowhere/c.html"), "FXQ118", 2),
        (("--candidate", "int8", "--chart", "x.gif"), "FXQ118", 2),
        (("--candidate", "int8", "--chart", "-"), "FXQ118", 2),
        (("--candidate", "int8", "--chart", "pie=x.png"), "FXQ111", 2),
        (("--candidate", "int8", "--target", "nope"), "FXQ140", 2),
    ],
)
def test_a_wrong_input_is_its_code_on_stderr(nets, capsys, arguments, code, status):
    given = [argument.format(nets=nets) for argument in arguments]
    got = run(["compare", f"{nets}:make", "--data", f"{nets}:test_set", "--seconds", "0", *given])
    captured = capsys.readouterr()
    assert captured.err.replace("the metric was called\n", "").startswith(code) and captured.out == ""
    assert got == status


@pytest.mark.parametrize(
    ("model", "code", "status"), [("make", "FXQ301", 4), ("snapped", "FXQ115", 2), ("compiled", "FXQ230", 3)]
)
def test_a_model_that_cannot_be_compared_is_told_as_that(nets, capsys, model, code, status):
    data = [] if model == "make" else ["--data", f"{nets}:test_set"]
    assert run(["compare", f"{nets}:{model}", "--candidate", "int8", *data]) == status
    assert capsys.readouterr().err.startswith(code)


@pytest.mark.parametrize("arguments", [["--batch-size", "0"], ["--threads", "0"], ["--seconds", "-1"], ["--nope"]])
def test_a_number_that_means_nothing_is_refused_by_the_parser(nets, capsys, arguments):
    assert run(["compare", f"{nets}:make", "--candidate", "int8", *arguments]) == 2
    assert "Error:" in capsys.readouterr().err


def test_the_table_is_readable_where_only_ascii_is(nets):
    status, out, _ = run_in_ascii(
        "compare", f"{nets}:make", "--candidate", "int8", "--data", f"{nets}:test_set", "--seconds", "0.05"
    )
    assert status == 0 and "?" not in out and " us (" in out and "* " in out


def test_the_charts_of_the_command_line_are_those_of_the_library():
    assert tuple(KINDS) == CHARTS
