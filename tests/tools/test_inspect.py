"""`fxquant inspect`: the table of a graph's nodes, its totals, and what was decided of each."""

from __future__ import annotations

import json

import pytest

from fxquant.tools.cli import run
from support.command import run_in_ascii, write_source


@pytest.fixture
def nets(tmp_path):
    return write_source(tmp_path)


def inspected(capsys, *arguments):
    assert run(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_has_nodes_shapes_numbers_and_decisions(nets, capsys):
    assert run(["inspect", f"{nets}:pair"]) == 0
    captured = capsys.readouterr()
    (line,) = (line for line in captured.out.splitlines() if line.startswith("│ conv_0"))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["conv_0", "conv.0", "Conv2d", "2×8×4×4", "float32", "224", "6,912", "int8"]
    assert "every way through the graph passes" in captured.out
    assert captured.err == (
        "note: calibrated on one example: to look at the graph only, not at accuracy (--data gives it data)\n"
    )


def test_the_totals_are_of_all_rows(nets, capsys):
    told = inspected(capsys, f"{nets}:pair")
    assert told["total"]["parameters"] == sum(row["parameters"] for row in told["rows"]) == 8 * 27 + 8 + 16 + 36
    assert told["total"]["macs"] == sum(row["macs"] for row in told["rows"])


def test_without_inputs_shapes_are_unknown_and_decisions_are_what_was_asked(nets, capsys):
    rows = {row["node"]: row for row in inspected(capsys, f"{nets}:make")["rows"]}
    assert rows["conv_0"]["shape"] == "" and rows["conv_0"]["macs"] is None
    assert rows["head"]["decision"].startswith("asked: static")


def test_a_mapping_without_data_needs_no_example(nets, capsys):
    told = inspected(capsys, f"{nets}:make", "--mapping", "int8-dynamic")
    assert {row["node"]: row for row in told["rows"]}["head"]["decision"].startswith("int8")
    assert told["notes"] == []


def test_rows_sort_by_what_costs_most(nets, capsys):
    rows = inspected(capsys, f"{nets}:pair", "--sort", "macs")["rows"]
    assert [row["macs"] for row in rows] == sorted((row["macs"] for row in rows), reverse=True)
    assert rows[0]["node"] == "conv_0"


def test_packed_weights_of_the_lowered_graph_count(nets, capsys):
    told = inspected(capsys, f"{nets}:pair", "--stage", "lowered")
    (conv,) = (row for row in told["rows"] if row["op"] == "quantized.conv2d_relu")
    assert conv["macs"] == 6912 and conv["decision"] == "int8"


def test_token_ids_are_drawn_below_their_bound(nets, capsys):
    told = inspected(capsys, f"{nets}:Tokens", "--shape", "2,5:int64:30")
    assert {row["node"]: row["shape"] for row in told["rows"]}["words"] == "2×5×8"


def test_a_model_that_cannot_be_compiled_is_listed_without_decisions(nets, capsys):
    told = inspected(capsys, f"{nets}:damaged")
    assert [note.split(":")[0] for note in told["notes"]] == ["nothing was decided"]
    assert {row["decision"] for row in told["rows"]} == {""}


def test_a_model_that_cannot_be_traced_is_its_own_error(nets, capsys):
    assert run(["inspect", f"{nets}:Untraceable"]) == 3
    assert capsys.readouterr().err.startswith("FXQ210")


def test_a_stage_that_needs_data_says_which_options_give_it(nets, capsys):
    assert run(["inspect", f"{nets}:make", "--stage", "converted"]) == 4
    captured = capsys.readouterr().err
    assert captured.startswith("FXQ301") and "--data" in captured and "--shape" in captured


def test_a_snapshot_file_is_listed_as_it_is(nets, tmp_path, capsys):
    from fxquant.tools.loading import load
    from fxquant.tools.model_reference import parse

    (tmp_path / "x.json").write_text(load(parse(f"{nets}:snapped"), seed=0).source.to_json())
    assert [row["node"] for row in inspected(capsys, f"{tmp_path}/x.json")["rows"]][:2] == ["x", "conv_0"]
    assert run(["inspect", f"{tmp_path}/x.json", "--stage", "traced"]) == 2
    assert capsys.readouterr().err.startswith("FXQ115")


@pytest.mark.parametrize(
    "shape", ["", "a", "1,-3", "1,3:float8", "1,3:int64:0", "1,3:uint8:300", "1,3:float32:7", "100000,100000", "1,,2"]
)
def test_a_shape_that_means_nothing_is_refused(nets, capsys, shape):
    assert run(["inspect", f"{nets}:make", "--shape", shape]) == 2
    assert "Invalid value for '--shape'" in capsys.readouterr().err


def test_an_ascii_terminal_gets_ascii(nets, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    status, out, _ = run_in_ascii("inspect", f"{nets}:pair")
    assert status == 0 and "conv_0" in out and "2x8x4x4" in out and "\x1b[" not in out


def test_a_row_in_a_pipe_is_one_line(nets, capsys):
    assert run(["inspect", f"{nets}:pair@converted"]) == 0
    assert any("│ dequantize_per_tensor_1 " in line for line in capsys.readouterr().out.splitlines())


def test_packed_weights_cost_what_they_are_held_in(nets, capsys):
    """8 × 3 × 3 × 3 codes of a byte, 8 scales and zero points, and the bias: not four bytes a weight."""
    told = inspected(capsys, f"{nets}:pair", "--stage", "lowered")
    converted = inspected(capsys, f"{nets}:pair", "--stage", "converted")
    (conv,) = (row for row in told["rows"] if row["op"] == "quantized.conv2d_relu")
    assert conv["parameters"] == 224 and conv["weight_bytes"] < 2 * 224
    assert told["total"]["weight_bytes"] == converted["total"]["weight_bytes"]


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--mapping", "int88"), "FXQ102"), (("--mapping", "no.toml"), "FXQ101"), (("--data", "no.py:x"), "FXQ117")],
)
def test_a_wrong_option_is_an_error_and_no_note_about_the_model(nets, capsys, options, code):
    assert run(["inspect", f"{nets}:pair", *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(code) and captured.out == ""
