"""The bench of a call's overhead tells a number for each target, and holds it to 30 µs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from fxquant.tools.bench.overhead import MOST_MICROSECONDS, main
from support.engines import faithful, install


@pytest.fixture
def untraced() -> Iterator[None]:
    """Without the coverage that CI counts: it takes its time at each line of Python, which is what is measured here."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.mark.usefixtures("untraced")
def test_it_holds_a_call_of_each_target_to_30_microseconds(monkeypatch):
    install(monkeypatch, faithful())
    result = CliRunner().invoke(main, ["--rounds", "100", "--json", "--targets", "native,openvino,onnxruntime"])
    assert result.exit_code == 0, result.output
    checks = json.loads(result.output)["checks"]
    assert [check["what"] for check in checks] == ["native: overhead of a call", "openvino: overhead of a call"]
    assert all(check["target"] == MOST_MICROSECONDS and check["verdict"] == "met" for check in checks), checks
