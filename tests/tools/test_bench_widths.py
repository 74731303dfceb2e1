"""The bench of number formats runs on the tests' small model, and holds each saved size and latency to its target."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from fxquant.tools.bench.widths import TARGETS, main


def test_it_tells_the_size_and_the_latency_of_each_format():
    tests = str(Path(__file__).parents[1])
    result = CliRunner().invoke(main, ["--quick", "--rounds", "1", "--json", "--tests", tests])
    assert result.exit_code == 0, result.output
    checks = {check["what"]: check for check in json.loads(result.output)["checks"]}
    for preset, (size, latency) in TARGETS.items():
        assert checks[f"{preset}: saved bytes / float state"]["target"] == size
        assert checks[f"{preset}: latency / float32"]["target"] == latency
    shares = {preset: checks[f"{preset}: saved bytes / float state"]["measured"] for preset in TARGETS}
    assert shares["int4-weight-only"] < shares["int8-weight-only"] < shares["bfloat16"]
