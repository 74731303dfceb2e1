"""Whether a target is here is read from metadata and the path; nothing is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fxquant import presence, targets
from fxquant.presence import CPP, presence_of
from fxquant.targets import EXTERNAL, NATIVE, TARGETS, native_engine, resolve


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these packages are installed, with their versions, and nothing else."""

    def pretend(**versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise presence.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(presence, "version", version)
        monkeypatch.setattr(presence, "find_spec", lambda name: object() if name in versions else None)

    return pretend


def test_a_package_of_the_version_that_is_needed_is_here(installed):
    installed(openvino="2026.4.1")
    assert presence_of([("openvino", "2025.0")]) == presence.Presence(True, "openvino 2026.4.1")


def test_a_package_that_is_not_installed_is_named(installed):
    installed(onnx="1.23.2")
    found = presence_of([("onnxruntime", "1.20"), ("onnx", "1.17"), ("onnxscript", "0.3")])
    assert found == presence.Presence(False, "onnxruntime is not installed; onnxscript is not installed")


@pytest.mark.parametrize("version", ["1.9.0", "1.19.9", "0.30", "1"])
def test_one_that_is_too_old_is_not_here_and_both_versions_are_said(installed, version):
    installed(onnxruntime=version)
    why = f"it needs onnxruntime 1.20 or newer, and {version} is installed"
    assert presence_of([("onnxruntime", "1.20")]) == presence.Presence(False, why)


@pytest.mark.parametrize("version", ["1.20", "1.20.0", "1.100", "2.0.1+cpu", "1.20.dev1"])
def test_one_that_is_as_new_is_here(installed, version):
    installed(onnxruntime=version)
    assert presence_of([("onnxruntime", "1.20")]).is_here


@pytest.mark.parametrize("text", ["", "junk", "Metadata-Version: 2.1\nName: openvino\n"])
def test_metadata_without_a_version_is_no_installation(monkeypatch, tmp_path, text):
    """What an installation leaves that was broken off."""
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino-1.dist-info").mkdir()
    (tmp_path / "openvino-1.dist-info" / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert presence_of([("openvino", "2025.0")]) == presence.Presence(False, "openvino is not installed")


def test_metadata_without_the_module_is_not_enough(installed, monkeypatch):
    installed(openvino="2026.4.1")
    monkeypatch.setattr(presence, "find_spec", lambda name: None)
    assert presence_of([("openvino", "2025.0")]).why == "openvino is not installed"


def test_a_compiler_is_looked_for_on_the_path(monkeypatch):
    monkeypatch.setattr(presence.shutil, "which", lambda name: None)
    assert presence_of([(CPP, "")]) == presence.Presence(False, "it needs a C++ compiler, and none is on the path")
    monkeypatch.setattr(presence.shutil, "which", lambda name: "/opt/c++" if name == "my-c++" else None)
    assert not presence_of([(CPP, "")]).is_here
    monkeypatch.setenv("CXX", "my-c++")
    assert presence_of([(CPP, "")]) == presence.Presence(True, "/opt/c++")


def test_a_target_that_needs_nothing_is_here():
    assert presence_of([]) == presence.Presence(True, "")


def test_asking_for_all_targets_imports_none_of_them():
    heavy = "onnx", "onnxruntime", "onnxscript", "openvino", "torch._inductor.compile_fx"
    code = f"""
import sys
from fxquant import targets
found = {{name: targets.presence(name) for name in targets.TARGETS}}
assert set(found) == set(targets.TARGETS), found
assert not [name for name in {heavy!r} if name in sys.modules], sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


# The table -----------------------------------------------------------------------------------------------------------


def test_every_target_is_native_or_not_and_says_what_it_is():
    assert set(NATIVE) | set(EXTERNAL) == set(TARGETS) and not set(NATIVE) & set(EXTERNAL)
    assert set(EXTERNAL) == {"inductor", "onnxruntime", "openvino"}
    for target in TARGETS.values():
        assert target.device == "cpu" and target.description and target.fuses
        assert target.is_native is (target.lowering == "lower-native") is not bool(target.needs)


@pytest.mark.parametrize("name", sorted(EXTERNAL))
def test_a_target_outside_torch_is_planned_for_the_native_engine_of_this_cpu(name, monkeypatch):
    monkeypatch.setattr(targets, "presence", lambda name: presence.Presence(True, f"{name} 9.9"))
    found, native = resolve(name), resolve("auto")
    assert (found.target, found.engine, found.reduce_range) == (name, native.engine, native.reduce_range)
    assert f"{name} 9.9" in found.reason and native.engine in found.reason
    assert native_engine(name) == native.engine


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_a_native_target_is_its_own_engine(name):
    assert native_engine(name) == name
    if targets.available(name):
        assert resolve(name).target == resolve(name).engine == name
