"""The table of targets, and what `auto` means on CPUs that are not this one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fxquant.errors import EngineUnavailableError, UnknownTargetError
from fxquant.targets import TARGETS, Isa, available, has_saturation_risk, isa, resolve

VNNI = Isa("x86_64", avx2=True, avx512=True, vnni=True, amx=False, bf16=False)
PLAIN = replace(VNNI, avx512=False, vnni=False)
ARM = Isa("aarch64", avx2=False, avx512=False, vnni=False, amx=False, bf16=False)


def test_every_engine_of_this_torch_is_in_the_table():
    assert set(torch.backends.quantized.supported_engines) - {"none"} <= set(TARGETS)


def test_the_facts_of_this_cpu_are_what_torch_says():
    assert isa().vnni is bool(torch.cpu._is_vnni_supported())
    assert isa().avx2 is bool(torch.cpu._is_avx2_supported())


def test_a_torch_without_the_private_functions_is_asked_for_its_public_table(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    assert isa().vnni is True


def test_a_torch_that_does_not_say_leaves_the_fact_unknown_and_the_risk_assumed(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert isa().vnni is None
    assert has_saturation_risk("onednn", replace(isa(), machine="x86_64"))


@pytest.mark.parametrize("engine", ["x86", "fbgemm", "onednn"])
def test_x86_kernels_can_saturate_only_without_vnni(engine):
    assert has_saturation_risk(engine, PLAIN)
    assert not has_saturation_risk(engine, VNNI)
    assert not has_saturation_risk(engine, ARM)


def test_qnnpack_does_not_saturate():
    assert not has_saturation_risk("qnnpack", PLAIN)


def test_auto_with_vnni_is_onednn_with_the_full_range(engines):
    engines("x86", "onednn", "fbgemm", "qnnpack")
    found = resolve("auto", VNNI)
    assert (found.engine, found.reduce_range) == ("onednn", False)
    assert "full 8-bit" in found.reason


def test_auto_without_vnni_is_x86_with_the_reduced_range_and_says_why(engines):
    engines("x86", "onednn", "fbgemm", "qnnpack")
    found = resolve("auto", PLAIN)
    assert (found.engine, found.reduce_range) == ("x86", True)
    assert "no VNNI" in found.reason and "7-bit" in found.reason


def test_auto_with_vnni_but_without_onednn_falls_back_on_x86(engines):
    engines("x86", "fbgemm")
    found = resolve("auto", VNNI)
    assert (found.engine, found.reduce_range) == ("x86", True)
    assert "no oneDNN" in found.reason


def test_auto_on_arm_is_qnnpack(engines):
    engines("qnnpack", "none")
    found = resolve("auto", ARM)
    assert (found.engine, found.reduce_range) == ("qnnpack", False)
    assert "aarch64" in found.reason


@pytest.mark.parametrize("cpu", [VNNI, PLAIN])
@pytest.mark.parametrize("name", ["x86", "onednn", "fbgemm", "qnnpack"])
def test_a_named_engine_never_gets_a_range_that_can_saturate(engines, name, cpu):
    engines("x86", "onednn", "fbgemm", "qnnpack")
    found = resolve(name, cpu)
    assert found.engine == name
    assert found.reduce_range or not has_saturation_risk(name, cpu)
    assert found.reason


@pytest.mark.parametrize("name", ["oneddn", "cuda", "", None, 8])
def test_an_unknown_target_is_fxq109_and_names_it(name):
    with pytest.raises(UnknownTargetError) as caught:
        resolve(name)
    assert caught.value.code == "FXQ109"
    assert repr(name) in caught.value.message
    assert "onednn" in caught.value.hint


def test_the_text_of_fxq109():
    with pytest.raises(UnknownTargetError) as caught:
        resolve("oneddn")
    assert str(caught.value) == "FXQ109 no target is called 'oneddn'\n  hint: did you mean 'onednn'?"


def test_the_text_of_fxq502(engines):
    engines("qnnpack")
    with pytest.raises(EngineUnavailableError) as caught:
        resolve("fbgemm")
    assert str(caught.value) == (
        "FXQ502 target 'fbgemm' is not built into this torch\n"
        "  hint: available here: qnnpack; `fxquant doctor` shows what this machine has"
    )


def test_a_torch_without_engines_is_fxq502_for_auto(engines):
    engines("none")
    with pytest.raises(EngineUnavailableError, match="no engine can run quantized layers") as caught:
        resolve("auto", PLAIN)
    assert caught.value.code == "FXQ502"
    assert "no quantized engine at all" in caught.value.hint


def test_an_engine_is_available_when_torch_was_built_with_it():
    assert all(available(name) for name in torch.backends.quantized.supported_engines)
    assert not available("cuda")


def test_resolving_leaves_the_engine_of_the_process_alone():
    before = torch.backends.quantized.engine
    resolve("auto")
    resolve("qnnpack")
    assert torch.backends.quantized.engine == before


@pytest.fixture
def engines(monkeypatch):
    """Pretend that torch was built with these engines."""

    def pretend(*names: str) -> None:
        monkeypatch.setattr("fxquant.targets.available", lambda name: name in names)

    return pretend
