"""How the repository is built: packages and folders agree, imports run one way, files stay small.

What is looked at is the checkout where there is one; a run against the built wheel looks at the installed files.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fxquant
import fxquant.passes
import fxquant.tools

ROOT = Path(__file__).parents[2]
LIBRARY = {
    "fxquant": Path(fxquant.__path__[0]),
    "fxquant.passes": Path(fxquant.passes.__path__[0]),
    "fxquant.tools": Path(fxquant.tools.__path__[0]),
}
MOST_LINES = 350
LONG_ON_PURPOSE: set[str] = set()  # module names; say why beside each

needs_checkout = pytest.mark.skipif(
    not (ROOT / "passes").exists(), reason="beside the built wheel there are no folders: the checkout's run has them"
)


def modules() -> dict[str, Path]:
    """Every module of the project, by its dotted name."""
    found: dict[str, Path] = {}
    for package, folder in LIBRARY.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found.setdefault(".".join((package, *(part for part in parts if part != "__init__"))), file)
    return found


MODULES = modules()


def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> set[str]:
    """Dotted names that a tree imports; `from a import b` counts as `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which package is meant"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def chains(tree: ast.AST) -> set[str]:
    """Attribute chains such as torch.ao.quantization."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def below(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(f"{package}.")}


@pytest.mark.parametrize(
    "source",
    [
        "import torch.ao.quantization",
        "from torch import ao",
        "from torch.ao.quantization import fx",
        "def late():\n    from torch.ao import nn",
        "import torch\nx = torch.ao.nn.quantized.Linear",
    ],
)
def test_every_way_to_torch_ao_is_seen(source):
    tree = ast.parse(source)
    assert below(imports(tree) | chains(tree), "torch.ao")


def test_what_only_looks_like_torch_ao_is_left_alone():
    tree = ast.parse("from fxquant.torch_ao import quiet\nimport torch\ntorch.aot")
    assert not below(imports(tree) | chains(tree), "torch.ao")


def test_the_modules_are_found():
    assert {"fxquant.errors", "fxquant.passes", "fxquant.tools.cli"} <= set(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name):
    found = imports(tree_of(name))
    assert not below(found, "passes") | below(found, "tools"), "import fxquant.passes, fxquant.tools"
    if name.startswith("fxquant.tools"):
        return
    assert not below(found, "fxquant.tools"), "only the tools know the tools"
    if not name.startswith("fxquant.passes"):
        assert not below(found, "fxquant.passes"), "the compiler names its passes by string"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"fxquant.torch_ao"}))
def test_torch_ao_has_one_door(name):
    tree = tree_of(name)
    assert not below(imports(tree) | chains(tree), "torch.ao"), "go through fxquant/torch_ao.py"


@pytest.mark.parametrize("name", sorted(below(set(MODULES), "fxquant.graphs") | below(set(MODULES), "fxquant.drawing")))
def test_graphs_and_pictures_know_no_torch(name):
    if name == "fxquant.graphs.snapping":
        return  # the one that reads torch's graphs
    assert not below(imports(tree_of(name)), "torch"), "read snapshots only"


def test_a_picture_is_drawn_without_torch():
    code = (
        "import sys; from fxquant.graphs.snapshot import GraphSnapshot; from fxquant.drawing.picture import draw;"
        "from fxquant.graphs.diffing import diff; g = GraphSnapshot(()); draw(g).dot; draw(diff(g, g)).dot;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=os.sep, check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_says_what_it_knows(name):
    assert ast.get_docstring(tree_of(name)), "the docstring says what this file knows, in two lines"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if not name.startswith("fxquant.tools")))
def test_the_library_never_prints(name):
    calls = [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_holds_one_idea(name):
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES or name in LONG_ON_PURPOSE, f"{lines} lines: split it"


def test_a_file_that_may_be_long_is_long():
    for name in LONG_ON_PURPOSE:
        assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) > MOST_LINES, f"take '{name}' off the list"


def test_importing_fxquant_does_not_import_torch():
    code = "import sys, fxquant; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=os.sep, check=False).returncode == 0


@needs_checkout
def test_the_package_list_is_the_folders():
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    folders = {
        name: str(folder.relative_to(ROOT))
        for top, path in (("fxquant", "fxquant"), ("fxquant.passes", "passes"), ("fxquant.tools", "tools"))
        for folder in [ROOT / path, *(ROOT / path).rglob("*")]
        if (folder / "__init__.py").exists()
        for name in [".".join((top, *folder.relative_to(ROOT / path).parts))]
    }
    assert setuptools["package-dir"] == folders
    assert sorted(setuptools["packages"]) == sorted(folders)


@needs_checkout
def test_every_python_file_of_the_folders_is_in_a_package():
    for top in ("fxquant", "passes", "tools"):
        for file in (ROOT / top).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.relative_to(ROOT)} would not be in the wheel"


@needs_checkout
def test_every_pinned_dependency_is_one_that_is_asked_for_or_brought_by_one():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["lint"],
    ]
    pinned = [line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    names = {requirement.split(">")[0].split("<")[0].split("=")[0].strip().lower() for requirement in asked}
    assert names <= {name.lower() for name in pinned}
