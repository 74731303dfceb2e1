"""The bench of QAT: the points it wins back are the issue's number, and both sides of a step are timed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fxquant.tools.bench import qat
from fxquant.tools.bench.report import Check

pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra 'demo')")


def test_qat_with_distillation_wins_back_most_of_what_four_bits_lost():
    check = qat._won_back(1)
    assert check.is_met, check.detail
    assert "6.1 points lost" in check.detail  # there was something to win


def test_a_step_of_both_sides_is_timed():
    models = qat._models(None, full=False)
    assert list(models) == ["digits Cnn", "ResNet-18"]
    check = qat._step("digits Cnn", *models["digits Cnn"], rounds=1)
    assert 0.1 < check.measured < 10 and "raw" in check.detail


@pytest.mark.parametrize(("measured", "status"), [(0.9, 0), (0.5, 1)])
def test_a_check_that_falls_short_fails_the_bench(monkeypatch, measured, status):
    monkeypatch.setattr(qat, "_won_back", lambda seeds: Check("won back", "at least", 0.8, measured))
    monkeypatch.setattr(qat, "_models", lambda tests, full: {})
    result = CliRunner().invoke(qat.main, ["--quick", "--json"], catch_exceptions=False)
    assert result.exit_code == status
    assert json.loads(result.output)["checks"][0]["verdict"] == ("met" if status == 0 else "falls short")
