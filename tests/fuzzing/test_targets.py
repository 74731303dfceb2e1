"""Each fuzzing target runs for two seconds and finds nothing, where atheris is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="pip install -e '.[fuzz]'; there are no wheels for every system")


@pytest.mark.parametrize("target", ["recipes", "snapshots", "artifacts"])
def test_two_seconds_find_nothing(target, tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--seconds", "2", "--target", target]
    done = subprocess.run([*command, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "number_of_executed_units" in done.stdout + done.stderr and "nothing was found" in done.stdout
