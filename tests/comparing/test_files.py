"""What a comparison is written as: tables, CSV, JSON, charts, and one inert HTML file. Names are anybody's text."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

import fxquant
from fxquant.comparing.points import layer_lines, staircase
from fxquant.comparing.report import render
from fxquant.comparing.rows import ComparedRow, Latency
from fxquant.errors import UsageError
from support.comparing import classifier, compared, full, labelled
from support.reporting import Page

FETCHES = {"src", "srcset", "xlink:href", "action", "formaction", "data", "poster", "ping", "background"}
NASTY = "</style><script>alert(1)</script>\"'{{ 7*7 }}$x_1$"


def timed(name, metric, seconds, size, **more):
    spread = (Latency(1, 1, seconds, seconds * 0.9, seconds * 1.2, 9),)
    return ComparedRow(name, "module", size_bytes=size, metric=metric, latencies=spread, sqnr_db=30.0, **more)


def made(*rows, metric="accuracy", is_higher_better=True):
    return fxquant.Comparison(rows, metric, is_higher_better, "Net", "a machine")


FEW = made(
    timed("cheap and poor", 0.90, 1e-3, 100),
    timed("dear and good", 0.99, 4e-3, 400),
    timed("beaten", 0.89, 2e-3, 300),
    timed("as good, smaller", 0.99, 4e-3, 200),
)


def test_the_front_is_what_nothing_beats():
    assert FEW.pareto == ("cheap and poor", "as good, smaller")
    assert made(*FEW.rows, metric="loss", is_higher_better=False).pareto == ("cheap and poor", "beaten")


def test_a_row_without_all_the_numbers_is_not_on_the_front_and_pushes_nobody_off():
    best = ComparedRow("failed", "failed")
    assert made(*FEW.rows, best).pareto == FEW.pareto
    assert made(best).pareto == ()


def test_rows_are_found_by_name_and_stay_as_they_are():
    assert FEW["beaten"] is FEW.rows[2] and len(FEW) == 4 and list(FEW) == list(FEW.rows)
    with pytest.raises(UsageError, match="did you mean 'beaten'"):
        FEW["beatne"]
    with pytest.raises(FrozenInstanceError):
        FEW.metric = "loss"


def test_the_table_has_a_line_for_each_row_and_a_sentence_for_each_failure():
    lines = str(full()).splitlines()
    assert lines[0].split()[:4] == ["candidate", "accuracy", "SQNR", "size"]
    assert "latency, batch 1  " in lines[0] and lines[0].endswith("peak memory  MACs in int8  compile")
    assert [line.split()[-1] == "–" for line in lines[1:6]] == [True, False, False, False, False]  # compile seconds
    assert lines[6].split()[-2:] == ["failed:", "FXQ102"]
    assert "<b>$x_1$</b> on x86 failed: FXQ102 no preset is called 'int9'" in lines
    assert len({len(line) for line in lines[:6]}) == 1  # columns stand under each other


def test_the_csv_has_one_column_a_number_and_reads_back(tmp_path):
    path = full().to_csv(tmp_path / "t.csv")
    read = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert [row["name"] for row in read] == [row.name for row in full()]
    assert float(read[1]["accuracy"]) == full()["int8 on x86"].metric
    assert float(read[1]["median_seconds_batch8_threads1"]) == full()["int8 on x86"].latency(8).median_seconds
    assert read[4]["sqnr_db"] == "inf" and read[0]["sqnr_db"] == "" and read[5]["code"] == "FXQ102"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.csv"]


def test_the_json_is_json_for_every_reader(tmp_path):
    text = full().to_json(tmp_path / "t.json").read_text(encoding="utf-8")
    told = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (told["metric"], told["is_higher_better"], told["model"]) == ("accuracy", True, "Classifier")
    assert told["rows"] == json.loads(json.dumps(full().to_dicts()))
    assert told["rows"][4]["sqnr_db"] == "inf" and told["rows"][5]["failure"]["code"] == "FXQ102"
    assert {layer["effective"] for layer in told["rows"][1]["layers"]} >= {"int8"}
    assert told["pareto"] == [row["name"] for row in told["rows"] if row["is_pareto"]]


@pytest.mark.parametrize(("kind", "suffix"), [("latency", "svg"), ("size", "pdf"), ("bars", "png"), ("layers", "png")])
def test_each_chart_is_drawn_whole_and_alike_each_time(kind, suffix, tmp_path):
    first, second = (full().plot(tmp_path / f"{name}.{suffix}", kind=kind).read_bytes() for name in "ab")
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]) and len(first) > 5000
    assert first == second


def test_a_chart_of_hostile_names_is_drawn(tmp_path):
    names = ("$", "$\\frac$", "_hidden", "日本", "x" * 300, "a\\b")
    rows = [replace(row, name=name) for row, name in zip(FEW.rows * 2, names, strict=False)]
    for kind in ("latency", "size", "bars"):
        assert made(*rows).plot(tmp_path / f"{kind}.png", kind=kind).stat().st_size > 5000


@pytest.mark.parametrize(
    ("comparison", "path", "kind", "code"),
    [
        (FEW, "x.png", "pie", "FXQ111"),
        (FEW, "x.gif", "size", "FXQ118"),
        (FEW, "x", "size", "FXQ118"),
        (FEW, "no/such/x.png", "size", "FXQ118"),
        (FEW, "x.png", "layers", "FXQ111"),
        (made(ComparedRow("a", "failed")), "x.png", "latency", "FXQ111"),
        (made(ComparedRow("a", "failed")), "x.png", "size", "FXQ111"),
        (made(ComparedRow("a", "failed")), "x.png", "bars", "FXQ111"),
    ],
)
def test_what_cannot_be_drawn_says_so_and_leaves_no_file(comparison, path, kind, code, tmp_path):
    with pytest.raises(UsageError) as caught:
        comparison.plot(tmp_path / path, kind=kind)
    assert caught.value.code == code and list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_chart_says_what_to_install_and_the_report_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError) as caught:
        FEW.plot(tmp_path / "x.png")
    assert caught.value.code == "FXQ112" and "matplotlib" in caught.value.message
    assert FEW.report(tmp_path / "x.html").stat().st_size > 10_000


def test_importing_a_comparison_does_not_import_matplotlib():
    code = "import sys, fxquant; fxquant.compare, fxquant.Comparison; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0


def page():
    return Page.of(render(full()))


def test_the_report_shows_every_row_chart_and_difference(tmp_path):
    text = full().report(tmp_path / "c.html").read_text(encoding="utf-8")
    assert text == render(full())
    for told in ("What it costs", "Against size on disk", "batch 8, 1 thread", "Where candidates differ", "FXQ102"):
        assert told in text
    assert text.count("<circle") >= 3 * 5 and text.count('class="bar-row') == 2 * 5
    assert "int8 weights" in text and "0.0 dB" not in text


def test_the_report_loads_nothing_and_runs_nothing():
    found = page()
    assert [meta["content"].split(";")[0] for meta in found.with_attribute("http-equiv")] == ["default-src 'none'"]
    assert not [tag for tag, attributes in found.elements if tag == "script" or FETCHES & set(attributes)]
    assert not [attributes for _, attributes in found.elements if "style" in attributes]
    links = [attributes["href"] for _, attributes in found.elements if "href" in attributes]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]


def test_every_text_in_the_report_is_escaped():
    harmless = [replace(row, name=f"n{index}", notes=("n",)) for index, row in enumerate(full().rows)]
    hostile = [replace(row, name=f"{NASTY}{index}", notes=(NASTY,)) for index, row in enumerate(full().rows)]
    shapes = []
    for rows in (harmless, hostile):
        given = replace(full(), rows=tuple(rows), model_name=NASTY, machine=NASTY)
        text = render(given)
        shapes.append([tag for tag, _ in Page.of(text).elements])
        assert "<script" not in text.lower() and "{{" not in text.replace("{{ 7*7 }}", "")
    assert sorted(set(shapes[0])) == sorted(set(shapes[1])) and len(shapes[0]) == len(shapes[1])
    assert "<script>" not in replace(full(), rows=tuple(hostile))._repr_html_()


def test_the_notebook_table_has_every_cell_of_the_text_table():
    text = full()._repr_html_()
    assert text.startswith("<div>") and text.count("<tr>") == 7 and "&lt;b&gt;$x_1$&lt;/b&gt;" in text
    assert "<style" not in text and "<script" not in text


def test_layers_that_lose_most_are_kept_in_graph_order():
    few = layer_lines(full(), most=1)
    everything = layer_lines(full())
    assert len(few) == 1 and len(everything) >= 2
    worst = min(everything, key=lambda line: min(value for _, value in line.sqnr_db))
    assert few[0].label == worst.label
    assert [line.label.split(" ")[0] for line in everything] == sorted(
        (line.label.split(" ")[0] for line in everything), key=["body", "relu", "head"].index
    )
    assert all(math.isfinite(value) for line in everything for _, value in line.sqnr_db)


def test_the_staircase_turns_at_the_points_of_the_front():
    from fxquant.comparing.points import against_size

    points = against_size(FEW)
    assert staircase(points) == ((0.1, 90.0), (0.2, 90.0), (0.2, 99.0))


def test_a_comparison_without_timing_has_no_latency_anywhere():
    found = compared()
    assert found.settings == () and "latency" not in str(found).splitlines()[0] and "Latency</h2>" not in render(found)


def test_every_file_of_a_metric_of_ones_own_has_its_name(tmp_path):
    def loss(outputs, labels):
        return float((outputs.argmax(1) != labels).float().mean())

    found = fxquant.compare(
        classifier(), {"dynamic": "int8-dynamic"}, labelled(), loss, is_higher_better=False, seconds=0, targets="x86"
    )
    assert "loss" in str(found).splitlines()[0] and "lower is better" in render(found)
    assert "loss" in found.to_csv(tmp_path / "t.csv").read_text().splitlines()[0].split(",")


def test_a_metric_with_the_name_of_another_column_does_not_hide_it(tmp_path):
    header = made(*FEW.rows, metric="target").to_csv(tmp_path / "t.csv").read_text().splitlines()[0].split(",")
    assert len(header) == len(set(header)) and "metric" in header


def test_each_number_of_threads_has_its_own_column():
    spread = tuple(Latency(batch, threads, 1e-3, 1e-3, 1e-3, 3) for threads in (1, 2) for batch in (1, 8))
    found = made(replace(FEW.rows[0], latencies=spread))
    assert "latency, batch 8, 2 threads" in str(found).splitlines()[0] and "batch 8, 2 threads" in render(found)
    assert found.rows[0].latency(8, 2) == spread[3] and found.rows[0].latency(9) is None
