"""Options of the benches of engines that cannot be: each is named before anything is measured, without a traceback."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fxquant.tools.bench.__main__ import main

JUNK = [
    (["native", "--engines", "nope"], "no engine called nope"),
    (["native", "--engines", ""], "no engine called nothing"),
    (["native", "--models", "nope"], "no model called nope"),
    (["native", "--rounds", "0"], "'--rounds': 0"),
    (["native", "--batches", "0"], "'--batches': 0"),
    (["native", "--batch-size", "-1"], "'--batch-size': -1"),
    (["overhead", "--targets", "nope"], "no target called nope"),
    (["overhead", "--targets", ""], "no target called nothing"),
    (["overhead", "--rounds", "0"], "'--rounds': 0"),
    (["peers", "--json", "no/such/run.json"], "'--json': there is no folder no/such"),
    (["peers", "--chart", "no/such/run.svg"], "'--chart': there is no folder no/such"),
    (["peers", "--chart", "run.txt"], "run.txt ends in neither .svg nor .png"),
]


@pytest.mark.parametrize("arguments, told", JUNK, ids=lambda part: " ".join(part) if isinstance(part, list) else "")
def test_it_is_named(arguments: list[str], told: str) -> None:
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2 and told in found.output


@pytest.mark.parametrize("content", [b"junk", b"{}", b"[]", b"\xff\xfe", b'{"about": 1}', b""])
def test_a_file_that_is_no_result_is_named(tmp_path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    found = CliRunner().invoke(main, ["peers", "--from", str(tmp_path / "run.json")])
    assert found.exit_code == 2 and "is no file that --json wrote: " in found.output
