"""The benches' own arithmetic: verdicts, paired ratios, and what they say when something is missing."""

from __future__ import annotations

import json
import math

import click
import pytest
from click.testing import CliRunner

from fxquant.comparing.timing import Timing, interleaved, interleaved_once, ratio
from fxquant.tools.bench import zoo
from fxquant.tools.bench.__main__ import BENCHES, main
from fxquant.tools.bench.report import Check, show


@pytest.mark.parametrize(
    ("bound", "measured", "is_met"),
    [
        ("at most", 1.0, True),
        ("at most", 1.01, False),
        ("at least", 1.0, True),
        ("at least", 0.99, False),
        ("at most", math.nan, False),
        ("at least", math.nan, False),
    ],
)
def test_a_verdict_follows_from_the_numbers(bound, measured, is_met):
    check = Check("speed", bound, 1.0, measured)
    assert check.is_met is is_met
    assert check.verdict == ("met" if is_met else "falls short")


def test_json_and_table_tell_the_same_verdict(capsys):
    check = Check("size", "at most", 0.3, 0.4)
    show("digits", [check], as_json=True)
    assert json.loads(capsys.readouterr().out)["checks"][0]["verdict"] == "falls short"
    show("digits", [check], as_json=False)
    assert "falls short" in capsys.readouterr().out


def test_a_ratio_pairs_the_rounds_so_that_a_slow_spell_cancels():
    found = ratio(Timing((2.0, 20.0, 2.0)), Timing((1.0, 10.0, 1.0)))
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)
    assert ratio(Timing((3.0,)), Timing((2.0,))).median == 1.5


def test_calls_take_turns_and_the_order_is_reversed_every_round():
    order: list[str] = []
    found = interleaved_once({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert all(len(timing.seconds) == 3 for timing in found.values())


def test_short_calls_are_repeated_within_a_round():
    count = 0

    def call():
        nonlocal count
        count += 1

    found = interleaved({"call": call}, rounds=2, seconds_a_round=1e-4)
    assert len(found["call"].seconds) == 2 and count > 2 and found["call"].median > 0


def test_without_a_checkout_the_zoo_says_where_it_looked(tmp_path):
    with pytest.raises(click.ClickException, match="--tests") as caught:
        zoo.load_zoo(str(tmp_path))
    assert str(tmp_path) in caught.value.message


def test_an_unknown_model_is_named_beside_the_known_ones():
    with pytest.raises(click.BadParameter, match=r"resnet81.*resnet18"):
        zoo.pick({"resnet18": None}, "resnet81")


def test_the_list_names_every_bench():
    result = CliRunner().invoke(main)
    assert result.exit_code == 0 and all(name in result.output for name in BENCHES)
