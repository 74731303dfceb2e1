"""README.md and CONTRIBUTING.md say what is so: their code runs, their commands exist, their table is the registry.

The python blocks of a document are one script, run from top to bottom as a reader would, warnings of torch included.
Install commands and the demo are `.ci/run`'s to run: here they are only held to be the ones that it runs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from fxquant import registry

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_BY_CI = ("pip install", "fxquant demo", "pytest", ".ci/run")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """(line where it starts, source) of each fenced block in a language."""
    return [(text.count("\n", 0, found.start(2)), found[2]) for found in BLOCK.finditer(text) if found[1] == language]


def as_script(text: str) -> str:
    """The python blocks of a document as one script, each line at its own line number."""
    script = ""
    for line, source in blocks(text, "python"):
        script += "\n" * (line - script.count("\n")) + source
    return script


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section '{title}'"
    return found[1]


def commands(text: str) -> list[str]:
    lines = [line for _, source in blocks(text, "bash") for line in source.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_python_of_a_document_runs_from_top_to_bottom(document, tmp_path):
    script = tmp_path / f"{Path(document).stem}.py"
    script.write_text(as_script(text_of(document)), encoding="utf-8")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if document == "CONTRIBUTING.md":  # its reader writes a test, and has what tests have
        environment["PYTHONPATH"] = str(ROOT / "tests")
    found = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    told = re.findall(r'\.save\("([^"]+)"\)', script.read_text(encoding="utf-8"))
    left = {file.name for file in tmp_path.iterdir()} - {script.name, *told}
    assert not left, "the code of a document leaves files behind"


def test_the_property_test_of_the_readme_is_one(tmp_path):
    """As its reader would have it: in a file of tests, run by pytest, whose summary says what was tried."""
    (tmp_path / "test_mine.py").write_text(as_script(text_of("README.md")), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", "test_mine.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0 and "1 passed" in found.stdout, found.stdout
    assert re.search(r"test_the_classifier_survives_int8: [\d,]+ inputs held, SQNR at least", found.stdout)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_has_python_and_commands(document):
    assert blocks(text_of(document), "python") and commands(text_of(document))


def own_commands() -> list[str]:
    """What the documents tell the reader to type, less what `.ci/run` does."""
    told = {line for name in DOCUMENTS for line in commands(text_of(name))}
    return sorted(line for line in told if not line.startswith(RUN_BY_CI))


@pytest.mark.parametrize("command", own_commands())
def test_a_command_of_a_document_works(command, tmp_path):
    program, *arguments = shlex.split(command, comments=True)
    assert program == "fxquant", f"neither .ci/run nor this test runs {command!r}"
    found = subprocess.run([sys.executable, "-m", program, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == (1 if arguments[0] == "diff" else 0), found.stderr  # diff: the graphs differ
    assert found.stdout
    written = [word for flag, word in pairwise(arguments) if flag in ("-o", "--report")]
    assert [file.name for file in tmp_path.iterdir()] == written


def test_the_two_commands_are_the_two_commands():
    assert commands(section(text_of("README.md"), "Two commands")) == [
        'pip install -c constraints.txt -e ".[demo]" && fxquant demo',
        'pip install -c constraints.txt -e ".[test]" && pytest',
    ]


@pytest.mark.skipif(not (ROOT / ".ci" / "run").exists(), reason="no .ci folder beside the wheel: the checkout has it")
def test_ci_runs_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    test_command = commands(section(text_of("README.md"), "Two commands"))[1]
    assert f"test_command='{test_command}'" in script
    assert "\nfxquant demo\n" in script


def test_the_quickstart_is_at_most_15_lines():
    ((_, source),) = blocks(section(text_of("README.md"), "Quickstart"), "python")
    assert len(source.strip().splitlines()) <= 15


def test_the_table_of_passes_is_the_registry():
    table = [f"| `{name}` | {first_line(name)} |" for name in registry.BUILT_IN]
    shown = [line for line in section(text_of("README.md"), "Passes").splitlines() if line.startswith("| `")]
    assert shown == table, "\n".join(["the table should be", *table])


def first_line(name: str) -> str:
    return (registry.find(name).__doc__ or "").strip().partition("\n")[0].replace("|", "\\|")


def test_the_readme_has_its_sections_in_order():
    titles = re.findall(r"^## (.*)$", text_of("README.md"), re.MULTILINE)
    expected = [
        "Two commands",
        "Quickstart",
        "Passes",
        "The ledger",
        "See it",
        "Trust it",
        "Save and load",
        "Limits",
        "Write a pass",
    ]
    assert [title for title in titles if title in expected] == expected


@pytest.mark.skipif(not (ROOT / "LICENSE").exists(), reason="beside the wheel there is nothing to link to")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_files_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text_of(document))
    assert not [link for link in links if not (ROOT / link).exists()]


def test_blocks_are_found_with_their_lines():
    text = "a\n```python\nx = 1\n```\n\n```bash\nls\n```\n```python\ny = x\n```\n"
    assert blocks(text, "python") == [(2, "x = 1\n"), (9, "y = x\n")]
    assert as_script(text).splitlines()[2] == "x = 1" and as_script(text).splitlines()[9] == "y = x"
    assert commands(text) == ["ls"]
