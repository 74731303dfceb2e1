"""The parts of the report: how numbers are said, what charts show, and what is kept of a renderer's SVG."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fxquant.measuring import LayerMeasure
from fxquant.program import Stage
from fxquant.reporting import charts
from fxquant.reporting.facts import Facts, verdict
from fxquant.reporting.inlining import inline_svg
from fxquant.reporting.kinds import Kind, kind_of
from fxquant.reporting.layer_cards import cards_of, overview, worst
from fxquant.reporting.wording import decibels, duration, number, quantity, share, short, size, sort_key

LAYER = LayerMeasure("a", "body.a", "Linear", 31.26, 40.0, -1.0, 3.0, (1, 0, 4, 9), -2.0, 2.0, 0.25)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (decibels(31.26), "31.3 dB"),
        (decibels(-3.0), "−3.0 dB"),
        (decibels(math.inf), "∞ dB"),
        (decibels(-math.inf), "−∞ dB"),
        (decibels(math.nan), "–"),
        (decibels(None), "–"),
        (size(999), "999 B"),
        (size(97_800_000), "97.8 MB"),
        (size(999_900), "1 MB"),
        (quantity(25_557_032), "25.6 M"),
        (quantity(12), "12"),
        (duration(1.254), "1.25 s"),
        (duration(0.5226), "523 ms"),
        (duration(0.000084), "84 µs"),
        (number(-0.12345), "−0.1235"),
        (share(0.0), "0 %"),
        (share(0.00001), "< 0.01 %"),
        (share(0.25), "25.00 %"),
        (sort_key(math.nan), ""),
        (sort_key(math.inf), "1e+308"),
        (sort_key(0.5), "0.5"),
    ],
)
def test_a_number_is_said_in_few_digits_with_its_unit(said, expected):
    assert said == expected


@given(st.text(), st.integers(20, 300))
def test_a_text_is_cut_to_its_length_on_one_line(text, most):
    cut = short(text, most)
    assert len(cut) <= most and "\n" not in cut
    assert cut == " ".join(text.split()) or "…" in cut or len(text) > 4 * most


@pytest.mark.parametrize(
    ("effective", "kind"),
    [
        ("int8", Kind.INT8),
        ("int8 weights", Kind.INT8_WEIGHTS),
        ("float16 weights", Kind.FLOAT16_WEIGHTS),
        ("int4 weights", Kind.NARROW_WEIGHTS),
        ("bfloat16 weights (12 parts), float32 (12 parts)", Kind.NARROW_WEIGHTS),
        ("simulated 4-bit quint8 × qint8", Kind.SIMULATED),
        ("float32", Kind.FLOAT),
        ("int8 (q_proj, k_proj), float32 (attention)", Kind.MIXED),
        ("folded into conv1", Kind.ABSORBED),
        ("fused into conv1", Kind.ABSORBED),
        ("removed", Kind.ABSORBED),
        ("", Kind.OPEN),
    ],
)
def test_each_outcome_of_the_ledger_has_its_kind(effective, kind):
    assert kind_of(effective) is kind


def test_a_size_is_neither_quantized_nor_float():
    assert kind_of("float32", gives_tensor=False) is Kind.PLAIN


def test_the_histogram_stands_over_its_values_and_the_code_range_is_marked():
    drawn = ElementTree.fromstring(cards_of((LAYER,))[0].histogram)
    held, bins, *edges = drawn  # the width of 1000 stands for −2 to 3
    assert (held.get("x"), held.get("width")) == ("0", "800")
    assert [edge.get("d") for edge in edges] == ["M0 0V100", "M800 0V100"]
    assert bins.get("d").startswith("M200 100V") and bins.get("d").count("h200") == 4
    heights = [100 - float(top) for top in re.findall(r"V([\d.]+)h", bins.get("d"))]
    assert heights == pytest.approx([32, 0, 64, 96])  # square roots of 1, 0, 4 and 9


def test_a_float_layer_has_a_histogram_without_a_code_range():
    card = cards_of((replace(LAYER, quant_low=None, quant_high=None),))[0]
    assert (card.held, card.clipped) == ("float", "–") and "held" not in card.histogram


@given(*(st.floats(width=32) for _ in range(6)), st.lists(st.integers(0, 2**40), max_size=64))
@example(0.0, 0.0, *[4503600164241408.0] * 4, [])  # a span of one value, where one half more is no more
def test_any_measurement_can_be_drawn(sqnr, own, low, high, left, right, counts):
    layer = replace(LAYER, sqnr_db=sqnr, own_sqnr_db=own, low=low, high=high, quant_low=left, quant_high=right)
    layers = (replace(layer, histogram=tuple(counts)), LAYER)
    card = cards_of(layers)[0]
    for drawn in (card.histogram, card.bar, card.own_bar, overview(layers)):
        ElementTree.fromstring(drawn)
        assert not re.search(r"nan|inf", re.sub(r"<title>.*?</title>", "", drawn))


def test_the_layer_to_look_at_first_is_the_one_that_adds_most_noise():
    layers = tuple(replace(LAYER, own_sqnr_db=own) for own in (math.nan, 30.0, 12.0, math.inf))
    assert worst(layers) == 2 and worst(()) == 0


def test_the_stacked_bar_is_as_wide_as_its_parts_together():
    rects = ElementTree.fromstring(charts.stacked([("a", 1, "one"), ("b", 3, "three")])).findall("rect")
    assert [(rect.get("x"), rect.get("width")) for rect in rects] == [("0", "250"), ("250", "750")]


def test_of_a_foreign_svg_only_drawing_is_kept():
    kept = inline_svg(
        "<?xml version='1.0'?><!-- c --><svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' "
        "onload='alert(1)' style='color:red' viewBox='0 0 9 9'><script>alert(2)</script><style>*{}</style>"
        "<a xlink:href='javascript:alert(3)'><g id='n' onclick='alert(4)'><text fill='url(#paint)'>a &lt;b&gt;</text></g></a>"
        "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'/></foreignObject><image xlink:href='http://x/y.png'/>"
        "<rect fill='url(http://x/y)' width='1'/></svg>",
        "p",
    )
    assert kept == (
        '<svg viewBox="0 0 9 9"><g id="p-n"><text fill="url(#p-paint)">a &lt;b&gt;</text></g><rect width="1"></rect></svg>'
    )


FACTS = Facts(((Kind.INT8, 3), (Kind.FLOAT16_WEIGHTS, 1)), 4000, 1000, 1000, 10**6, 999_999, "8×3", 0.1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "3 of 4 layers run in int8 on x86, 1 with float16 weights, > 99.9 % of the multiplications among them, weights 4.0× smaller."),
        ({"int8_macs": 1}, "3 of 4 layers run in int8 on x86, 1 with float16 weights, < 0.1 % of the multiplications among them, weights 4.0× smaller."),
        ({"int8_macs": 250_000, "compiled_bytes": 8000}, "3 of 4 layers run in int8 on x86, 1 with float16 weights, 25 % of the multiplications among them, weights 2.0× larger."),
        ({"macs": 0, "float_bytes": 0}, "3 of 4 layers run in int8 on x86, 1 with float16 weights."),
    ],
)  # fmt: skip
def test_the_verdict_claims_what_is_known_and_never_rounds_to_all_or_nothing(changes, expected):
    compiled = SimpleNamespace(stage=Stage.LOWERED, target="x86")
    assert verdict(replace(FACTS, **changes), compiled, None) == expected


def test_text_between_the_parts_of_a_foreign_svg_is_kept_and_escaped_and_what_is_no_svg_goes():
    kept = inline_svg(
        "<svg xmlns='http://www.w3.org/2000/svg'><text>a<tspan>b</tspan>&lt;c</text><!-- d --><?e f?>"
        "<g xmlns='urn:x'><text>g</text></g></svg>",
        "p",
    )
    assert kept == "<svg><text>a<tspan>b</tspan>&lt;c</text></svg>"
