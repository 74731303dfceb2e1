"""The bench of error bounds: one row a model and preset, its numbers, and what it makes of a violated bound."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner

from fxquant.tools.bench import bounds
from support.models import FAMILIES, SIGNATURES, TROUBLE


def test_a_row_has_the_ratios_of_its_model():
    row = bounds.tightness("mlp", FAMILIES["mlp"], "int8", "x86")
    assert row.bound >= row.error > 0 and row.largest_over_largest == pytest.approx(row.bound / row.error)
    assert 1 <= row.median_ratio <= row.max_ratio and 0.5 < row.estimate_ratio < 2
    assert (row.violations, row.unbounded, row.unexplained) == (0, 0, 0)


def test_weights_alone_are_computed_and_not_bounded():
    row = bounds.tightness("keyword_only", SIGNATURES["keyword_only"], "int8-weight-only", "x86")
    assert row.largest_over_largest == pytest.approx(1.0, abs=1e-3)


def test_what_has_no_error_has_no_ratio():
    row = bounds.tightness("norm_after_add", TROUBLE["norm_after_add"], "float16", "x86")
    assert row.error == row.bound == 0.0 and math.isnan(row.median_ratio) and math.isnan(row.estimate_ratio)


def test_table_and_json_have_the_same_rows():
    options = ["--models", "mlp,inplace_add", "--presets", "int8"]
    told = CliRunner().invoke(bounds.main, options, catch_exceptions=False)
    assert told.exit_code == 0 and "inplace_add" in told.output and "int8: median ratio" in told.output
    data = json.loads(CliRunner().invoke(bounds.main, [*options, "--json"]).output)
    assert [row["model"] for row in data["rows"]] == ["mlp", "inplace_add"]


def test_a_violated_bound_fails_the_bench(monkeypatch):
    row = bounds.tightness("mlp", FAMILIES["mlp"], "int8", "x86")
    monkeypatch.setattr(bounds, "tightness", lambda *_: replace(row, violations=3))
    result = CliRunner().invoke(bounds.main, ["--models", "mlp", "--presets", "int8"])
    assert result.exit_code == 1 and "3 violated" in result.output.replace("\n", "")
