"""`fxquant doctor`: what it finds here, and what it says on machines that are worse."""

from __future__ import annotations

import builtins
import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

from fxquant import targets
from fxquant.presence import Presence
from fxquant.tools import doctor
from fxquant.tools.cli import run
from fxquant.tools.doctor import TORCH_RANGE, findings, is_healthy, torch_finding
from support.engines import show

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def told(name: str) -> doctor.Finding:
    (found,) = (finding for finding in findings() if finding.name == name)
    return found


def test_this_machine_is_healthy_and_the_status_says_so(capsys):
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert torch.__version__ in shown
    assert all(name in shown for name in ("x86", "onednn", "fbgemm", "qnnpack", "vnni", "amx", "bf16", "renderer"))


def test_json_has_every_finding(capsys):
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert [found["name"] for found in report["findings"]] == [found.name for found in findings()]


def test_it_says_what_auto_resolves_to_and_why():
    resolution = targets.resolve("auto")
    assert (told('target="auto"').value, told('target="auto"').advice) == (resolution.engine, resolution.reason)


@pytest.mark.parametrize(
    ("installed", "verdict"),
    [
        ("2.11.0", "ok"),
        ("2.13.0+cpu", "ok"),
        ("2.15.1", "ok"),
        ("2.15.0a0+git123", "ok"),
        ("2.10.0", "fail"),
        ("2.16.0", "fail"),
        ("3.0.0", "fail"),
        ("1.13.1", "fail"),
        ("unknown", "fail"),
    ],
)
def test_a_torch_outside_the_range_fails(installed, verdict):
    found = torch_finding(installed)
    assert found.verdict == verdict
    assert found.value == installed
    assert (verdict == "ok") or ("torch>=2.11,<2.16" in found.advice)


@pytest.mark.skipif(not PROJECT.exists(), reason="the project file is not part of the wheel: the checkout's run has it")
def test_the_range_of_torch_is_the_one_that_the_package_asks_for():
    asked = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    (torch_asked,) = (requirement for requirement in asked if re.match(r"torch\b", requirement))
    lowest, above = (".".join(map(str, bound)) for bound in TORCH_RANGE)
    assert torch_asked == f"torch>={lowest},<{above}"


def test_a_torch_that_does_not_import_is_a_finding_and_status_1(monkeypatch, capsys):
    really_import = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise OSError("libgomp.so.1: cannot open shared object file")
        return really_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert run(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (torch_row,) = (found for found in report["findings"] if found["name"] == "torch")
    assert "libgomp" in torch_row["value"] and torch_row["verdict"] == "fail"


def test_no_engine_at_all_is_status_1(monkeypatch, capsys):
    monkeypatch.setattr(targets, "available", lambda name: False)
    assert run(["doctor"]) == 1
    assert "no engine can run quantized layers" in capsys.readouterr().out


def test_a_missing_engine_is_a_note_and_no_failure(monkeypatch):
    monkeypatch.setattr(targets, "available", lambda name: name == "x86")
    assert told("qnnpack").verdict == "note"
    assert is_healthy(findings())


def test_a_cpu_without_vnni_has_engines_at_risk(monkeypatch):
    cpu = targets.Isa("x86_64", avx2=True, avx512=False, vnni=False, amx=False, bf16=False)
    monkeypatch.setattr(targets, "isa", lambda: cpu)
    assert told("saturation risk").value == "x86, onednn, fbgemm"
    assert "no VNNI" in told("saturation risk").advice


def test_a_cpu_with_vnni_has_none_at_risk(monkeypatch):
    cpu = targets.Isa("x86_64", avx2=True, avx512=True, vnni=True, amx=False, bf16=None)
    monkeypatch.setattr(targets, "isa", lambda: cpu)
    assert told("saturation risk").value == "none"
    assert told("bf16").value == "unknown"


def test_without_a_renderer_the_doctor_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(doctor, "_draws_with_pygraphviz", lambda: "")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert (told("renderer").value, told("renderer").verdict) == ("none", "note")
    assert "pip install pygraphviz" in told("renderer").advice


def test_a_system_dot_is_a_renderer(monkeypatch):
    monkeypatch.setattr(doctor, "_draws_with_pygraphviz", lambda: "")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/dot")
    assert told("renderer").value == "dot (/usr/bin/dot)"


def test_extras_that_are_not_there_are_notes(monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", ("numpy", "no-such-package"))
    assert told("numpy").verdict == "ok"
    assert told("no-such-package").verdict == "note"


def test_targets_outside_torch_are_here_or_not_and_why_with_their_extra(monkeypatch):
    here = {"openvino": Presence(True, "openvino 2026.4.1"), "onnxruntime": Presence(False, "onnx is not installed")}
    show(monkeypatch, here)
    assert (told("openvino").value, told("openvino").verdict) == ("available (openvino 2026.4.1)", "ok")
    assert (told("onnxruntime").value, told("onnxruntime").verdict) == ("onnx is not installed", "note")
    assert "pip install 'fxquant[onnxruntime]'" in told("onnxruntime").advice
    assert told("inductor").verdict == "note" and "pip install" not in told("inductor").advice
    assert is_healthy(findings())


def test_it_says_who_races(monkeypatch):
    show(monkeypatch, {"openvino": Presence(True, "openvino 2026.4.1")})
    assert told('race of "auto"').value == "none: torch's own engine runs it"  # what tests run under
    monkeypatch.delenv("FXQUANT_AUTO_TARGETS")
    assert told('race of "auto"').value == "torch's own and openvino"
    assert "FXQUANT_AUTO_TARGETS" in told('race of "auto"').advice
    monkeypatch.setenv("FXQUANT_AUTO_TARGETS", "opnevino")
    assert told('race of "auto"').verdict == "fail" and "openvino" in told('race of "auto"').advice
