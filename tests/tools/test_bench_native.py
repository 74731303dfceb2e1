"""The bench of native engines runs, and checks what the targets of the table say."""

from __future__ import annotations

import json

from click.testing import CliRunner

from fxquant.tools.bench.native import TARGETS, main
from support.compiling import ENGINES


def test_each_model_has_a_row_that_says_which_engines_were_best():
    result = CliRunner().invoke(main, ["--quick", "--models", "mobilenet_v2", "--engines", ENGINES[0], "--json"])
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.output)["checks"]
    assert row["what"].startswith("mobilenet_v2") and row["target"] == TARGETS["mobilenet_v2"]
    assert f"fxquant {ENGINES[0]} / raw {ENGINES[0]}" in row["detail"] and row["measured"] > 0
