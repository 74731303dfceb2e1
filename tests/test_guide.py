"""The guide in docs/guide says what is so: the python of each page is one script, and it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs stand in the checkout, not by the wheel")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    script = tmp_path / f"{page.stem}.py"
    script.write_text(
        "".join("\n" * 2 + found[1] for found in BLOCK.finditer(text)) or "raise SystemExit('no python on this page')",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
