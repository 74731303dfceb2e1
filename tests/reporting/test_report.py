"""The report: what it shows, that it is one inert file, and what it says where something cannot be shown."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fxquant
from fxquant.errors import FxQuantError, UsageError
from fxquant.graphs.change import Change
from fxquant.reporting.policy import inert_json
from fxquant.reporting.report import render_report, write_report
from fxquant.reporting.wording import short
from support.compiling import compiled
from support.models import MODELS
from support.reporting import Drawn, Page, called, compiled_pair, draw, draw_nothing, settled

FETCHES = {"src", "srcset", "href", "xlink:href", "action", "formaction", "data", "poster", "ping", "background"}
NASTY = (
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "]]>--><!--",
    "{{ 7 * 7 }}",
    "&lt;b&gt;",
)


@cache
def encoder_report() -> str:
    return render_report(compiled_pair("encoder")[1], draw=draw)


@cache
def encoder_page() -> Page:
    return Page.of(encoder_report())


@cache
def shape_of_a_harmless_page() -> Counter[str]:
    return elements_of(Page.of(render_report(called("plain"), draw=draw)))


def elements_of(page: Page) -> Counter[str]:
    """How many of each, less the places where a dotted name may be broken."""
    return Counter(tag for tag, _ in page.elements if tag != "wbr")


def test_the_policy_allows_this_style_and_this_script_and_nothing_else():
    metas = encoder_page().with_attribute("http-equiv")
    policy = dict(part.strip().split(" ", 1) for part in metas[0]["content"].split(";"))
    hashes = {
        tag: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for tag, attributes, text in encoder_page().raw
        if "type" not in attributes
    }
    assert [meta["http-equiv"] for meta in metas] == ["Content-Security-Policy"]
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": hashes["style"],
        "script-src": hashes["script"],
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_policy_stands_before_everything_that_it_governs():
    tags = [tag for tag, _ in encoder_page().elements]
    assert tags.index("meta") < min(tags.index("style"), tags.index("link"), tags.index("script"))
    assert encoder_page().elements[3][1]["http-equiv"] == "Content-Security-Policy"


def test_nothing_is_fetched_and_no_element_has_a_handler_or_a_style_of_its_own():
    for tag, attributes in encoder_page().elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "foreignobject")
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            assert name not in FETCHES or value.startswith(("#", "data:")), (tag, name, value)
    style = next(text for tag, _, text in encoder_page().raw if tag == "style")
    assert "url(" not in style and "@import" not in style


def test_the_script_makes_no_markup_out_of_text():
    script = next(text for tag, attributes, text in encoder_page().raw if tag == "script" and not attributes)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp", script
    )


def test_every_section_that_the_navigation_names_is_there():
    ids = [attributes["id"] for attributes in encoder_page().with_attribute("id")]
    links = [attributes["href"] for tag, attributes in encoder_page().elements if tag == "a"]
    assert len(ids) == len(set(ids)), [name for name, count in Counter(ids).items() if count > 1]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert {"summary", "ledger", "layers", "diff", "graph", "analysis", "passes"} <= set(ids)


def test_every_layer_has_its_row_with_its_reason_and_the_float_ones_their_line_of_code():
    ledger, told = compiled_pair("encoder")[1].ledger, encoder_page().text
    rows = [attributes for tag, attributes in encoder_page().elements if tag == "tr" and "data-kind" in attributes]
    assert len(rows) == len(ledger.layers)
    assert all(short(row.reason, 600) in told for row in ledger.layers)
    assert (
        sum("data-float" in row for row in rows) == sum(row.code in ("FXQ207", "FXQ208") for row in ledger.layers) > 0
    )
    assert "tests/support/models/encoder.py:" in told


def test_a_code_in_the_ledger_folds_out_its_page():
    folded = {
        attributes["data-code"]
        for tag, attributes in encoder_page().elements
        if tag == "details" and "data-code" in attributes
    }
    ids = {attributes["id"] for attributes in encoder_page().with_attribute("id")}
    assert folded == {"FXQ207", "FXQ208"} <= ids
    assert "An op has no quantized kernel" in encoder_page().text


def test_the_diff_of_each_pair_of_stages_has_every_entry_that_changed():
    model = compiled_pair("encoder")[1]
    found = re.findall(
        r'<details class="pair" data-from="(\w+)" data-to="(\w+)"(.*?)</details>', encoder_report(), re.DOTALL
    )
    assert len(found) == 15
    for before, after, part in found:
        diff = model.diff(before, after)
        entries = [entry for entry in diff if entry.change is not Change.UNCHANGED]
        assert part.count('<tr class="c-') == len(entries) + len(diff.rewires), (before, after)


def test_each_measured_layer_has_a_row_a_histogram_and_its_numbers_for_the_panel():
    page = encoder_page()
    data = next(json.loads(text) for tag, attributes, text in page.raw if attributes.get("id") == "layer-data")
    histograms = [
        attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("class") == "histogram"
    ]
    assert len(data) == len(histograms) > 30
    assert {layer["module"] for layer in data} <= {
        row.module or row.site for row in compiled_pair("encoder")[1].ledger.layers
    }


def test_a_model_that_is_gone_leaves_a_reason_in_place_of_the_measurements():
    model = compiled(MODELS["mlp"])  # the float model is not kept
    gc.collect()
    page = Page.of(render_report(model, draw=draw))
    assert "Nothing was measured. FXQ313" in page.text
    assert not [attributes for tag, attributes, _ in page.raw if attributes.get("id") == "layer-data"]


def test_a_model_that_is_still_calibrating_has_a_report_too():
    model = fxquant.compile(MODELS["mlp"].make(), "int8", example_inputs=MODELS["mlp"].inputs())
    assert "Still calibrating" in Page.of(render_report(model, draw=draw)).text


def test_without_a_renderer_the_page_keeps_the_dot_text_and_says_what_to_install():
    page = Page.of(render_report(compiled_pair("mlp")[1], draw=draw_nothing))
    assert "FXQ701 no graphviz is here" in page.text and "apt-get install graphviz" in page.text
    assert Drawn().dot in page.text
    assert not [attributes for attributes in page.with_attribute("class") if attributes["class"] == "canvas"]


@pytest.mark.parametrize(
    "text", ["", "no xml", "<svg", "<html><body/></html>", "<!DOCTYPE x [<!ENTITY a 'b'>]><svg>&c;</svg>"]
)
def test_a_renderer_that_gives_no_svg_leaves_a_reason(text):
    page = Page.of(render_report(compiled_pair("mlp")[1], draw=lambda subject, **_: Drawn(text)))
    assert "The renderer gave no readable SVG" in page.text


def test_an_error_before_the_dot_text_is_told_as_well():
    def fails(subject: object, **_: object) -> Drawn:
        raise FxQuantError("FXQ703", "50,000 nodes are too many")

    assert "FXQ703 50,000 nodes are too many" in Page.of(render_report(compiled_pair("mlp")[1], draw=fails)).text


def test_a_picture_that_would_swell_the_file_is_left_out():
    large = Drawn("<svg xmlns='http://www.w3.org/2000/svg'>" + "<g/>" * 500_000 + "</svg>")
    text = render_report(compiled_pair("mlp")[1], draw=lambda subject, **_: large)
    assert "left out, so that this file stays small" in text and len(text) < 500_000


@given(st.text(st.characters(exclude_characters="\n")).filter(short))  # the analysis is cut at line ends
@example(NASTY[0])
@example(NASTY[1])
@example(NASTY[2])
@example(NASTY[3])
@example(NASTY[4])
@example("🦄\u2028\u2029\u202e")
@example("lone \ud800 surrogate")
@example("layer" * 200_000)
def test_whatever_things_are_called_the_page_has_the_same_elements_and_the_name_as_text(name):
    page = Page.of(render_report(called(name), draw=draw))
    assert elements_of(page) == shape_of_a_harmless_page()
    shown = short(name).replace("\x00", "\ufffd")
    assert shown in page.text.replace("\x00", "\ufffd")


def test_a_name_of_a_million_characters_makes_no_large_page():
    assert len(render_report(called("m" * 1_000_000), draw=draw)) < 100_000


def test_module_names_that_are_markup_are_compiled_measured_and_shown(tmp_path):
    from torch import nn

    model = nn.Sequential()
    for index, name in enumerate(("<script>alert(1)</script>", "<b onclick='x'>", "🦄")):
        model.add_module(name, nn.Linear(8, 8).eval() if index < 2 else nn.ReLU())
    model.eval()
    result = fxquant.compile(model, "int8", calibration_data=MODELS["mlp"].batches(2))
    page = Page.of(write_report(result, tmp_path / "r.html", draw=draw).read_text(encoding="utf-8"))
    assert "<script>alert(1)</script>" in page.text and "🦄" in page.text
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 2 and "b" not in {
        tag for tag, _ in page.elements
    }


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@example("</script><!--\u2028\u2029&")
def test_json_in_the_page_ends_no_element_and_comes_back(data):
    text = inert_json(data)
    assert not set(text) & set("<>&\u2028\u2029") and json.loads(text) == data


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "r.html").write_text("the old one")
    with pytest.raises(ZeroDivisionError):
        write_report(called("plain"), tmp_path / "r.html", draw=lambda subject, **_: 1 / 0)
    assert (tmp_path / "r.html").read_text() == "the old one"
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(called("plain"), tmp_path, draw=draw)
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]
    assert not list(tmp_path.parent.glob(f".*{tmp_path.name}"))
    assert write_report(called("plain"), tmp_path / "r.html", draw=draw).read_text().startswith("<!doctype html>")


def test_the_same_model_gives_the_same_page():
    assert render_report(compiled_pair("encoder")[1], draw=draw) == encoder_report()


def test_a_process_with_another_hash_seed_writes_the_same_bytes():
    here = render_report(settled(compiled_pair("mlp")[1]), draw=draw)
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "from support.reporting import compiled_pair, draw, settled\n"
        "from fxquant.reporting.report import render_report\n"
        "print(hashlib.sha256(render_report(settled(compiled_pair('mlp')[1]), draw=draw).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout
    assert told.strip() == hashlib.sha256(here.encode()).hexdigest()
